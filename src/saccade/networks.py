"""Encoders as plain chains of layers, heads, and the networks of the paper.

An encoder is an `nn.Sequential` whose children are layers; a layer is an `nn.Sequential` whose children carry names
that say what they are: `flatten`, `linear` (a convolution, a locally connected or a fully connected map), `activation`,
`pool`. Rules, diagnostics and the audit read nothing but this.
"""

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter

from . import draws
from .config.grammar import Call, called, imported, is_dotted, parse_call, parse_calls
from .config.names import ACTIVATIONS, NETWORKS
from .errors import InputError


class FlatLinear(nn.Linear):
    """A linear map of features (batch, *in_shape), flattened in this order: `flatten linearN` of a spec, in one.

    Features that lie channels last are read as they lie: the weight's columns are put in their order, and not the
    features, which are many times larger, in the weight's. Their gradient comes channels last, too.
    """

    def __init__(self, in_shape: tuple[int, ...], out_features: int, bias: bool = True):
        super().__init__(math.prod(in_shape), out_features, bias)
        self.in_shape = in_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_weight(x, self.weight)

    def apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """The map with `weight` in place of its own."""
        return _channels_last_linear(x, weight, self.bias)

    def input_gradient(self, error: Tensor, weight: Tensor) -> Tensor:
        """The transposed map with `weight` applied to `error` (batch, out_features)."""
        last = (*self.in_shape[1:], self.in_shape[0])
        return (error @ _channels_last_columns(weight, self.in_shape)).unflatten(1, last).movedim(-1, 1)


@torch.fx.wrap  # torch.fx, which torchvision names layers with, takes it as one step: it cannot trace a question
def _channels_last_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not x.is_contiguous():
        x, weight = x.movedim(1, -1), _channels_last_columns(weight, x.shape[1:])
    return F.linear(x.flatten(1), weight, bias)


def _channels_last_columns(weight: Tensor, in_shape: tuple[int, ...]) -> Tensor:
    return weight.unflatten(1, in_shape).movedim(1, -1).flatten(1)


class LocallyConnected2d(nn.Module):
    """A convolution's connections without its weight sharing: every output position has weights of its own.

    Input (batch, in_channels, *in_size), output (batch, out_channels, *out_size); `weight` is (positions, out_channels,
    in_channels * kernel * kernel), initialized as PyTorch initializes the convolution of the same fan-in.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_size: tuple[int, int],
        kernel: int,
        stride: int = 1,
        padding: int = 0,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.in_size = in_channels, out_channels, in_size
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.out_size = tuple((s + 2 * padding - kernel) // stride + 1 for s in in_size)
        if padding < 0 or min(self.out_size) < 1:
            raise InputError(
                f"A locally connected map with kernel {kernel} and padding {padding} has no positions on features of "
                f"{in_size[0]}x{in_size[1]}; it takes a smaller kernel or larger images."
            )
        fan_in = in_channels * kernel * kernel
        self.weight = nn.Parameter(torch.empty(math.prod(self.out_size), out_channels, fan_in))
        nn.init.uniform_(self.weight, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_weight(x, self.weight)

    def apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """The map with `weight` in place of its own."""
        columns = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)  # (batch, fan_in, positions)
        y = torch.bmm(columns.permute(2, 0, 1), weight.transpose(1, 2))  # (positions, batch, out_channels)
        return y.permute(1, 2, 0).reshape(x.shape[0], self.out_channels, *self.out_size)

    def input_gradient(self, error: Tensor, weight: Tensor) -> Tensor:
        """The transposed map with `weight` applied to `error` (batch, out_channels, *out_size)."""
        columns = torch.bmm(error.flatten(2).permute(2, 0, 1), weight)  # (positions, batch, fan_in)
        return F.fold(columns.permute(1, 2, 0), self.in_size, self.kernel, padding=self.padding, stride=self.stride)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel={self.kernel}, stride={self.stride}"


class Layer(nn.Sequential):
    """One layer of a chain: named children `flatten`, `linear`, `activation`, `pool`, in the order of computation."""


def build(
    spec: str, shape: tuple[int, ...], seed: int = 0, *, what: str = "network", first: int = 0, bias: bool = False
) -> nn.Sequential:
    """An encoder for images of `shape` (channels, height, width), with PyTorch's default initialization.

    `spec` is a name of `config.names.NETWORKS`, a dotted path to an `nn.Sequential` (or a callable that returns one, with
    options or without), or layers separated by `|`, each a list of `convN`, `localN`, `linearN` (N outputs), `flatten`,
    activations and `maxpoolK`, `avgpoolK` (K = 2 if left out), in order: `conv32 hardtanh | conv32 maxpool`. Convolutions are 3x3 with
    padding 1 and no bias, as the paper's; `conv32(kernel=5, stride=2, padding=2, bias=true)` changes that. The seed
    fixes the initial weights layer by layer: layer k draws the same numbers whatever stands beside it.

    >>> [tuple(p.shape) for p in build("cifar", (3, 32, 32)).parameters()][-1]
    (512, 64, 3, 3)

    Raises InputError for an unknown name or a stack that does not fit the images.
    """
    if spec in NETWORKS:
        spec = NETWORKS[spec].layers
    elif is_dotted(spec):
        return _imported(spec, shape, seed, what, first)
    layers: list[nn.Module] = []
    for number, text in enumerate(stack := spec.split("|")):
        calls = parse_calls(text, what if len(stack) == 1 else f"{what}'s layer {number + 1}")
        with draws.seeded(seed, what, first + number):
            layer = _layer(calls, shape, what, bias)
        shape = output_shape(layer, shape, what)
        layers.append(layer)
    return nn.Sequential(*layers)


def head(
    spec: str, shape: tuple[int, ...], outputs: int | None, seed: int, site: int, *, bias: bool = False
) -> nn.Module:
    """A head for features of `shape`: `spec` is one layer, such as `avgpool flatten linear64`.

    `outputs` replaces the width of its linear map (a supervised head has one output a class).
    """
    if outputs is not None:
        if is_dotted(spec):
            raise InputError(
                f"The head {spec} is made elsewhere; for {outputs} classes it takes a list of parts, such as 'flatten linear64'."
            )
        given = spec
        spec, widths = re.subn(r"linear\d+", f"linear{outputs}", given)
        if widths != 1:
            raise InputError(f"The head {given!r} has {widths} linear maps; for {outputs} classes it takes one.")
    layer, *more = build(spec, shape, seed, what="head", first=site, bias=bias)
    if more:
        raise InputError(f"The head {spec!r} has several layers; it takes one, such as 'flatten linear64'.")
    if len(after := output_shape(layer, shape, "head")) != 1:
        raise InputError(
            f"The head {spec!r} leaves features of shape {after}; it takes one that ends flat, in linear64."
        )
    return layer


def _layer(calls: list[Call], shape: tuple[int, ...], what: str, bias: bool) -> Layer:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    below = shape
    for call in calls:
        match = re.fullmatch(r"([a-z]+)([0-9]{0,9})", call.name)
        kind, number = (match[1], int(match[2] or 0)) if match else (call.name, 0)
        if kind == "linear" and next(reversed(parts), None) == "flatten":
            del parts["flatten"]
            shape = below
        elif kind == "linear" and len(shape) != 1:
            raise InputError(f"The {what} has {call} on features of shape {shape}; put flatten before it.")
        role, module = _part(kind, number, call, shape, what, bias)
        if role in parts:
            raise InputError(
                f"The {what} has two parts of the kind {role!r} in one layer ({call}); it takes one a layer."
            )
        parts[role] = module
        below, shape = shape, output_shape(module, shape, what)
    return Layer(parts)


def _part(kind: str, number: int, call: Call, shape: tuple[int, ...], what: str, bias: bool) -> tuple[str, nn.Module]:
    if str(call) == "flatten":
        return "flatten", nn.Flatten()
    if str(call) in ACTIVATIONS:
        return "activation", getattr(nn, ACTIVATIONS[kind])()
    if kind in ("maxpool", "avgpool") and str(call) in (kind, f"{kind}{number}") and str(call) != f"{kind}0":
        return "pool", (nn.MaxPool2d if kind == "maxpool" else nn.AvgPool2d)(number or 2)
    if kind in ("conv", "local", "linear") and number > 0 and not call.args:
        if kind == "linear":
            options = _options(call, {"bias": bias}, what)
            _affordable(call, math.prod(shape) * number, number, what)
            if len(shape) == 1:
                return "linear", nn.Linear(shape[0], number, bias=options["bias"])
            return "linear", FlatLinear(shape, number, bias=options["bias"])
        if len(shape) != 3:
            raise InputError(
                f"The {what} has {call} on flat features of shape {shape}; it takes (channels, height, width)."
            )
        defaults = {"kernel": 3, "stride": 1, "padding": 1}
        options = _options(call, defaults | {"bias": bias} if kind == "conv" else defaults, what)
        kernel, stride, padding = (options[name] for name in defaults)
        places = math.prod(max((side + 2 * padding - kernel) // stride + 1, 0) for side in shape[1:])
        each = shape[0] * number * kernel * kernel
        _affordable(call, each if kind == "conv" else each * places, number * places, what)
        if kind == "conv":
            options.pop("kernel")
            return "linear", nn.Conv2d(shape[0], number, kernel, **options)
        return "linear", LocallyConnected2d(shape[0], number, (shape[1], shape[2]), **options)
    valid = "convN, localN, linearN, flatten, maxpoolK, avgpoolK, " + ", ".join(ACTIVATIONS)
    raise InputError(
        f"The {what} has an unknown part {str(call)!r}; it takes a name ({', '.join(NETWORKS)}), a dotted path, "
        f"or layers of {valid}."
    )


def _options(call: Call, defaults: dict, what: str) -> dict:
    for name, value in call.options.items():
        if (
            name not in defaults
            or type(value) is not type(defaults[name])
            or (name in ("kernel", "stride") and value < 1)
            or value > 4096
        ):
            raise InputError(
                f"The {what} has {call}; it takes the options {', '.join(defaults)}, whole numbers up to 4096 "
                "(bias: true)."
            )
    return defaults | call.options


_LARGEST = 1 << 30  # weights of a map, or numbers that it makes of one image


def _affordable(call: Call, weights: int, outputs: int, what: str) -> None:
    if max(weights, outputs) > _LARGEST:
        raise InputError(
            f"The {what} has {call}, {weights:,} weights and {outputs:,} outputs an image; it takes at most {_LARGEST:,}."
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode for a while; each part then returns to the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def output_shape(module: nn.Module, shape: tuple[int, ...], what: str = "network") -> tuple[int, ...]:
    """The shape of one image's features after `module`, given their shape before it.

    Raises InputError where they don't fit.
    """
    parameter = next(module.parameters(), None)
    dtype, device = (
        (parameter.dtype, parameter.device) if parameter is not None else (torch.float32, torch.device("cpu"))
    )
    try:
        with torch.no_grad(), evaluating(module):
            output = module(torch.zeros(1, *shape, dtype=dtype, device=device))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"The {what} does not fit features of shape {tuple(shape)}: {reason}") from None
    if not isinstance(output, Tensor):
        raise InputError(
            f"The {what} has a layer that gives a {type(output).__name__}; it takes layers that give one tensor."
        )
    if 0 in output.shape:
        raise InputError(f"The {what} leaves nothing of features of shape {tuple(shape)}; it takes larger images.")
    return tuple(output.shape[1:])


def shapes(encoder: Iterable[nn.Module], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of one image's features: the input's, then one after each layer.

    >>> shapes(build("emnist", (1, 28, 28)), (1, 28, 28))
    [(1, 28, 28), (32, 14, 14), (64, 7, 7), (128, 3, 3)]
    """
    result = [tuple(shape)]
    for layer in encoder:
        result.append(output_shape(layer, result[-1]))
    return result


def load_weights(module: nn.Module, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Fill `module` with tensors by name; `source` names their origin in the error. Raises InputError for others' names."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"The weights of {source} do not fit its configuration: {str(error).splitlines()[-1].strip()}"
        ) from None


def activity(module: nn.Module, shape: tuple[int, ...]) -> int:
    """How many numbers the parts of `module` give for one image of `shape`: what a backward pass has to remember.

    A locally connected map remembers its input once for each weight that it meets.

    >>> activity(build("conv2 relu maxpool", (1, 4, 4)), (1, 4, 4))
    72
    """
    counts: list[int] = []

    def count(part: nn.Module, given: Any, made: Any) -> None:
        copies = part.weight[:, 0].numel() if isinstance(part, LocallyConnected2d) else 0
        several = made if isinstance(made, tuple | list) else [made]  # a recurrent part's outputs and state, say
        counts.append(sum(one.numel() for one in several if isinstance(one, Tensor)) + copies)

    hooks = [part.register_forward_hook(count) for part in module.modules() if not any(part.children())]
    try:
        output_shape(module, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)


def layers_of(module: nn.Sequential) -> nn.Sequential:
    """A user's chain as layers: each child with a map opens one, and the parts that follow it join it.

    A part has a map where one of its parameters has two dimensions or more; normalizations have none. A flatten before
    a map goes with that map.

    >>> chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    >>> [[name for name, _ in layer.named_children()] for layer in layers_of(chain)]
    [['linear', 'batchnorm2d', 'activation'], ['flatten', 'linear']]
    """
    if all(isinstance(child, Layer) for child in module):
        return module
    groups: list[list[nn.Module]] = [[]]
    for child in module:
        if any(map(_has_map, groups[-1])) and (_has_map(child) or isinstance(child, nn.Flatten)):
            groups.append([])
        groups[-1].append(child)
    if len(groups) > 1 and not any(map(_has_map, groups[-1])):  # a flatten at the end belongs to the last layer
        last = groups.pop()
        groups[-1] += last
    return nn.Sequential(*(Layer(OrderedDict(_named(group))) for group in groups))


def _has_map(part: nn.Module) -> bool:
    return any(p.ndim > 1 for p in part.parameters())


def _named(parts: list[nn.Module]) -> list[tuple[str, nn.Module]]:
    names: list[str] = []
    for part in parts:
        kind = type(part)
        name = "pool" if "Pool" in kind.__name__ else kind.__name__.lower()
        name = "activation" if kind.__module__ == nn.ReLU.__module__ else name
        name = "linear" if _has_map(part) else name
        names.append(name if name not in names else f"{name}{len(names)}")
    return list(zip(names, parts, strict=True))


def _imported(spec: str, shape: tuple[int, ...], seed: int, what: str, first: int) -> nn.Sequential:
    call = parse_call(spec, what)
    found = imported(call.name, what)
    ready = isinstance(found, nn.Module) and not (call.args or call.options)
    with draws.seeded(seed, what, first):
        # A module at the path stays as it is there: what trains is a copy.
        module = copy.deepcopy(found) if ready else called(found, call, f"The {what} {spec!r}")
    takes = "it takes an nn.Sequential with weights, or a callable that makes one"
    if not isinstance(module, nn.Sequential):
        raise InputError(f"The {what} {spec!r} is a {type(module).__name__}; {takes}.")
    if not _has_map(module) or any(isinstance(p, UninitializedParameter) for p in module.parameters()):
        raise InputError(f"The {what} {spec!r} has no weights, or lazy ones, whose sizes are not known; {takes}.")
    module = layers_of(module)
    shapes(module, shape)
    return module
