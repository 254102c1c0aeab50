"""SimCLR's loss, NT-Xent (paper, Eq. 1; Chen et al. 2020, "A simple framework for contrastive learning")."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .common import check_pair, check_words, full


def simclr(z_a: Tensor, z_b: Tensor, *, temperature: float = 0.1, reduction: str = "sum") -> Tensor:
    """Minus the log of each view's share of similarity that goes to its partner, over both lists (Eq. 1).

    L = -sum over s of log [ exp(sim(zA_s, zB_s)/tau) / (sum over t != s of exp(sim(zA_s, zA_t)/tau) + sum over all t
    of exp(sim(zA_s, zB_t)/tau)) ], and the same with A and B exchanged; sim is the cosine.

    Args:
        z_a, z_b: embeddings of the two lists of views, (batch, width); row s of both is image s.
        temperature: tau, of the softmax over cosines.
        reduction: "sum" as in Eq. 1, or the "mean" over the 2 * batch views, as Chen et al. take it.

    Returns a scalar. Raises InputError for lists of different shapes, an empty batch and another reduction.
    """
    check_words("simclr", reduction=reduction)
    check_pair(z_a, z_b)
    z = F.normalize(torch.cat([full(z_a), full(z_b)]), dim=1)
    n = len(z_a)
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    scores = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    return F.cross_entropy(scores, torch.arange(2 * n, device=z.device).roll(n), reduction=reduction)


class SimCLR(nn.Module):
    """`simclr` as a module."""

    layout, labels, head, gradient = "pair", False, True, "ab"

    def __init__(self, *, temperature: float = 0.1, reduction: str = "sum"):
        super().__init__()
        check_words("simclr", reduction=reduction)
        self.temperature, self.reduction = temperature, reduction

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return simclr(z_a, z_b, temperature=self.temperature, reduction=self.reduction)
