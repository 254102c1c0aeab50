"""SimCLR's loss against Eq. 1 term by term (1e-12) and against lightly's NTXentLoss (1e-10)."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss

from saccade.losses.simclr import SimCLR, simclr


def embeddings(n=6, width=5):
    return torch.randn(2, n, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()


def by_definition(z_a, z_b, temperature):
    def sim(x, y):
        return math.exp(float(x @ y / (x.norm() * y.norm())) / temperature)

    total = 0.0
    for x, y in ((z_a, z_b), (z_b, z_a)):
        for s in range(len(x)):
            below = sum(sim(x[s], x[t]) for t in range(len(x)) if t != s) + sum(sim(x[s], y[t]) for t in range(len(x)))
            total -= math.log(sim(x[s], y[s]) / below)
    return total


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_sum_is_equation_1(temperature):
    z_a, z_b = embeddings()
    found = float(SimCLR(temperature=temperature)(z_a, z_b))
    assert found == float(simclr(z_a, z_b, temperature=temperature))
    assert found == pytest.approx(by_definition(z_a, z_b, temperature), abs=1e-12 * 12 / temperature)


def test_mean_is_lightlys_and_sum_is_two_n_times_it():
    z_a, z_b = (z.requires_grad_() for z in embeddings())
    theirs = NTXentLoss(temperature=0.1)(z_a, z_b)
    mean, total = SimCLR(reduction="mean")(z_a, z_b), SimCLR()(z_a, z_b)
    torch.testing.assert_close(mean, theirs, atol=1e-10, rtol=0)
    torch.testing.assert_close(total, 12 * theirs, atol=1e-10, rtol=0)
    expected, found = (torch.autograd.grad(loss, [z_a, z_b]) for loss in (theirs, mean))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_bfloat16_is_summed_in_float32():
    z_a, z_b = (z.bfloat16() for z in embeddings())
    found = simclr(z_a, z_b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), simclr(z_a.double(), z_b.double()), rtol=1e-5, atol=0)
