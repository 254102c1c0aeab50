"""A site: the piece of network that one loss trains, and the batch that passes through it."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..losses import needs


@dataclass
class Batch:
    """What one site sees at one step.

    `inputs` are the features below the site, cut off from the gradient, of all views: list A then list B where the
    layout is a pair. A rule leaves the features above in `outputs` and the loss, a number without gradient, in `loss`;
    `views` are the embeddings, for diagnostics.
    """

    inputs: Tensor
    labels: Tensor | None = None
    grid: tuple[int, int] | None = None
    seed: int = 0
    step: int = 0
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

    def stages(self) -> list[nn.Module]:
        """The chain that an error runs down: the layers, then the head."""
        return [*self.layers, *([] if self.head is None else [self.head])]

    def parts(self, x: Tensor) -> list[tuple[Tensor, bool]]:
        """The lists of views, each with whether it carries gradient; one joint list where both do."""
        if self.needs.layout == "pair" and self.needs.gradient != "ab":
            a, b = x.chunk(2)
            return [(a, self.needs.gradient == "a"), (b, self.needs.gradient == "b")]
        return [(x, True)]

    def evaluate(self, embeddings: list[Tensor], batch: Batch) -> Tensor:
        """The loss of the parts' embeddings, in at least float32; leaves its value and the embeddings in `batch`."""
        z = [e if e.dtype == torch.float64 else e.float() for e in embeddings]
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
                    arguments += tuple(self.slow(batch.inputs).to(z[0].dtype).chunk(2))
        batch.views = tuple(a.detach() for a in arguments if isinstance(a, Tensor) and a.is_floating_point())
        draw: Any = getattr(self.loss, "draw", None)
        if draw is not None:
            draw(draws.key(batch.seed, "loss", self.index), batch.step)
        with torch.autocast(z[0].device.type, enabled=False):
            loss = self.loss(*arguments)
        batch.loss = loss.detach()
        return loss
