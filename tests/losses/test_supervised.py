"""Losses on labels, against loops (1e-12)."""

import pytest
import torch

from saccade.errors import InputError
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


@pytest.mark.parametrize("loss", [CrossEntropy(), supervised_hinge])
@pytest.mark.parametrize(
    ("shape", "labels", "says"),
    [
        ((2, 4), [0, 4], "labels from 0 to 4; it takes 0 to 3"),
        ((2, 4), [-1, 3], "labels from -1 to 3; it takes 0 to 3"),
        ((2, 4), [0, 1, 2], r"shape \(2, 4\) and labels of shape \(3,\); it takes \(batch, classes\) and \(batch,\)"),
        ((2, 4, 1), [0, 1], "it takes"),
        ((0, 4), [], "of at least 1 image"),
    ],
)
def test_labels_that_do_not_fit_are_refused(loss, shape, labels, says):
    with pytest.raises(InputError, match=says):
        loss(torch.zeros(shape), torch.tensor(labels, dtype=torch.int64))
