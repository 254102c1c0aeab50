"""The contrastive hinge loss (paper, Eq. 2) on patches: positives are patches below the anchor in the same column."""

import torch
from torch import Tensor

from .common import Drawing, check_grid, check_pair, full, there


def pairs(rows: int, device: torch.device | str = "cpu") -> Tensor:
    """(anchor row, positive row) of every positive pair of a column, at least two rows apart: (pairs, 2), on the device.

    >>> pairs(4).tolist()
    [[0, 2], [0, 3], [1, 3]]
    """
    return torch.triu_indices(rows, rows, 2, device=device).T


def hinge_patches(anchors: Tensor, others: Tensor, negatives: Tensor, *, m1: float = 1.0, m2: float = 3.0) -> Tensor:
    """Sum over positive pairs of [|a - p|_1 - m1]+ + sum over the pair's negatives q of [m2 - |a - q|_1]+  (Eq. 2).

    Args:
        anchors, others: embeddings of patches, (batch, rows, columns, width); a is of `anchors`, p and q of `others`.
        negatives: for each of the `pairs` of each column, the places of its negatives among the patches (batch, rows,
            columns, flattened): (batch, pairs, columns, count), int64.
        m1, m2: margins, in units of L1 distance.

    Returns a scalar, a sum. Raises InputError for a grid of fewer than 3 rows and for lists of different shapes.
    """
    check_pair(anchors, others, flat=False)
    check_grid(anchors.shape[1], anchors.shape[2], len(anchors))
    anchors, others = full(anchors), full(others)
    rows = pairs(anchors.shape[1], anchors.device)
    a = anchors[:, rows[:, 0]]
    positives = (a - others[:, rows[:, 1]]).abs().sum(3)
    drawn = others.flatten(0, 2)[there(negatives, others.device)]
    distances = (a[:, :, :, None] - drawn).abs().sum(4)
    return (positives - m1).relu().sum() + (m2 - distances).relu().sum()


class HingePatches(Drawing):
    """`hinge_patches` as a module with its draws, as in the public code of the paper's authors.

    Args:
        m1, m2: margins, in units of L1 distance.
        negatives: a positive pair, each any patch of the batch, the anchor's own too, drawn with replacement.
        block: the anchor is short-term memory and carries no gradient.
    """

    layout, labels, head, gradient, reduction = "patches", False, True, "ab", "sum"

    def __init__(self, *, m1: float = 1.0, m2: float = 3.0, negatives: int = 1, block: bool = False):
        super().__init__()
        self.m1, self.m2, self.negatives, self.block = m1, m2, negatives, block

    def forward(self, anchors: Tensor, others: Tensor) -> Tensor:
        n, rows, columns = anchors.shape[:3]
        check_grid(rows, columns, n)
        shape = (n, len(pairs(rows)), columns, self.negatives)
        negatives = torch.randint(n * rows * columns, shape, generator=self.generator())
        if self.block:
            anchors = anchors.detach()
        return hinge_patches(anchors, others, negatives, m1=self.m1, m2=self.m2)
