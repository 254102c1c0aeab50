"""Backpropagation, and what every rule with one phase shares: forward, loss, backward, one group of weights."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from .site import Batch, Site


def backpropagate(loss: Tensor) -> None:
    """Fill the gradients, in the precisions of the forward pass: autocast would round the loss's own products on their way
    back, which were not rounded on their way up."""
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward()


class Backpropagation:
    """delta_l = sigma'(h_l) * W_{l+1}^T delta_{l+1}  (Eq. 9)."""

    rates: Mapping[str, float] = MappingProxyType({})  # learning rates of groups that have one of their own

    def prepare(self, site: Site, shape: tuple[int, ...], seed: int) -> None:
        """Add to `site` what the rule needs; `shape` is that of one image's features below the site."""

    def groups(self, site: Site) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """The parameters that train, by the phase that trains them."""
        return {"weights": [(name, p) for name, p in site.named_parameters() if p.requires_grad]}

    def copies(self, site: Site) -> dict[nn.Parameter, nn.Parameter]:
        """Parameters whose gradient is always that of another: several processes need not send it."""
        return {}

    def phases(self, site: Site, batch: Batch) -> Iterator[str]:
        """Fill the gradients of one group after another and name it; the caller applies its optimizer in between."""
        features: list[Tensor] = []
        embeddings: list[Tensor] = []
        for x, carries in site.parts(batch.inputs):
            with torch.set_grad_enabled(carries):
                f, z = site(x)
            features.append(f.detach())
            embeddings.append(z)
        loss = site.evaluate(embeddings, batch)
        batch.outputs = features[0] if len(features) == 1 else torch.cat(features)
        backpropagate(loss)
        yield "weights"
