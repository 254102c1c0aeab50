"""Difference target propagation with pooling (paper, Algorithm 1; Lee et al. 2015).

Layer L is the head. A step, for layers f_1..f_{L-1} and learned inverses g_2..g_{L-1}:

    inverses  x~ = x_{l-1} + noise;  g_l descends |g_l(f_l(x~)) - x~|^2
    targets   x^_{L-1} = x_{L-1} - eta dL/dx_{L-1};  x^_{l-1} = x_{l-1} + [g_l(x^_l) - g_l(x_l)]
    layers    f_l descends |f_l(x_{l-1}) - x^_l|^2 with x_{l-1} held fixed; the head descends the loss L itself

No error passes from one layer to another but as a target. The first target still goes down through the head's own weights;
`head="random"` sends it through a random matrix instead.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import draws
from ..errors import InputError
from ..networks import LocallyConnected2d, output_shape
from .feedback import RandomFeedback, maps_of
from .gradient import Backpropagation
from .site import Batch, Site


class Inverse(nn.Module):
    """Features above a layer to features below it, affine, without activation.

    Transposed convolution, strided where the layer pools or strides (that is where it learns to unpool), for a
    convolution; fully connected for a fully connected layer; for a locally connected one, its input repeated to size and a
    locally connected map. Shapes are of one image's features, (channels, height, width) or (features,).
    """

    def __init__(self, layer: nn.Module, below: tuple[int, ...], above: tuple[int, ...]):
        super().__init__()
        self.below = below
        map = maps_of(layer)[0]
        self.map: nn.Module
        if len(above) == 1 or len(below) == 1:
            self.map = nn.Linear(torch.Size(above).numel(), torch.Size(below).numel())
        elif isinstance(map, LocallyConnected2d):
            self.map = LocallyConnected2d(above[0], below[0], (below[1], below[2]), kernel=3, padding=1)
        else:
            kernel: tuple[int, int] = map.kernel_size  # type: ignore[assignment]
            padding = tuple((k - 1) // 2 for k in kernel)
            stride = tuple(-(-b // a) for b, a in zip(below[1:], above[1:], strict=True))
            kernel = tuple(max(k, s) for k, s in zip(kernel, stride, strict=True))  # type: ignore[assignment]
            base = [(a - 1) * s - 2 * p + k for a, s, p, k in zip(above[1:], stride, padding, kernel, strict=True)]
            extra = tuple(b - o for b, o in zip(below[1:], base, strict=True))
            if any(not 0 <= e < s for e, s in zip(extra, stride, strict=True)):  # odd sizes that no stride undoes
                self.map = nn.Sequential(nn.Upsample(below[1:]), nn.Conv2d(above[0], below[0], 3, padding=1))
            else:
                self.map = nn.ConvTranspose2d(above[0], below[0], kernel, stride, padding, extra)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.map, nn.Linear):
            return self.map(x.flatten(1)).unflatten(1, self.below)
        if isinstance(self.map, LocallyConnected2d):
            x = F.interpolate(x, self.map.in_size)
        return self.map(x)


class DifferenceTargetPropagation(Backpropagation):
    """The rule above.

    Args:
        noise: of the inverses' inputs, in standard deviations of the layer's activity over the batch.
        eta: size of the first target's step, in units of the gradient of one image's loss.
        order: "inverses" first (Lee et al. 2015), or "targets" first, from the inverses as they stood before the step
            (the authors' older code).
        steps: inverse steps a batch, each with noise of its own.
        rate: learning rate of the inverses.
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
                    f"The rule dtp takes a chain of layers with one linear map each; layer {number + 1} of the site has "
                    f"{len(maps_of(layer))}."
                )
        inverses = []
        for number, layer in enumerate(site.layers):
            above = output_shape(layer, shape)
            if number > 0:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(draws.key(seed, "inverse", site.index, number))
                    inverses.append(Inverse(layer, shape, above))
            shape = above
        parameter = next(site.layers.parameters())
        site.inverses = nn.ModuleList(inverses).to(parameter.device, parameter.dtype)
        if self.head == "random" and site.head is not None:
            RandomFeedback().convert(maps_of(site.head), draws.key(seed, "feedback", site.index))

    def groups(self, site: Site) -> dict[str, list[tuple[str, nn.Parameter]]]:
        named = [(name, p) for name, p in site.named_parameters() if p.requires_grad]
        groups = {
            "inverses": [(name, p) for name, p in named if name.startswith("inverses.")],
            "weights": [(name, p) for name, p in named if not name.startswith("inverses.")],
        }
        return {name: group for name, group in groups.items() if group}

    def phases(self, site: Site, batch: Batch) -> Iterator[str]:
        activities: list[
            Tensor
        ] = []  # x_0, x_1, ..., of the list that carries gradient, each cut off from the one below
        outputs: list[Tensor] = []  # f_l(x_{l-1}), each with the graph of its own layer alone
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
        loss.backward()  # the head's gradient, and dL/dx_{L-1}; nothing passes below it
        first = activities[-1]
        assert first.grad is not None
        images = len(batch.inputs) // (2 if site.needs.layout == "pair" else 1)
        scale = self.eta * (images if site.needs.reduction == "mean" else 1)
        shift = -scale * first.grad.float() if first.dtype != torch.float64 else -scale * first.grad
        activities[-1] = first.detach()

        if self.order == "targets":
            self._fill_layers(site, activities, outputs, shift)
            for step in range(self.steps if site.inverses else 0):
                self._fill_inverses(site, activities, batch, step)
                yield "inverses"
        else:
            for step in range(self.steps if site.inverses else 0):
                self._fill_inverses(site, activities, batch, step)
                yield "inverses"
            self._fill_layers(site, activities, outputs, shift)
        yield "weights"

    def _fill_inverses(self, site: Site, activities: list[Tensor], batch: Batch, step: int) -> None:
        """Gradients of |g_l(f_l(x~)) - x~|^2, summed over features and images, for every inverse."""
        for number, inverse in enumerate(site.inverses, start=1):
            x = activities[number]
            g = draws.generator(batch.seed, "noise", site.index, batch.step, number, step, device=x.device)
            noise = torch.randn(x.shape, generator=g, device=x.device, dtype=x.dtype)
            noisy = x + self.noise * x.std() * noise
            with torch.no_grad():
                above = site.layers[number](noisy)
            error = inverse(above).to(noisy.dtype) - noisy
            (error.float() if error.dtype == torch.bfloat16 else error).square().sum().backward()

    def _fill_layers(self, site: Site, activities: list[Tensor], outputs: list[Tensor], shift: Tensor) -> None:
        """Gradients of |f_l(x_{l-1}) - x^_l|^2 for every layer, from the top down; `shift` is x^_l - x_l.

        The shift travels in place of the target, and in full precision: against the activity it is too small for bfloat16.
        """
        for number in reversed(range(len(outputs))):
            outputs[number].backward((-2 * shift).to(outputs[number].dtype))
            if number > 0:
                shift = self._shift_below(site.inverses[number - 1], activities[number + 1], shift)

    @staticmethod
    def _shift_below(inverse: nn.Module, x: Tensor, shift: Tensor) -> Tensor:
        """g(x + shift) - g(x): the difference correction leaves only what the target changes."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.to(shift.dtype)
            with_target, without = inverse(torch.cat([x + shift, x])).chunk(2)
            return with_target - without


def reconstruction_errors(site: Site, x: Tensor) -> list[float]:
    """|g_l(f_l(x_{l-1})) - x_{l-1}|^2 / |x_{l-1}|^2 for each inverse, for inputs x of the site, without noise."""
    errors = []
    with torch.no_grad():
        for number, layer in enumerate(site.layers):
            above = layer(x)
            if number > 0:
                back = site.inverses[number - 1](above)
                errors.append(float((back - x).square().sum() / x.square().sum().clamp_min(1e-30)))
            x = above
    return errors
