"""Each measure against values worked out by hand, in float64."""

import math

import pytest
import torch

from saccade import measures


def test_angles_worked_out_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, math.sqrt(3)], [0.0, 0.0]], dtype=torch.float64)
    assert measures.angle(a, b) == pytest.approx(60, abs=1e-12)
    assert measures.angle(a, -3 * a) == pytest.approx(180, abs=1e-12)
    assert math.isnan(measures.angle(a, 0 * a))


def test_a_small_angle_keeps_its_digits():
    tiny = 1e-9
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, tiny], dtype=torch.float64)
    assert measures.angle(a, b) == pytest.approx(math.degrees(tiny), rel=1e-9)


def test_norm_ratio():
    assert measures.norm_ratio(torch.full((2, 2), 3.0), torch.tensor([0.0, 4.0])) == 1.5
    assert measures.norm_ratio(torch.ones(1), torch.zeros(1)) == math.inf


def test_rank_me_of_known_singular_values():
    # singular values 3 and 1: p = 3/4, 1/4
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q[:, :2] for n in (5, 4))
    z = left @ torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)) @ right.T
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert measures.rank_me(z) == pytest.approx(expected, abs=1e-12)
    assert measures.rank_me(torch.ones(5, 3)) == pytest.approx(1, abs=1e-6)
    assert measures.rank_me(torch.zeros(5, 3)) == 0


@pytest.mark.parametrize("copies", [1, 20])  # fewer and more rows than columns: both ways to the eigenvalues
def test_participation_ratio_of_known_eigenvalues(copies):
    z = torch.zeros(4 * copies, 6, dtype=torch.float64)
    z[0::4, 0], z[1::4, 0], z[2::4, 1], z[3::4, 1] = 2, -2, 1, -1  # variances in the ratio 4 to 1
    assert measures.participation_ratio(z + 7) == pytest.approx((4 + 1) ** 2 / (16 + 1), abs=1e-12)
    assert measures.participation_ratio(torch.ones(4, 3)) == 0


def test_embedding_std():
    z = torch.tensor([[1.0, 0.0, 4.0], [3.0, 0.0, 4.0], [5.0, 6.0, 4.0]], dtype=torch.float64)
    assert measures.embedding_std(z) == pytest.approx((math.sqrt(8 / 3) + math.sqrt(8) + 0) / 3, abs=1e-12)


def test_pair_distances_against_loops():
    a, b = torch.randn(2, 5, 7, dtype=torch.float64)
    positives, negatives = measures.pair_distances(a, b)
    slow = [[sum(abs(x - y) for x, y in zip(p, q, strict=True)) for q in b.tolist()] for p in a.tolist()]
    expected = [slow[s][t] for s in range(5) for t in range(5) if s != t]
    torch.testing.assert_close(positives, torch.tensor([slow[s][s] for s in range(5)], dtype=torch.float64))
    torch.testing.assert_close(negatives, torch.tensor(expected, dtype=torch.float64))


def test_dead_units_counts_every_position():
    x = torch.zeros(3, 2, 2, 2)
    x[1, 0, 0, 1] = 1
    x[:, 1] = 5
    assert measures.dead_units(x) == 7 / 8
