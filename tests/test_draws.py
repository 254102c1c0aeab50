"""Draws that are shared out among threads: the same for any number of them, and what they say they are."""

import pytest
import torch

from saccade import draws


@pytest.mark.parametrize("rows", [1, 64, 65, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normal_numbers_hang_not_on_the_threads(rows, dtype):
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found[threads] = draws.normal((rows, 3, 4), 0, "noise", dtype=dtype)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1], found[2]) and torch.equal(found[1], found[5])
    assert found[1].dtype == dtype


def test_normal_numbers_are_normal_and_independent():
    x = draws.normal((256, 1000), 3, "noise", dtype=torch.float64)
    n = x.numel()
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x.abs() < 1).double().mean() - 0.682689) < 4 * (0.683 * 0.317 / n) ** 0.5
    other = draws.normal((256, 1000), 3, "other noise", dtype=torch.float64)
    for a, b in [(x[:64], x[64:128]), (x[64:128], x[192:]), (x, other)]:
        assert abs((a * b).mean()) < 4 / a.numel() ** 0.5
