"""Differences over seeds against scipy's tests, Holm's correction against its definition written out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from saccade.report.paired import differences, holm


def test_interval_and_p_are_students():
    values = [0.3, 1.1, -0.2, 0.8, 0.5]
    found, expected = differences(values), ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.shown() == "+0.50 [-0.11, +1.11]"


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # only all + and all - reach 6
        ([1.0, -1.0], 4 / 4),
        ([5.0, -1.0, 1.0], 6 / 8),  # 7, 5, 5 and 3 with either sign; the sum here is 5
    ],
)
def test_sign_flips_by_hand(values, exact):
    assert differences(values).exact == exact


def test_one_pair_has_no_test():
    alone = differences([1.5])
    assert (alone.interval, alone.p, alone.exact, alone.shown()) == (None, None, None, "+1.50")


@pytest.mark.parametrize(("values", "exact"), [([2.0, 2.0], 0.5), ([0.3, 0.1 + 0.2, 0.3], 0.25), ([0.0, 0.0], 1.0)])
def test_differences_that_do_not_vary_give_no_p_by_t(values, exact):
    found = differences(values)
    assert (found.interval, found.p, found.exact) == (None, None, exact)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=7))
def test_holm_is_its_definition(p_values):
    m, known = len(p_values), sorted(p for p in p_values if p is not None)
    found = holm(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        if p is None:
            assert adjusted is None
        else:  # the largest of (m - rank) p over all p-values that are not above this one
            assert adjusted == max(min(1.0, (m - k) * known[k]) for k in range(m) if k < len(known) and known[k] <= p)
