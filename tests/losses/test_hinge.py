"""The contrastive hinge loss against loops over s, t and i, written from Eq. 2 to 7. float64, tolerance 1e-12."""

import pytest
import torch

from saccade.errors import InputError
from saccade.losses.hinge import ContrastiveHinge, contrastive_hinge

M1, M2 = 1.0, 3.0


def embeddings(n=7, width=4, scale=0.6, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(2, n, width, generator=g, dtype=torch.float64) * scale
    return z[0].clone().requires_grad_(), (z[0] + 0.7 * z[1]).clone().requires_grad_()


def chosen(n, negatives, reading):
    """(s, t, weight) of every negative pair, by definition."""
    if negatives == "all":
        return [(s, t, 1.0) for s in range(n) for t in range(n) if t != s]
    if reading == "paper":
        return [(s, (s + o) % n, 1.0) for s in range(n) for o in range(1, negatives + 1)]
    return [(s, s + o, 1 / negatives) for s in range(n) for o in range(1, negatives) if s + o < n]


def by_hand(z_a, z_b, negatives, reading):
    """The loss (Eq. 2) and its errors at every output unit (Eq. 4 to 6), one number at a time."""
    n, width = z_a.shape
    loss, d_a, d_b = 0.0, torch.zeros_like(z_a), torch.zeros_like(z_b)
    for s in range(n):
        distance = sum(abs(float(z_a[s, i] - z_b[s, i])) for i in range(width))
        if distance > M1:
            loss += distance - M1
            for i in range(width):
                d_a[s, i] += torch.sign(z_a[s, i] - z_b[s, i])
                d_b[s, i] -= torch.sign(z_a[s, i] - z_b[s, i])
    for s, t, weight in chosen(n, negatives, reading):
        distance = sum(abs(float(z_a[s, i] - z_b[t, i])) for i in range(width))
        if distance < M2:
            loss += weight * (M2 - distance)
            for i in range(width):
                d_a[s, i] -= weight * torch.sign(z_a[s, i] - z_b[t, i])
                d_b[t, i] += weight * torch.sign(z_a[s, i] - z_b[t, i])
    return loss, d_a, d_b


CASES = [("all", "paper"), (1, "paper"), (5, "paper"), (6, "paper"), (2, "authors"), (5, "authors"), (7, "authors")]


@pytest.mark.parametrize(("negatives", "reading"), CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_errors_are_the_hand_derived_ones(negatives, reading, seed):
    z_a, z_b = embeddings(seed=seed)
    loss, d_a, d_b = by_hand(z_a.detach(), z_b.detach(), negatives, reading)
    found = contrastive_hinge(z_a, z_b, m1=M1, m2=M2, negatives=negatives, reading=reading)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert loss > 0
    torch.testing.assert_close(z_a.grad, d_a, atol=1e-12, rtol=0)
    torch.testing.assert_close(z_b.grad, d_b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("negatives", ["all", 3])
@pytest.mark.parametrize("block", [False, True])
def test_top_weights_update_is_error_times_presynaptic_activity(negatives, block):
    """Eq. 3, and Eq. 7 with the block: summed over A (unless blocked), B and the negatives."""
    g = torch.Generator().manual_seed(3)
    below_a, below_b = torch.randn(2, 7, 5, generator=g, dtype=torch.float64)
    weight = (torch.randn(4, 5, generator=g, dtype=torch.float64) * 0.4).requires_grad_()
    loss = ContrastiveHinge(m1=M1, m2=M2, negatives=negatives, block=block)
    z_a, z_b = below_a @ weight.T, below_b @ weight.T
    loss(z_a, z_b).backward()
    _, d_a, d_b = by_hand(z_a.detach(), z_b.detach(), negatives, "paper")
    update = torch.zeros_like(weight)
    for s in range(7):
        for i in range(4):
            for j in range(5):
                update[i, j] += d_b[s, i] * below_b[s, j] + (0 if block else d_a[s, i] * below_a[s, j])
    assert update.abs().max() > 0.1
    torch.testing.assert_close(weight.grad, update.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("negatives", ["all", 3])
def test_block_cuts_the_anchors_path_and_nothing_else(negatives):
    z_a, z_b = embeddings()
    free = torch.autograd.grad(ContrastiveHinge(negatives=negatives)(z_a, z_b), [z_a, z_b])
    loss = ContrastiveHinge(negatives=negatives, block=True)
    a, b = torch.autograd.grad(loss(z_a, z_b), [z_a, z_b], allow_unused=True)
    assert a is None
    assert free[0].abs().max() > 0
    torch.testing.assert_close(b, free[1], atol=0, rtol=0)
    assert (loss.gradient, ContrastiveHinge().gradient) == ("b", "ab")


def test_all_other_images_are_as_many_negatives_as_there_are():
    z_a, z_b = embeddings()
    torch.testing.assert_close(
        contrastive_hinge(z_a, z_b, negatives=6), contrastive_hinge(z_a, z_b), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(("negatives", "reading"), [("all", "paper"), (2, "paper"), (3, "authors")])
def test_gradcheck_away_from_kinks(negatives, reading):
    z_a, z_b = embeddings(n=4, seed=5)
    with torch.no_grad():
        distances = (z_a[:, None] - z_b[None]).abs()
        margins = torch.stack([(distances.sum(2) - M1).abs().min(), (distances.sum(2) - M2).abs().min()])
    assert min(margins.min(), distances.min()) > 1e-4  # no kink within reach of the finite differences
    assert torch.autograd.gradcheck(
        lambda a, b: contrastive_hinge(a, b, negatives=negatives, reading=reading), (z_a, z_b), eps=1e-6
    )


@pytest.mark.parametrize(
    ("negatives", "reading"),
    [(7, "paper"), (0, "paper"), (8, "authors"), (1, "authors"), (2.5, "paper"), (True, "paper"), ("many", "paper")],
)
def test_refuses_negatives_that_the_batch_does_not_have(negatives, reading):
    with pytest.raises(InputError, match="negatives"):
        contrastive_hinge(*embeddings(), negatives=negatives, reading=reading)


def saved_for_backward(n, width, **options):
    """How many numbers autograd keeps, counting each storage once, and the largest."""
    sizes = {}

    def pack(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    z_a, z_b = (torch.randn(n, width, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        contrastive_hinge(z_a, z_b, **options).backward()
    return sum(sizes.values()), max(sizes.values())


def test_all_negatives_never_make_the_tensor_of_all_differences():
    _, largest = saved_for_backward(64, 32)
    assert largest == 64 * 64  # of a possible 64 * 64 * 32


def test_few_negatives_cost_memory_linear_in_the_batch():
    small, _ = saved_for_backward(64, 32, negatives=5)
    large, _ = saved_for_backward(256, 32, negatives=5)
    assert large <= 4.2 * small
    assert small > 64 * 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("negatives", ["all", 3])
def test_lower_precision_inputs_are_summed_in_float32(dtype, negatives):
    z_a, z_b = (z.detach().to(dtype) for z in embeddings())
    found = contrastive_hinge(z_a, z_b, negatives=negatives)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), contrastive_hinge(z_a.double(), z_b.double(), negatives=negatives), rtol=1e-6, atol=1e-6
    )
