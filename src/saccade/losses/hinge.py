"""The contrastive hinge loss (paper, Eq. 2): L1 distances, two margins, few negatives, a remembered view."""

import torch
from torch import Tensor, nn

from .common import check_negatives, check_pair, check_words, following, full, l1_distances


def contrastive_hinge(
    z_a: Tensor, z_b: Tensor, *, m1: float = 1.0, m2: float = 3.0, negatives: int | str = "all", reading: str = "paper"
) -> Tensor:
    """Sum over images s of [|zA_s - zB_s|_1 - m1]+ + sum over t in N_s of [m2 - |zA_s - zB_t|_1]+  (Eq. 2).

    Args:
        z_a, z_b: embeddings of the two lists of views, (batch, width), not normalized; row s of both is image s.
        m1, m2: margins, in units of L1 distance.
        negatives: "all" others of the batch, or T of them: the next T in order, wrapping around.
        reading: "paper", or "authors": their public code takes offsets 1..T-1 without wrapping around, at weight 1/T, so
            that T is at least 2. Of "all" the readings are the same.

    Returns a scalar, a sum and not a mean. With "all" the (batch, batch, width) tensor of differences is never made; T
    negatives make one of (batch, width, T). Subgradients at a tie are 0. Raises InputError for no or more negatives than the
    batch has, lists of different shapes, an empty batch and another reading.

    >>> z_a, z_b = torch.tensor([[0.0], [4.0]]), torch.tensor([[2.0], [5.0]])
    >>> float(contrastive_hinge(z_a, z_b))  # positives: [2 - 1]+ + [1 - 1]+; negatives: [3 - 5]+ + [3 - 2]+
    2.0
    """
    check_words("hinge", reading=reading)
    check_pair(z_a, z_b)
    n, z_a, z_b = len(z_a), full(z_a), full(z_b)
    check_negatives(negatives, n, one_less=reading == "authors")
    if negatives == "all":
        distances = l1_distances(z_a, z_b)
        positives = distances.diagonal()
        weights = 1 - torch.eye(n, dtype=z_a.dtype, device=z_a.device)
    else:
        count = int(negatives) - (reading == "authors")
        positives = (z_a - z_b).abs().sum(1)
        distances = (z_a[:, :, None] - following(z_b, count)).abs().sum(1)
        weights = torch.ones_like(distances)
        if reading == "authors":
            places = torch.arange(n, device=z_a.device)[:, None] + torch.arange(1, count + 1, device=z_a.device)
            weights = (places < n).to(z_a.dtype) / int(negatives)
    return (positives - m1).relu().sum() + ((m2 - distances).relu() * weights).sum()


class ContrastiveHinge(nn.Module):
    """`contrastive_hinge` as a module; with `block`, view A is short-term memory and carries no gradient (Eq. 7)."""

    layout, labels, head, reduction = "pair", False, True, "sum"

    def __init__(
        self,
        *,
        m1: float = 1.0,
        m2: float = 3.0,
        negatives: int | str = "all",
        block: bool = False,
        reading: str = "paper",
    ):
        super().__init__()
        check_words("hinge", reading=reading)
        self.m1, self.m2, self.negatives, self.block, self.reading = m1, m2, negatives, block, reading

    @property
    def gradient(self) -> str:
        """Which lists carry gradient, "ab" or "b" alone."""
        return "b" if self.block else "ab"

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        if self.block:
            z_a = z_a.detach()
        return contrastive_hinge(z_a, z_b, m1=self.m1, m2=self.m2, negatives=self.negatives, reading=self.reading)
