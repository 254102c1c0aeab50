"""A site: the piece of network that one loss trains, and the batch that passes through it."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..errors import InputError
from ..losses import needs
from ..losses.common import full
from ..ranks import ALONE, Ranks


@dataclass
class Batch:
    """What one site sees at one step.

    `inputs` are the features below the site, cut off from the gradient, of all views: list A then list B where the
    layout is a pair. A rule leaves the features above in `outputs` and the loss, a number without gradient, in `loss`;
    `views` are the embeddings, for diagnostics. Where a run has several processes, `inputs` and `outputs` are of this
    rank's images; `loss` and, where negatives are gathered, `labels` and `views` are of the whole batch.
    """

    inputs: Tensor
    labels: Tensor | None = None
    grid: tuple[int, int] | None = None
    seed: int = 0
    step: int = 0
    ranks: Ranks = ALONE
    outputs: Tensor | None = None
    loss: Tensor | None = None
    views: tuple[Tensor, ...] = ()


class Site(nn.Module):
    """Layers, the head on top of them and the loss that trains both: one end to end, one a layer layer by layer.

    `forward` maps inputs (batch, ...) to the features above the layers and the embedding (the features themselves where
    the loss wants no head).
    """

    def __init__(self, index: int, layers: nn.Sequential, head: nn.Module | None, loss: nn.Module):
        super().__init__()
        self.index, self.layers, self.head, self.loss = index, layers, head, loss
        self.needs = needs(loss)
        self.inverses: nn.ModuleList = nn.ModuleList()  # filled by a rule that learns inverses
        self.slow: nn.Module | None = None
        if self.needs.momentum is not None:
            self.slow = copy.deepcopy(nn.Sequential(layers, *([] if head is None else [head]))).requires_grad_(False)

    def follow(self) -> None:
        """Let the slow copy, where the loss declares one, follow the weights that were just updated."""
        if self.slow is None:
            return
        fast = nn.Sequential(self.layers, *([] if self.head is None else [self.head]))
        current = dict(fast.named_parameters())
        with torch.no_grad():
            for name, parameter in self.slow.named_parameters():
                parameter.lerp_(current[name], 1 - float(self.needs.momentum or 0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(x)
        return features, features if self.head is None else self.head(features)

    def chain(self) -> list[nn.Module]:
        """The chain that an error runs down: the layers, then the head."""
        return [*self.layers, *([] if self.head is None else [self.head])]

    def parts(self, x: Tensor) -> list[tuple[Tensor, bool]]:
        """The lists of views, each with whether it carries gradient; one joint list where both do."""
        if self.needs.layout == "pair" and self.needs.gradient != "ab":
            a, b = x.chunk(2)
            return [(a, self.needs.gradient == "a"), (b, self.needs.gradient == "b")]
        return [(x, True)]

    @property
    def lists(self) -> int:
        """How many lists of views the part that carries gradient holds."""
        return 2 if self.needs.layout == "pair" and self.needs.gradient == "ab" else 1

    def evaluate(self, embeddings: list[Tensor], batch: Batch) -> Tensor:
        """The loss of the parts' embeddings, in at least float32; leaves its value and the embeddings in `batch`.

        Raises InputError for a loss that gives nothing to descend.
        """
        ranks = batch.ranks
        if ranks.gathers:
            embeddings = [ranks.gather(e, self.lists) for e in embeddings]
        z = [full(e) for e in embeddings]
        arguments: tuple[Tensor | None, ...]
        if self.needs.layout == "single":
            arguments = (z[0], batch.labels)
        elif self.needs.layout == "patches":
            grid = z[0].unflatten(0, (-1, *(batch.grid or ())))
            arguments = (grid, grid)
        else:
            arguments = (z[0], z[1]) if len(z) == 2 else tuple(z[0].chunk(2))
            if self.slow is not None:
                with torch.no_grad():
                    slow = self.slow(batch.inputs)
                    slow = ranks.gather(slow, 2) if ranks.gathers else slow
                    arguments += tuple(slow.to(z[0].dtype).chunk(2))
        batch.views = tuple(a.detach() for a in arguments if isinstance(a, Tensor) and a.is_floating_point())
        draw: Any = getattr(self.loss, "draw", None)
        if draw is not None:
            own = (ranks.rank,) if ranks.negatives == "local" and ranks.rank else ()
            draw(draws.key(batch.seed, "loss", self.index, *own), batch.step)
        # What a loss of the user's own draws from torch's global generator is the same on all ranks that gather.
        alike = draws.seeded(batch.seed, "loss", batch.step) if ranks.gathers else nullcontext()
        with torch.autocast(z[0].device.type, enabled=False), alike:
            loss = self.loss(*arguments)
        if not isinstance(loss, Tensor) or loss.ndim or not (loss.is_floating_point() and loss.requires_grad):
            gave = f"a {type(loss).__name__}"
            if isinstance(loss, Tensor):
                gave = f"{loss.dtype} of shape {tuple(loss.shape)}, {'with' if loss.requires_grad else 'without'} a gradient"
            named = getattr(self.loss, "_get_name", lambda: getattr(self.loss, "__name__", "that was given"))()
            raise InputError(
                f"The loss {named} gave {gave}; it takes one floating-point number, a tensor of shape (), with a "
                "gradient."
            )
        if ranks.count > 1 and not ranks.gathers:
            if self.needs.reduction == "mean":
                loss = loss * (len(z[0]) / ranks.whole(len(z[0])))
            batch.loss = ranks.total(loss)
        else:
            batch.loss = loss.detach()
        return loss
