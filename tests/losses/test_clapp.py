"""CLAPP on whole-image views against loops (1e-10), and the gradient's four ways."""

import pytest
import torch

from saccade.errors import InputError
from saccade.losses.clapp import CLAPP, clapp


def features(n=5, channels=3, size=(2, 4)):
    g = torch.Generator().manual_seed(4)
    f_a, f_b = torch.randn(2, n, channels, *size, generator=g, dtype=torch.float64) * 0.5
    weight = torch.randn(channels, channels, generator=g, dtype=torch.float64) * 0.6
    return f_a.requires_grad_(), f_b.requires_grad_(), weight.requires_grad_()


def by_definition(f_a, f_b, weight, negatives, reduction):
    n, channels = f_a.shape[:2]
    f_a, f_b = f_a.reshape(n, channels, -1), f_b.reshape(n, channels, -1)
    positives, others = [], []
    for s in range(n):
        near = range(n) if negatives == "all" else [s, *((s + o) % n for o in range(1, negatives + 1))]
        for t in near:
            u = sum(
                (weight[d, c] * f_a[s, c, x]) * f_b[t, d, x]
                for x in range(f_a.shape[2])
                for c in range(channels)
                for d in range(channels)
            )
            (positives if s == t else others).append((1 - u).clamp(min=0) if s == t else (1 + u).clamp(min=0))
    positives, others = torch.stack(positives), torch.stack(others)
    return positives.sum() + others.sum() if reduction == "sum" else positives.mean() + others.mean()


@pytest.mark.parametrize("negatives", ["all", 1, 4])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("size", [(2, 4), ()])
def test_is_the_definition(negatives, reduction, size):
    given = features(size=size)
    expected = by_definition(*given, negatives, reduction)
    found = clapp(*given, negatives=negatives, reduction=reduction)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, given), torch.autograd.grad(expected, given), atol=1e-10, rtol=0
    )


def test_w_is_a_1x1_convolution_of_the_anchors_features():
    f_a, f_b, weight = features()
    predicted = torch.nn.functional.conv2d(f_a, weight[:, :, None, None])
    u = torch.einsum("schw,tchw->st", predicted, f_b)
    expected = (1 - u.diagonal()).relu().sum() + (1 + u[~torch.eye(5, dtype=torch.bool)]).relu().sum()
    torch.testing.assert_close(clapp(f_a, f_b, weight), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("way", "sides", "carries"),
    [
        ("both", "ab", (True, True, True)),
        ("context_detached", "b", (False, True, True)),
        ("targets_detached", "a", (True, False, True)),
        ("fixed_weight", "ab", (True, True, False)),
    ],
)
def test_gradients_four_ways(way, sides, carries):
    f_a, f_b, weight = features()
    loss = CLAPP(gradient=way).double()
    loss.sized((3, 2, 4))
    loss.weight.data = weight.data
    assert loss.gradient == sides
    assert loss.weight.requires_grad == carries[2]
    loss(f_a, f_b).backward()
    free = torch.autograd.grad(clapp(f_a, f_b, weight), (f_a, f_b, weight))
    for found, expected, carried in zip((f_a.grad, f_b.grad, loss.weight.grad), free, carries, strict=True):
        if carried:
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        else:
            assert found is None


def test_weights_are_seeded_saved_and_drawn_as_a_1x1_convolutions():
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(CLAPP())
        made[-1].sized((64, 8, 8))
    assert torch.equal(made[0].weight, made[1].weight)
    assert not torch.equal(made[0].weight, made[2].weight)
    assert made[0].state_dict()["weight"].shape == (64, 64)
    assert 0.12 < made[0].weight.abs().max() <= 64**-0.5


def test_never_makes_the_tensor_of_all_products():
    largest = 0

    def pack(x):
        nonlocal largest
        largest = max(largest, x.untyped_storage().nbytes() // x.element_size())
        return x

    f_a, f_b, weight = (f.detach().requires_grad_() for f in features(n=32, size=(4, 4)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        clapp(f_a, f_b, weight).backward()
    assert largest <= 2 * 32 * 3 * 16  # of a possible 32 * 32 * 3 * 16


def test_refusals():
    f_a, f_b, weight = features()
    with pytest.raises(InputError, match="sized"):
        CLAPP()(f_a, f_b)
    with pytest.raises(InputError, match="negatives=5"):
        clapp(f_a, f_b, weight, negatives=5)


def test_bfloat16_features_are_read_in_float32():
    f_a, f_b, weight = (f.detach().bfloat16() for f in features())
    found = clapp(f_a, f_b, weight)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), clapp(f_a.double(), f_b.double(), weight.double()), rtol=1e-5, atol=0)
