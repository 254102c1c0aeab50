"""Losses on labels, against loops (1e-12)."""

import pytest
import torch

from saccade.losses.supervised import CrossEntropy, SupervisedHinge, supervised_hinge


def scores(n=6, classes=4):
    g = torch.Generator().manual_seed(2)
    return (
        (torch.randn(n, classes, generator=g, dtype=torch.float64) * 1.5).requires_grad_(),
        torch.randint(classes, (n,), generator=g),
    )


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_supervised_hinge_and_its_local_errors(mu):
    h, labels = scores()
    loss, errors = 0.0, torch.zeros_like(h)
    for s in range(6):
        for c in range(4):
            if c == labels[s]:
                loss += max(0.0, 1 - h[s, c].item())
                errors[s, c] = -1.0 if h[s, c] < 1 else 0.0
            else:
                loss += mu * max(0.0, 1 + h[s, c].item())
                errors[s, c] = mu if h[s, c] > -1 else 0.0
    found = SupervisedHinge(mu=mu)(h, labels)
    found.backward()
    assert found.item() == pytest.approx(loss / 6, abs=1e-12)
    torch.testing.assert_close(h.grad, errors / 6, atol=1e-12, rtol=0)


def test_cross_entropy_is_the_mean_surprise_at_the_label():
    h, labels = scores()
    p = h.exp() / h.exp().sum(1, keepdim=True)
    expected = sum(-p[s, labels[s]].log() for s in range(6)) / 6
    torch.testing.assert_close(CrossEntropy()(h, labels), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", [CrossEntropy(), supervised_hinge])
def test_bfloat16_is_summed_in_float32(loss):
    h, labels = scores()
    h = h.detach().bfloat16()
    assert loss(h, labels).dtype == torch.float32
    torch.testing.assert_close(loss(h, labels).double(), loss(h.double(), labels), rtol=1e-5, atol=0)
