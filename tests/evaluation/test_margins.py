"""Margins by the rule, and the distances that they are made of, against the site's own embeddings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import saccade
from saccade.cli import main
from saccade.data import load
from saccade.errors import InputError
from saccade.evaluation.margins import margins
from saccade.report.margins import table
from saccade.training.model import build, make_batch


def test_distances_are_those_of_the_first_batch(tiny):
    images = load(tiny.data)
    [found] = margins(tiny, images, beyond=0.25, within=0.8)
    model = build(tiny, images)
    [site] = model.sites
    with torch.no_grad():
        a, b = site(make_batch(model, images, 0)[0].x)[1].chunk(2)
    slow = [[float((one - other).abs().sum()) for other in b] for one in a]
    assert found.positives.numpy() == pytest.approx(np.diagonal(slow), rel=1e-5)
    off = np.asarray(slow)[~np.eye(len(slow), dtype=bool)]
    assert np.sort(found.negatives.numpy()) == pytest.approx(np.sort(off), rel=1e-5)
    assert found.m1 == pytest.approx(np.quantile(np.diagonal(slow), 0.75), rel=1e-5)
    assert found.m2 == pytest.approx(max(np.quantile(off, 0.8), 2 * found.m1), rel=1e-5)
    assert found.beyond(found.m1) == 25.0 and found.within(float("inf")) == 100.0


def test_one_a_site_and_more_batches(tiny):
    images = load(tiny.data)
    found = saccade.margins(replace(tiny, schedule="gll"), images=images, batches=2)
    assert [len(one.positives) for one in found] == [40, 40]
    assert not any(first.equal(second) for first, second in (one.positives.chunk(2) for one in found))
    assert all(one.m2 >= 2 * one.m1 > 0 for one in found)


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"loss": "cross-entropy"}, {}, "no pairs of views"),
        ({}, {"beyond": 1.0}, "beyond is 1.0; it takes a share between 0 and 1"),
        ({}, {"batches": 0}, "batches is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny, changes, options, said):
    with pytest.raises(InputError, match=said):
        margins(replace(tiny, **changes), load(tiny.data), **options)


def test_command(tmp_path, capsys):
    argv = ["margins", "digits", "--batches=2", "--format=markdown", f"--figure={tmp_path / 'm.svg'}"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "of 100 positive pairs a site: emnist on digits:train, views digits" in said
    assert "positives beyond m1=1 (%)" in said and (tmp_path / "m.svg").read_text().startswith("<svg")


def test_the_table_says_what_the_own_margins_leave_beyond_and_within(tiny):
    found = margins(replace(tiny, schedule="gll"), load(tiny.data))
    made = table(found, tiny, 0.5, 0.9)
    assert made.header[-2:] == ["positives beyond m1=1 (%)", "negatives within m2=1.5 (%)"]
    for row, one in zip(made.rows, found, strict=True):
        far, near = (one.positives > 1).double().mean(), (one.negatives < 1.5).double().mean()
        assert row[3:] == [one.m1, one.m2, 100 * float(far), 100 * float(near)]
