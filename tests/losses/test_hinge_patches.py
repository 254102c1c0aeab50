"""The hinge loss on patches against loops (1e-12)."""

import pytest
import torch

from saccade.errors import InputError
from saccade.losses.hinge_patches import HingePatches, hinge_patches, pairs

N, COLUMNS, WIDTH = 3, 2, 4


def given(rows=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    grid = torch.randn(2, N, rows, COLUMNS, WIDTH, generator=g, dtype=torch.float64) * 0.6
    return grid[0].clone().requires_grad_(), grid[1].clone().requires_grad_()


def by_definition(anchors, others, negatives, m1, m2):
    rows, patches, loss = anchors.shape[1], others.flatten(0, 2), 0
    for b in range(N):
        for x in range(COLUMNS):
            number = 0
            for k in range(rows):
                for below in range(k + 2, rows):
                    loss = loss + ((anchors[b, k, x] - others[b, below, x]).abs().sum() - m1).clamp(min=0)
                    for j in negatives[b, number, x]:
                        loss = loss + (m2 - (anchors[b, k, x] - patches[j]).abs().sum()).clamp(min=0)
                    number += 1
    return loss


@pytest.mark.parametrize(("rows", "negatives"), [(7, 1), (7, 5), (3, 2)])
@pytest.mark.parametrize(("m1", "m2"), [(1.0, 3.0), (0.5, 2.0)])
def test_is_the_definition(rows, negatives, m1, m2):
    anchors, others = given(rows)
    drawn = torch.randint(N * rows * COLUMNS, (N, len(pairs(rows)), COLUMNS, negatives))
    expected = by_definition(anchors, others, drawn, m1, m2)
    found = hinge_patches(anchors, others, drawn, m1=m1, m2=m2)
    torch.testing.assert_close(found, expected, atol=1e-12 * float(expected.detach()), rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, (anchors, others)),
        torch.autograd.grad(expected, (anchors, others)),
        atol=1e-12,
        rtol=0,
    )


def test_seven_rows_have_the_papers_pairs():
    assert pairs(7).tolist() == [[k, below] for k in range(5) for below in range(k + 2, 7)]
    assert len(pairs(7)) == 15


def test_module_draws_by_seed_and_step_and_block_cuts_the_anchor():
    anchors, others = given()
    values = []
    for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0)):
        loss = HingePatches(negatives=2)
        loss.draw(seed, step)
        values.append(loss(anchors, others).item())
    assert values[0] == values[1]
    assert len(set(values)) == 3
    found = {}
    for block in (False, True):
        loss = HingePatches(block=block)
        loss.draw(0, 0)
        found[block] = torch.autograd.grad(loss(anchors, others), (anchors, others), allow_unused=True)
    assert found[True][0] is None
    assert found[False][0].abs().max() > 0
    torch.testing.assert_close(found[True][1], found[False][1], atol=0, rtol=0)


def test_refuses_a_grid_without_pairs():
    with pytest.raises(InputError, match="2x2 patches"):
        HingePatches()(*given(rows=2))


def test_bfloat16_embeddings_are_summed_in_float32():
    anchors, others = (x.detach().bfloat16() for x in given())
    drawn = torch.randint(N * 7 * COLUMNS, (N, 15, COLUMNS, 2))
    found = hinge_patches(anchors, others, drawn)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), hinge_patches(anchors.double(), others.double(), drawn), rtol=1e-5, atol=0
    )
