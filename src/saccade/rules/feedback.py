"""Feedback rules: an error runs down through weights of its own in place of the forward weights' transpose (Eq. 10).

A converted map computes its output from its input's value alone, so that no gradient can pass through the forward
weights, and a bridge beside it sends the error down through the feedback weights:

    forward   y = W x                       gradient of W   delta x^T        (as ever)
    downward  error of x = B^T delta        B stored in W's shape, its own draw, its own memory
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn import grad as transposes

from .. import draws
from ..errors import InputError
from ..networks import LocallyConnected2d
from .gradient import Backpropagation
from .site import Site

_CONVOLUTIONS = {
    nn.Conv1d: transposes.conv1d_input,
    nn.Conv2d: transposes.conv2d_input,
    nn.Conv3d: transposes.conv3d_input,
}
MAPS = (nn.Linear, LocallyConnected2d, *_CONVOLUTIONS)


def _apply(map: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The linear map's output with `weight` in place of its own."""
    if isinstance(map, nn.Linear):
        return F.linear(x, weight, map.bias)
    if isinstance(map, LocallyConnected2d):
        return map.apply_weight(x, weight)
    return map._conv_forward(x, weight, map.bias)  # type: ignore[operator,union-attr]


def _transposed(map: Any, error: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of the linear map with `weight` (in the forward weight's shape), applied to an error of its output."""
    if isinstance(map, nn.Linear):
        return error @ weight
    if isinstance(map, LocallyConnected2d):
        return map.input_gradient(error, weight)
    convolution = next(function for kind, function in _CONVOLUTIONS.items() if isinstance(map, kind))
    return convolution(shape, weight, error, map.stride, map.padding, map.dilation, map.groups)


class _Downward(torch.autograd.Function):
    """Identity on y; its backward also sends the error of y to x, through the feedback weights."""

    @staticmethod
    def forward(ctx, y, x, feedback, map):
        ctx.save_for_backward(feedback)
        ctx.map, ctx.shape, ctx.dtype = map, x.shape, x.dtype
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx, error):
        (feedback,) = ctx.saved_tensors
        down = _transposed(ctx.map, error, feedback.to(error.dtype), ctx.shape)
        return error, down.to(ctx.dtype), None, None


class _Share(torch.autograd.Function):
    """Identity on the weight; its backward hands the weight's gradient to the feedback weight too (URF)."""

    @staticmethod
    def forward(ctx, weight, feedback):
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient, gradient.clone()


class Feedback:
    """What a converted map gains, by a change of class that leaves its parameters and their names alone."""

    feedback: nn.Parameter  # in the weight's shape; trains along with the weight where it requires a gradient (URF)
    signs = False  # take the forward weight's signs (sign symmetry); `feedback` then holds magnitudes

    def forward(self: Any, x: Tensor) -> Tensor:
        weight = _Share.apply(self.weight, self.feedback) if self.feedback.requires_grad else self.weight
        y = _apply(self, x.detach(), weight)
        if not x.requires_grad:
            return y
        feedback = self.feedback.detach()
        return _Downward.apply(y, x, feedback * self.weight.detach().sign() if self.signs else feedback, self)


class Direct:
    """What a map gains under direct feedback: its input is a tap into which the top's error is sent (`_Broadcast`)."""

    feedback: nn.Parameter  # (outputs of the whole network, size of one image's input to this map)
    tape: list

    def forward(self: Any, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.tape.append((x, self.feedback))
        return _apply(self, x.detach(), self.weight)


class _Broadcast(torch.autograd.Function):
    """Identity on the network's output; its backward sends the output's error to every tap, each through its own weights."""

    @staticmethod
    def forward(ctx, z, count, *taps_and_feedbacks):
        taps, feedbacks = taps_and_feedbacks[:count], taps_and_feedbacks[count:]
        ctx.save_for_backward(*feedbacks)
        ctx.shapes = [(tap.shape, tap.dtype) for tap in taps]
        return z.view_as(z)

    @staticmethod
    @once_differentiable
    def backward(ctx, error):
        flat = error.flatten(1)
        sent = [
            (flat @ feedback.to(flat.dtype)).view(shape).to(dtype)
            for feedback, (shape, dtype) in zip(ctx.saved_tensors, ctx.shapes, strict=True)
        ]
        return error, None, *sent, *([None] * len(sent))


def _broadcast(root: nn.Module, args: tuple, output: Any) -> Any:
    """Forward hook of a network under direct feedback; a site's output is (features, embedding)."""
    taps, feedbacks = [tap for tap, _ in root.tape], [feedback for _, feedback in root.tape]  # type: ignore[union-attr]
    root.tape.clear()  # type: ignore[union-attr,operator]
    if not taps:
        return output
    z = output[-1] if isinstance(output, tuple) else output
    z = _Broadcast.apply(z, len(taps), *taps, *feedbacks)
    return (*output[:-1], z) if isinstance(output, tuple) else z


@cache
def _with(gain: type, kind: type) -> type:
    return type(gain.__name__ + kind.__name__, (gain, kind), {"plain": kind})


def maps_of(module: nn.Module) -> list[nn.Module]:
    """The linear maps of a module, in its order. Raises InputError for a part whose error would run down by backpropagation."""
    maps = []
    for name, part in module.named_modules():
        kind = next((kind for kind in MAPS if isinstance(part, kind)), None)
        if kind is not None:
            if type(part).forward is not kind.forward or isinstance(getattr(part, "padding", 0), str):  # type: ignore[attr-defined]
                raise InputError(
                    f"The part {name or 'itself'} ({type(part).__name__}) is no plain {kind.__name__}; it takes plain ones."
                )
            if getattr(part, "padding_mode", "zeros") != "zeros":
                raise InputError(f"The part {name} pads with {part.padding_mode!r}; it takes zeros.")  # type: ignore[union-attr]
            maps.append(part)
        elif not isinstance(part, nn.Embedding) and any(p.ndim > 1 for p in part.parameters(recurse=False)):
            raise InputError(
                f"The part {name or 'itself'} ({type(part).__name__}) would pass its error down through its own weights; "
                f"it takes {', '.join(k.__name__ for k in MAPS)}."
            )
    return maps


def plain(module: nn.Module) -> nn.Module:
    """Undo every conversion below `module`, in place: it trains by backpropagation again."""
    for part in module.modules():
        if isinstance(part, Feedback | Direct):
            del part.feedback  # type: ignore[union-attr]
            part.__class__ = type(part).plain  # type: ignore[union-attr]
        part._forward_hooks = type(part._forward_hooks)(
            (k, hook) for k, hook in part._forward_hooks.items() if hook is not _broadcast
        )
    return module


class RandomFeedback(Backpropagation):
    """A fixed random B in place of W^T (Eq. 10), drawn as W is: uniform within 1/sqrt(fan-in), from a seed of its own."""

    trains = False
    signs = False

    def prepare(self, site: Site, shape: tuple[int, ...], seed: int) -> None:
        # The lowest map of a site passes no error on, so it needs no feedback.
        maps = maps_of(nn.ModuleList(site.stages()))
        self.convert(maps[1:], draws.key(seed, "feedback", site.index))

    def convert(self, maps: list[nn.Module], seed: int) -> None:
        for number, part in enumerate(maps):
            self._give(part, draws.generator(seed, number))

    def _give(self, part: Any, generator: torch.Generator) -> None:
        weight = part.weight
        fan_in = weight[0].numel() if not isinstance(part, LocallyConnected2d) else weight.shape[-1]
        drawn = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        drawn = self.shaped(drawn, fan_in**-0.5).to(weight.device, weight.dtype)
        part.__class__ = _with(Feedback, type(part))
        part.feedback = nn.Parameter(drawn, requires_grad=self.trains)
        part.signs = self.signs

    def shaped(self, uniform: Tensor, bound: float) -> Tensor:
        """Feedback weights from uniform draws in [0, 1)."""
        return (2 * uniform - 1) * bound


class UpdatedFeedback(RandomFeedback):
    """URF (Amit 2019): B starts at its own random values and receives W's increments.

    B is handed W's gradient and an optimizer of the same kind, so B - W stays as it started. With weight decay on both it
    dies away instead, which is the rule of Kolen and Pollack (1994; Akrout et al. 2019).
    """

    trains = True


class SignSymmetry(RandomFeedback):
    """B has W's signs, and magnitudes of its own: fixed random ones, or all alike (Liao, Leibo and Poggio 2016)."""

    signs = True

    def __init__(self, *, magnitudes: str = "random"):
        self.magnitudes = magnitudes

    def shaped(self, uniform: Tensor, bound: float) -> Tensor:
        # All alike: the mean magnitude of the random ones, so that errors keep their scale.
        return uniform * bound if self.magnitudes == "random" else torch.full_like(uniform, bound / 2)


class DirectFeedback(Backpropagation):
    """DFA: each layer gets the output's error through a fixed random matrix of its own (Nokland 2016)."""

    def prepare(self, site: Site, shape: tuple[int, ...], seed: int) -> None:
        maps = maps_of(nn.ModuleList(site.stages()))[1:]
        self.convert(site, maps, shape, draws.key(seed, "feedback", site.index))

    def convert(self, root: nn.Module, maps: list[nn.Module], shape: tuple[int, ...], seed: int) -> None:
        """Convert `maps` of `root`; `shape` is one example's, run through once to learn the sizes."""
        sizes: dict[nn.Module, int] = {}
        hooks = [m.register_forward_pre_hook(lambda m, args: sizes.__setitem__(m, args[0][0].numel())) for m in maps]
        parameter = next(root.parameters())
        training = root.training
        with torch.no_grad():
            output = root.eval()(torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device))
        root.train(training)
        for hook in hooks:
            hook.remove()
        outputs = (output[-1] if isinstance(output, tuple) else output)[0].numel()
        root.tape = []  # type: ignore[assignment]
        root.register_forward_hook(_broadcast)
        for number, part in enumerate(maps):
            drawn = torch.rand(outputs, sizes[part], generator=draws.generator(seed, number), dtype=torch.float32)
            drawn = ((2 * drawn - 1) * outputs**-0.5).to(parameter.device, parameter.dtype)
            part.__class__ = _with(Direct, type(part))
            part.feedback = nn.Parameter(drawn, requires_grad=False)  # type: ignore[assignment]
            part.tape = root.tape  # type: ignore[assignment]
