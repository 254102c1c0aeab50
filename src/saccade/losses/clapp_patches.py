"""CLAPP on patches: a patch's features predict those of the patches some rows below it in the same column.

Two readings: the original (Illing et al. 2021, "Local plasticity rules can learn deep representations using
self-supervised contrastive predictions", and its code) and that of the public code of the paper's authors.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .clapp import Predicting, predict
from .common import Drawing, check_grid, check_pair, check_words, full, there


@dataclass(frozen=True)
class Term:
    """The part of the loss that one W serves: context rows (r,), the target rows of each (r, p), and the first row that
    negatives are drawn from."""

    contexts: Tensor
    targets: Tensor
    first: int


def terms(rows: int, steps: int, reading: str, device: torch.device | str = "cpu") -> list[Term]:
    """The terms of a grid of `rows`, at most `steps` of them, made on the device.

    "original": W_k predicts k + 1 rows down, k = 1..steps, from every row that has such a target; negatives come from
    the rows that targets come from. "authors": W_k serves context row k = 0..steps - 1, whose targets are row k + 2 and
    all below it; negatives come from any row.
    """
    last, below = min(steps, rows - 2), partial(torch.arange, device=device)
    if reading == "original":
        return [Term(below(rows - k - 1), below(k + 1, rows)[:, None], first=k + 1) for k in range(1, last + 1)]
    return [Term(below(k, k + 1), below(k + 2, rows)[None], first=0) for k in range(last)]


def places(term: Term, grid: tuple[int, int], images: Tensor) -> Tensor:
    """Where each context's targets lie among the patches that negatives are drawn from: `images` (batch, count), the
    images to look in, give (batch, r, columns, p * count)."""
    rows, columns = grid
    row = images[:, None, None, None, :] * (rows - term.first) + (term.targets - term.first)[None, :, None, :, None]
    place = row * columns + torch.arange(columns, device=row.device)[None, None, :, None, None]
    return place.flatten(3)


def clapp_patches(
    contexts: Tensor,
    targets: Tensor,
    weight: Tensor,
    negatives: list[Tensor],
    *,
    reading: str = "original",
    positive: Tensor | None = None,
) -> Tensor:
    """Sum over k of mean [1 - u+]+ + mean [1 + u-]+, with u = <W_k c, z> for a context c and a target z.

    Args:
        contexts, targets: features of patches, (batch, rows, columns, channels, height, width) or without the last two.
        weight: (steps, channels, channels), one W for each term.
        negatives: for each of the `terms`, the places of negatives among the patches (batch, rows from term.first,
            columns, flattened): (batch, contexts, columns, count), int64, on the processor.
        reading: "original": features are averaged over positions, and the sum over k is a mean; "authors": the inner
            product runs over positions too. W acts on channels.
        positive: (batch,), bool: images that contribute their positives and no negatives; the others the reverse. None:
            all contribute both.

    Returns a scalar. Raises InputError for a grid of fewer than 3 rows, lists of different shapes and another reading.
    """
    check_words("clapp-patches", reading=reading)
    check_pair(contexts, targets, flat=False)
    n, rows, columns = contexts.shape[:3]
    check_grid(rows, columns, n)
    contexts, targets = full(contexts), full(targets)
    if reading == "original" and contexts.ndim > 4:
        contexts, targets = contexts.flatten(4).mean(4), targets.flatten(4).mean(4)
    device = contexts.device
    images = torch.arange(n, device=device)[:, None]
    both = torch.ones(n, dtype=torch.bool, device=device)
    rewarded, punished = (both, both) if positive is None else (there(positive, device), there(~positive, device))
    losses = []
    for w, term, others in zip(weight, terms(rows, len(weight), reading, device), negatives, strict=False):
        predicted = predict(full(w), contexts[:, term.contexts].flatten(0, 2)).flatten(1)
        pool = targets[:, term.first :].flatten(0, 2).flatten(1)
        own = places(term, (rows, columns), images)
        index = torch.cat([own, there(others, device)], 3).flatten(0, 2)
        u = scores(predicted, pool, index).unflatten(0, (n, -1))
        near, far = u[..., : own.shape[3]], u[..., own.shape[3] :]
        losses.append(_mean((1 - near).relu(), rewarded) + _mean((1 + far).relu(), punished))
    total = torch.stack(losses).sum()
    return total / len(losses) if reading == "original" else total


def scores(predicted: Tensor, pool: Tensor, index: Tensor) -> Tensor:
    """<predicted_i, pool_j> for the j in row i of `index`: (contexts, width), (patches, width), (contexts, count).

    All products in one table where that takes less memory than copies of the patches asked for, else the copies: memory
    grows linearly with the batch either way.
    """
    if len(pool) <= index.shape[1] * pool.shape[1]:
        return (predicted @ pool.T).gather(1, index)
    return (pool[index] @ predicted[:, :, None]).squeeze(2)


def _mean(hinges: Tensor, images: Tensor) -> Tensor:
    """The mean over the images chosen by `images` (batch,), bool; 0 if none is."""
    each = hinges.flatten(1).mean(1)
    return (each * images).sum() / images.sum().clamp(min=1)


class CLAPPPatches(Drawing, Predicting):
    """`clapp_patches` as a module with its W and its draws; it reads the feature map and wants no head.

    The defaults are the original's CLAPP-s. Its CLAPP is `negatives=1, place=same, coin=true, gradient=split`. The
    paper's authors' is `reading=authors`, with 1 or 16 negatives.

    Args:
        reading: "original" or "authors".
        steps: how many W there are: predictions ahead, or context rows. A grid of fewer rows uses the first of them.
        negatives: a positive, each drawn with replacement.
        place: where negatives are: "any" patch of the batch, the image's own too, or the "same" place as the positive
            in another image, one image for the whole grid and each W.
        coin: each image learns from its positives or from its negatives, by a coin thrown at each step.
        gradient: "both" sides; "context_detached"; "targets_detached", positive and negative; "fixed_weight", both
            sides, W stays at its random start; "split", two W, one with the context detached and one with the targets.
    """

    layout, labels, head, reduction = "patches", False, False, "mean"

    def __init__(
        self,
        *,
        reading: str = "original",
        steps: int = 5,
        negatives: int = 16,
        place: str = "any",
        coin: bool = False,
        gradient: str = "both",
    ):
        super().__init__((2, steps) if gradient == "split" else (steps,), gradient)
        check_words("clapp-patches", reading=reading, place=place, gradient=gradient)
        self.reading, self.steps, self.negatives, self.place, self.coin = reading, steps, negatives, place, coin

    def drawn(self, batch: int, grid: tuple[int, int]) -> tuple[list[Tensor], Tensor | None]:
        """One call's `negatives` and `positive` for `clapp_patches`."""
        generator = self.generator()
        rows, columns = grid
        positive = torch.rand(batch, generator=generator) < 0.5 if self.coin else None
        negatives = []
        for term in terms(rows, self.steps, self.reading):
            if self.place == "same":
                step = torch.randint(1, batch, (batch, self.negatives), generator=generator)
                negatives.append(places(term, grid, (torch.arange(batch)[:, None] + step) % batch))
            else:
                shape = (batch, len(term.contexts), columns, term.targets.shape[1] * self.negatives)
                negatives.append(torch.randint(batch * (rows - term.first) * columns, shape, generator=generator))
        return negatives, positive

    def forward(self, contexts: Tensor, targets: Tensor) -> Tensor:
        n, rows, columns = contexts.shape[:3]
        check_grid(rows, columns, n)
        negatives, positive = self.drawn(n, (rows, columns))
        contexts, targets = self.sides(contexts, targets)
        halves = (
            [(contexts.detach(), targets, self.weight[0]), (contexts, targets.detach(), self.weight[1])]
            if self.way == "split"
            else [(contexts, targets, self.weight)]
        )
        return torch.stack(
            [clapp_patches(c, z, w, negatives, reading=self.reading, positive=positive) for c, z, w in halves]
        ).sum()
