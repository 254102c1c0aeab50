"""Difference target propagation with pooling (paper, Algorithm 1; Lee et al. 2015).

Layer L is the head. A step, for layers f_1..f_{L-1} and learned inverses g_2..g_{L-1}:

    inverses  x~ = x_{l-1} + noise;  g_l descends |g_l(f_l(x~)) - x~|^2
    targets   x^_{L-1} = x_{L-1} - eta dL/dx_{L-1};  x^_{l-1} = x_{l-1} + [g_l(x^_l) - g_l(x_l)]
    layers    f_l descends |f_l(x_{l-1}) - x^_l|^2 with x_{l-1} held fixed; the head descends the loss L itself

No error passes from one layer to another but as a target. The first target still goes down through the head's own
weights; `head="random"` sends it through a random matrix instead.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import draws
from ..errors import InputError
from ..losses.common import full
from ..networks import LocallyConnected2d, output_shape
from .feedback import RandomFeedback, maps_of
from .gradient import Backpropagation, backpropagate
from .site import Batch, Site


class Inverse(nn.Module):
    """Features above a layer to features below it, a linear map without activation, of the layer's own kind.

    Transposed convolution for a convolution, strided where the layer pools or strides (that is where it learns to
    unpool); for a locally connected layer, its input repeated to size and a locally connected map; fully connected for
    a fully connected layer, and where features have other axes above than below. Shapes are of one image's features,
    such as (channels, height, width) or (features,).
    """

    def __init__(self, layer: nn.Module, below: tuple[int, ...], above: tuple[int, ...]):
        super().__init__()
        self.below = below
        map: Any = maps_of(layer)[0]
        kernel = (3, 3) if isinstance(map, LocallyConnected2d) else getattr(map, "kernel_size", ())
        self.map: nn.Module
        if not len(kernel) == len(below) - 1 == len(above) - 1 > 0:
            self.map = nn.Linear(math.prod(above), math.prod(below))
        elif isinstance(map, LocallyConnected2d):
            self.map = LocallyConnected2d(above[0], below[0], (below[1], below[2]), kernel=3, padding=1)
        else:
            geometry = [_transposed_geometry(*sizes) for sizes in zip(kernel, below[1:], above[1:], strict=True)]
            transposed = getattr(nn, f"ConvTranspose{len(geometry)}d")
            self.map = transposed(above[0], below[0], *zip(*geometry, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.map, nn.Linear):
            return self.map(x.flatten(1)).unflatten(1, self.below)
        if isinstance(self.map, LocallyConnected2d):
            x = F.interpolate(x, self.map.in_size)
        return self.map(x)


def _transposed_geometry(kernel: int, below: int, above: int) -> tuple[int, int, int, int]:
    """Kernel, stride, padding and output padding of a transposed convolution from `above` pixels to `below` pixels.

    The stride is the layer's own, rounded where the sizes are odd (7 pooled to 3: stride 2); the kernel is the layer's,
    or as wide as it takes to reach every pixel.
    """
    stride = max(1, round(below / above))
    kernel = max(kernel, stride, below - (above - 1) * stride)
    excess = (above - 1) * stride + kernel - below
    if stride == 1 and excess % 2:
        kernel, excess = kernel + 1, excess + 1
    padding = -(-excess // 2)
    return kernel, stride, padding, 2 * padding - excess


class DifferenceTargetPropagation(Backpropagation):
    """The rule above.

    Args:
        noise: of the inverses' inputs, in standard deviations of the layer's activity over the batch.
        eta: size of the first target's step, in units of the gradient of one image's loss: of a sum over images the
            gradient itself, of a mean the gradient times the number of images. An image's patches share its loss: the
            mean over its grid, if the loss is a mean.
        order: "inverses" first (Lee et al. 2015), or "targets" first, from the inverses as they stood before the step
            (the authors' older code).
        steps: inverse steps a batch, each with noise of its own.
        rate: learning rate of the inverses. Layers that learn nearly as fast outrun them, and the loss goes up: the paper's
            rates are 1e-3 and 1e-4, and on CIFAR layers at 3e-4 diverge within 1,000 steps.
        head: the first target's way down: the head's "own" weights, or fixed "random" ones.
    """

    def __init__(
        self,
        *,
        noise: float = 0.1,
        eta: float = 0.5,
        order: str = "inverses",
        steps: int = 1,
        rate: float = 1e-3,
        head: str = "own",
    ):
        self.noise, self.eta, self.order, self.steps, self.head = noise, eta, order, steps, head
        self.rates = {"inverses": rate}

    def prepare(self, site: Site, shape: tuple[int, ...], seed: int) -> None:
        for number, layer in enumerate(site.layers):
            if len(maps_of(layer)) != 1:
                raise InputError(
                    "The rule dtp takes a chain of layers with one linear map each; "
                    f"layer {number + 1} of the site has {len(maps_of(layer))}."
                )
        if self.head == "random" and site.head is None:
            raise InputError(
                "dtp(head=random) replaces the head's way down, and this loss has no head; it takes head=own."
            )
        inverses = []
        for number, layer in enumerate(site.layers):
            above = output_shape(layer, shape)
            if number > 0:
                with draws.seeded(seed, "inverse", site.index, number):
                    inverses.append(Inverse(layer, shape, above))
            shape = above
        parameter = next(site.layers.parameters())
        site.inverses = nn.ModuleList(inverses).to(parameter.device, parameter.dtype)
        if self.head == "random":
            assert site.head is not None
            RandomFeedback().convert(site.head, maps_of(site.head), draws.key(seed, "feedback", site.index))

    def groups(self, site: Site) -> dict[str, list[tuple[str, nn.Parameter]]]:
        named = [(name, p) for name, p in site.named_parameters() if p.requires_grad]
        groups = {
            "inverses": [(name, p) for name, p in named if name.startswith("inverses.")],
            "weights": [(name, p) for name, p in named if not name.startswith("inverses.")],
        }
        return {name: group for name, group in groups.items() if group}

    def phases(self, site: Site, batch: Batch) -> Iterator[str]:
        # Of the list that carries gradient: x_0, x_1, ..., each cut off from the one below; and f_1(x_0), f_2(x_1),
        # ..., each with the graph of its own layer alone.
        activities: list[Tensor] = []
        outputs: list[Tensor] = []
        features, embeddings = [], []
        for x, carries in site.parts(batch.inputs):
            with torch.set_grad_enabled(carries):
                for layer in site.layers:
                    if carries:
                        activities.append(x)
                        outputs.append(layer(x))
                    x = (outputs[-1] if carries else layer(x)).detach()
                features.append(x)
                top = x.requires_grad_(carries)
                embeddings.append(top if site.head is None else site.head(top))
                if carries:
                    activities.append(top)
        batch.outputs = torch.cat([f.detach() for f in features])
        loss = site.evaluate(embeddings, batch)
        backpropagate(loss)  # the head's gradient, and dL/dx_{L-1}; nothing passes below it
        gradient = activities[-1].grad
        assert gradient is not None
        shift = -self.eta * (_images(site, batch) if site.needs.reduction == "mean" else 1) * full(gradient)
        activities[-1] = activities[-1].detach()

        if self.order == "targets":
            self._fill_layers(site, outputs, shift)
        for step in range(self.steps if site.inverses else 0):
            self._fill_inverses(site, activities, batch, step)
            yield "inverses"
        if self.order == "inverses":
            self._fill_layers(site, outputs, shift)
        yield "weights"

    def _fill_inverses(self, site: Site, activities: list[Tensor], batch: Batch, step: int) -> None:
        """Gradients of |g_l(f_l(x~)) - x~|^2, summed over features and images, for every inverse."""
        torch.clear_autocast_cache()  # it would hand out the inverses as they were before their last step
        for number, inverse in enumerate(site.inverses, start=1):
            x = activities[number]
            noise = batch.ranks.normal(x, site.lists, batch.seed, "noise", site.index, batch.step, number, step)
            noisy = x + self.noise * batch.ranks.std(x) * noise
            with torch.no_grad():
                above = site.layers[number](noisy)
            error = inverse(above).to(noisy.dtype) - noisy
            full(error).square().sum().backward()

    def _fill_layers(self, site: Site, outputs: list[Tensor], shift: Tensor) -> None:
        """Gradients of |f_l(x_{l-1}) - x^_l|^2 for every layer, from the top down; `shift` is x^_l - x_l.

        The shift travels in place of the target, and in full precision: against the activity it is too small for
        bfloat16.
        """
        for number in reversed(range(len(outputs))):
            outputs[number].backward((-2 * shift).to(outputs[number].dtype))
            if number > 0:
                shift = self._shift_below(site.inverses[number - 1], shift)

    @staticmethod
    def _shift_below(inverse: nn.Module, shift: Tensor) -> Tensor:
        """g(x + shift) - g(x): the difference correction leaves only what the target changes.

        An inverse is linear but for its bias, so this depends on the shift alone, whatever x is.
        """
        with torch.no_grad(), torch.autocast(shift.device.type, enabled=False):
            return inverse(shift) - inverse(torch.zeros_like(shift[:1]))


def _images(site: Site, batch: Batch) -> int:
    """How many images a mean over the batch is taken over."""
    each = {"pair": 2, "single": 1, "patches": math.prod(batch.grid or ())}
    return batch.ranks.whole(len(batch.inputs) // each[site.needs.layout])


def reconstruction_errors(site: Site, x: Tensor) -> list[float]:
    """|g_l(f_l(x_{l-1})) - x_{l-1}|^2 / |x_{l-1}|^2 for each inverse, for inputs x of the site, without noise."""
    errors = []
    torch.clear_autocast_cache()
    with torch.no_grad():
        for number, layer in enumerate(site.layers):
            above = layer(x)
            if number > 0:
                back = site.inverses[number - 1](above)
                errors.append(float((back - x).square().sum() / x.square().sum().clamp_min(1e-30)))
            x = above
    return errors
