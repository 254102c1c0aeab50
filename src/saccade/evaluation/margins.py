"""Distances of pairs of embeddings, and the hinge loss's margins that they propose (the paper's Figure 5)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import measures
from ..config.run import TrainConfig
from ..data import ImageSet
from ..data.memory import whole_float32
from ..errors import InputError, whole
from ..losses import make as make_loss
from ..losses import needs
from ..training.model import Model, build, make_batch


@dataclass(frozen=True)
class Margins:
    """Distances of one site's pairs, and what follows from them.

    `positives`, `negatives`: L1 distances of pairs of views of one picture, and of two. `m1`, `m2`: the proposals.
    """

    positives: Tensor
    negatives: Tensor
    m1: float
    m2: float

    def beyond(self, m1: float) -> float:
        """Percent of positive pairs farther apart than `m1`: those that the loss pulls together."""
        return 100 * float((self.positives > m1).double().mean())

    def within(self, m2: float) -> float:
        """Percent of negative pairs closer than `m2`: those that the loss pushes apart."""
        return 100 * float((self.negatives < m2).double().mean())


@whole_float32()
def pairs(model: Model, images: ImageSet, step: int = 0) -> list[tuple[Tensor, Tensor]]:
    """L1 distances of (positive, negative) pairs of one step's views, for each site: (batch,), (batch * (batch - 1),)."""
    x = make_batch(model, images, step)[0].x.to(next(model.encoder.parameters()).dtype)
    found = []
    with torch.no_grad():
        for site in model.sites:
            x, z = site(x)
            found.append(measures.pair_distances(*z.flatten(1).float().chunk(2)))
    return [(positives.cpu(), negatives.cpu()) for positives, negatives in found]


def margins(
    config: TrainConfig,
    images: ImageSet,
    *,
    batches: int = 1,
    beyond: float = 0.5,
    within: float = 0.9,
    progress: Callable[[float], None] | None = None,
) -> list[Margins]:
    """The distances of a network's pairs before training, and margins for it: one `Margins` a site.

    The rule: m1 is such that a share `beyond` of the positive pairs lies farther apart, m2 such that a share `within` of the
    negative pairs lies closer, or twice m1 where that is more, since m2 must stand above m1. At the start half of the positives
    are then pulled and nine tenths of the negatives pushed.

    Args:
        config: names network, head, views, schedule, batch and seed, as for training.
        batches: batches of views to measure, from the start of the first epoch.
        progress: told the share of the batches that are measured.

    Raises InputError for a loss without pairs of views, and for shares that are not between 0 and 1.
    """
    for name, share in (("beyond", beyond), ("within", within)):
        if not 0 < share < 1:
            raise InputError(f"{name} is {share}; it takes a share between 0 and 1.")
    whole("batches", batches)
    if needs(make_loss(config.loss)).layout != "pair":
        raise InputError(f"The loss {config.loss} has no pairs of views; margins take one that has, such as hinge.")
    model = build(config, images)
    measured = []
    for step in range(batches):
        measured.append(pairs(model, images, step))
        if progress:
            progress((step + 1) / batches)
    sites = [[torch.cat(kind) for kind in zip(*site, strict=True)] for site in zip(*measured, strict=True)]
    return [_proposed(positives, negatives, beyond, within) for positives, negatives in sites]


def _proposed(positives: Tensor, negatives: Tensor, beyond: float, within: float) -> Margins:
    m1 = quantile(positives, 1 - beyond)
    return Margins(positives, negatives, m1, max(quantile(negatives, within), 2 * m1))


def quantile(x: Tensor, q: float) -> float:
    """torch's own refuses more than 16 million numbers."""
    return float(np.quantile(x.double().numpy(), q))
