"""Feedback rules: an error runs down through weights of its own in place of the forward weights' transpose (Eq. 10).

A converted map computes its output from its input's value alone, so that no gradient can pass through the forward
weights, and a bridge beside it sends the error down through the feedback weights:

    forward   y = W x                       gradient of W   delta x^T        (as ever)
    downward  error of x = B^T delta        B stored in W's shape, its own draw, its own memory
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn import grad as transposes
from torch.nn.modules.lazy import LazyModuleMixin

from .. import draws
from ..errors import InputError
from ..networks import FlatLinear, LocallyConnected2d, evaluating
from .gradient import Backpropagation
from .site import Batch, Site

Module = TypeVar("Module", bound=nn.Module)

_CONVOLUTIONS = {
    nn.Conv1d: transposes.conv1d_input,
    nn.Conv2d: transposes.conv2d_input,
    nn.Conv3d: transposes.conv3d_input,
}
_OURS = (FlatLinear, LocallyConnected2d)
MAPS = (*_OURS, nn.Linear, *_CONVOLUTIONS)
_SAFE = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)  # nothing below, or weights of single units


def _apply(map: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The linear map's output with `weight` in place of its own."""
    if isinstance(map, _OURS):
        return map.apply_weight(x, weight)
    if isinstance(map, nn.Linear):
        return F.linear(x, weight, map.bias)
    return map._conv_forward(x, weight, map.bias)  # type: ignore[operator]  # a convolution


def _transposed(map: Any, error: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of the map with `weight` (in the forward weight's shape), applied to an error of its output."""
    if isinstance(map, _OURS):
        return map.input_gradient(error, weight)
    if isinstance(map, nn.Linear):
        return error @ weight
    if error.ndim < weight.ndim:  # one image without a batch, which convolutions take
        return _transposed(map, error[None], weight, torch.Size((1, *shape)))[0]
    convolution = next(function for kind, function in _CONVOLUTIONS.items() if isinstance(map, kind))
    return convolution(shape, weight, error, map.stride, map.padding, map.dilation, map.groups)


class _Downward(torch.autograd.Function):
    """Identity on y; its backward also sends the error of y to x, through the feedback weights."""

    @staticmethod
    def forward(ctx, y, x, feedback, map):
        ctx.save_for_backward(feedback)
        ctx.map, ctx.shape, ctx.dtype = map, x.shape, x.dtype
        ctx.mark_dirty(y)  # a view of y would refuse the in-place activations that users put behind their maps
        return y

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


class Converted:
    """What a map gains by a change of class, which leaves its parameters and their names alone."""

    plain: type[nn.Module]  # what it was before
    weight: nn.Parameter
    feedback: nn.Parameter

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = super().__reduce_ex__(protocol)[2:]  # the class itself has no name that pickle could import
        return (_blank, (type(self).__bases__[0], self.plain), *state)


class Feedback(Converted):
    """`feedback` has the weight's shape, and trains along with the weight where it requires a gradient (URF)."""

    signs = False  # take the forward weight's signs (sign symmetry); `feedback` then holds magnitudes
    # of weight mirrors: the shape of the noise that drives the map at each step, and how often an image uses each synapse
    driven: tuple[int, ...]
    uses: Tensor

    def forward(self: Any, input: Tensor) -> Tensor:
        trains = self.feedback.requires_grad and self.weight.requires_grad
        y = _apply(self, input.detach(), _Share.apply(self.weight, self.feedback) if trains else self.weight)
        if not input.requires_grad:
            return y
        return _Downward.apply(y, input, self.downward(), self)

    def downward(self) -> Tensor:
        """The weights that errors run down through, in the forward weights' shape."""
        feedback = self.feedback.detach()
        return feedback * self.weight.detach().sign() if self.signs else feedback


class _Tape(list):
    """The taps of a network's forward pass, and whether one is under way; copies of the network start with none."""

    running = False

    def __reduce__(self) -> Any:
        return _Tape, ()


class Direct(Converted):
    """A map whose input is a tap into which the top's error is sent (`_Broadcast`).

    `feedback` is (outputs of the whole network, size of one image's input to this map).
    """

    tape: _Tape

    def forward(self: Any, input: Tensor) -> Tensor:
        if input.requires_grad and self.tape.running:
            self.tape.append((input, self.feedback))
        return _apply(self, input.detach(), self.weight)


class _Broadcast(torch.autograd.Function):
    """Identity on the network's output; its backward sends the output's error to every tap, through its own weights."""

    @staticmethod
    def forward(ctx, z, count, *taps_and_feedbacks):
        taps, feedbacks = taps_and_feedbacks[:count], taps_and_feedbacks[count:]
        ctx.save_for_backward(*feedbacks)
        ctx.shapes = [(tap.shape, tap.dtype) for tap in taps]
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, error):
        flat = error.flatten(1)
        sent = [
            (flat @ feedback.to(flat.dtype)).view(shape).to(dtype)
            for feedback, (shape, dtype) in zip(ctx.saved_tensors, ctx.shapes, strict=True)
        ]
        return error, None, *sent, *([None] * len(sent))


def _rewind(root: Any, args: tuple) -> None:
    """Forward pre-hook of a network under direct feedback: forget the taps of a pass that an error cut short."""
    root.tape.clear()
    root.tape.running = True


def _broadcast(root: Any, args: tuple, output: Any) -> Any:
    """Forward hook of a network under direct feedback; a site's output is (features, embedding)."""
    taps, feedbacks = [tap for tap, _ in root.tape], [feedback for _, feedback in root.tape]
    root.tape.clear()
    root.tape.running = False
    if not taps:
        return output
    z = output[-1] if isinstance(output, tuple) else output
    z = _Broadcast.apply(z, len(taps), *taps, *feedbacks)
    return (*output[:-1], z) if isinstance(output, tuple) else z


@cache
def _with(gain: Any, kind: Any) -> Any:
    return type(gain.__name__ + kind.__name__, (gain, kind), {"plain": kind})


def _blank(gain: Any, kind: Any) -> Any:
    made = _with(gain, kind)
    return made.__new__(made)


def maps_of(module: nn.Module) -> list[Any]:
    """The linear maps of a module, converted ones, too, in its order.

    Raises InputError for a part whose error would run down by backpropagation.
    """
    maps: list[Any] = []
    for name, part in module.named_modules():
        kind: Any = next((kind for kind in MAPS if isinstance(part, kind)), None)
        label = f"The part {name or 'itself'} ({type(part).__name__})"
        if kind is not None:
            own = part.plain if isinstance(part, Converted) else type(part)
            if own.forward is not kind.forward or isinstance(part, LazyModuleMixin):
                raise InputError(f"{label} computes something of its own; it takes a plain {kind.__name__}.")
            padding, mode = getattr(part, "padding", 0), getattr(part, "padding_mode", "zeros")
            if isinstance(padding, str) or mode != "zeros":
                raise InputError(f"{label} has padding {padding!r} of {mode}; it takes a number, of zeros.")
            maps.append(part)
        elif not isinstance(part, _SAFE) and any(p.ndim > 1 for p in part.parameters(recurse=False)):
            raise InputError(
                f"{label} holds weights through which errors would run down as they are; "
                f"it takes {', '.join(k.__name__ for k in MAPS)}."
            )
    return maps


def maps_above(site: Site) -> list[Any]:
    """The maps through which an error runs down inside a site: all but the lowest.

    Where the lowest layer holds several maps, such as a residual block, their order says nothing, and all are in.
    """
    maps = maps_of(nn.ModuleList(site.chain()))
    return maps[1:] if len(maps_of(site.layers[0])) == 1 else maps


def plain(module: Module) -> Module:
    """Undo every conversion below `module`, in place: it trains by backpropagation again."""
    for part in module.modules():
        gained = []
        if isinstance(part, Converted):
            gained = [name for name in ("feedback", "signs", "driven", "uses", "tape") if hasattr(part, name)]
            part.__class__ = part.plain  # type: ignore[assignment]  # of the class it had
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for number in [k for k, hook in hooks.items() if hook in (_broadcast, _rewind)]:
                del hooks[number]
                gained.append("tape")
        for name in set(gained):
            delattr(part, name)
    return module


def _run_through(
    root: nn.Module, maps: list[Any], shape: tuple[int, ...] | None, rule: str
) -> tuple[list[tuple[int, ...]], Any]:
    """The shapes of one example's inputs to `maps`, and the output of `root`, for an example of `shape`; InputError else."""
    if shape is None:
        raise InputError(
            f"The rule {rule} needs example, the shape of one input such as (3, 32, 32), for the sizes within."
        )
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(map: Any, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = next(iter((*args, *named.values())))
        convolution = any(isinstance(map, kind) for kind in _CONVOLUTIONS)
        one = map.weight.ndim - 1 if convolution else max(x.ndim - 1, 1)
        shapes[map] = tuple(x.shape[x.ndim - one :])

    hooks = [map.register_forward_pre_hook(note, with_kwargs=True) for map in maps]
    like = next(root.parameters())
    try:
        with torch.no_grad(), evaluating(root):
            output = root(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    except Exception as error:  # of code of the user's own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"The rule {rule} cannot run an example of shape {tuple(shape)} ({reason}).") from error
    finally:
        for hook in hooks:
            hook.remove()
    if len(shapes) < len(maps):
        unused = [name for name, part in root.named_modules() if part in maps and part not in shapes]
        raise InputError(
            f"The rule {rule} takes a module that uses all of its maps; this one does not use {', '.join(unused)}."
        )
    return [shapes[map] for map in maps], output


class RandomFeedback(Backpropagation):
    """A fixed random B in place of W^T (Eq. 10): uniform within 1/sqrt(fan-in), as PyTorch draws W by default, by a seed of its own."""

    trains = False
    signs = False

    def prepare(self, site: Site, shape: tuple[int, ...], seed: int) -> None:
        self.convert(site, maps_above(site), draws.key(seed, "feedback", site.index), shape)

    def convert(self, root: nn.Module, maps: list[Any], seed: int, shape: tuple[int, ...] | None = None) -> None:
        """Give each of `maps`, in `root`, feedback weights of its own draw in place of what it had; maps that share a weight
        share them, so that URF follows it. `shape` is that of one example, for rules that need to know sizes."""
        given: dict[nn.Parameter, nn.Parameter] = {}
        for number, part in enumerate(maps):
            weight = part.weight
            if weight not in given:
                uniform = torch.rand(weight.shape, generator=draws.generator(seed, number), dtype=torch.float64)
                fan_in = weight.shape[-1] if isinstance(part, LocallyConnected2d) else weight[0].numel()
                shaped = self.shaped(uniform, fan_in**-0.5)
                if not isinstance(shaped, Tensor) or shaped.shape != weight.shape:
                    raise InputError(
                        f"{type(self).__name__}.shaped gave {type(shaped).__name__} {tuple(getattr(shaped, 'shape', ()))}; it "
                        f"takes a tensor of the weight's shape, {tuple(weight.shape)}."
                    )
                given[weight] = nn.Parameter(torch.empty_like(weight).copy_(shaped), requires_grad=self.trains)
        plain(root)
        for part in maps:
            kind: Any = type(part)
            part.__class__ = _with(Feedback, kind)
            part.feedback, part.signs = given[part.weight], self.signs

    def shaped(self, uniform: Tensor, bound: float) -> Tensor:
        """Feedback weights from uniform draws in [0, 1)."""
        return (2 * uniform - 1) * bound


class UpdatedFeedback(RandomFeedback):
    """URF (Amit 2019): B starts at its own random values and receives W's increments.

    B is handed W's gradient and an optimizer of the same kind, so B - W stays as it started. With weight decay on both
    it dies away instead, which is the rule of Kolen and Pollack (1994; Akrout et al. 2019).
    """

    trains = True

    def copies(self, site: Site) -> dict[nn.Parameter, nn.Parameter]:
        return {part.feedback: part.weight for part in site.modules() if isinstance(part, Feedback)}


class SignSymmetry(RandomFeedback):
    """B has W's signs, and magnitudes of its own: fixed random ones, or all alike (Liao, Leibo and Poggio 2016)."""

    signs = True

    def __init__(self, *, magnitudes: str = "random"):
        self.magnitudes = magnitudes

    def shaped(self, uniform: Tensor, bound: float) -> Tensor:
        # All alike: the mean magnitude of the random ones, so that errors keep their scale.
        return uniform * bound if self.magnitudes == "random" else torch.full_like(uniform, bound / 2)


class WeightMirrors(RandomFeedback):
    """B learns W from noise: each map is driven by noise x and answers by y = W x, and B moves towards x y^T (Akrout et al. 2019).

    At each step, before the weights learn, every map that has feedback is driven alone, by standard normal noise x at all of
    its inputs, and B descends B - E[x y^T]: the Hebbian product of what stands at its two ends, and decay. Since E[x x^T] is 1,
    B = W^T is where that ends; no synapse reads another.

    Args:
        rate: learning rate of B, by an optimizer of the run's kind.
        samples: patterns of noise a step: images of it, times the places where a convolution uses its weights in each.
    """

    def __init__(self, *, rate: float = 1e-3, samples: int = 256):
        self.samples = samples
        self.rates = {"mirrors": rate}

    def convert(self, root: nn.Module, maps: list[Any], seed: int, shape: tuple[int, ...] | None = None) -> None:
        shapes, _ = _run_through(root, maps, shape, "weight-mirrors")
        uses = [_uses(part, below) for part, below in zip(maps, shapes, strict=True)]
        super().convert(root, maps, seed)
        for part, below, often in zip(maps, shapes, uses, strict=True):
            part.driven = (math.ceil(self.samples / float(often.max())), *below)
            part.uses = often.clamp_min(1)

    def groups(self, site: Site) -> dict[str, list[tuple[str, nn.Parameter]]]:
        feedback = {part.feedback for part in site.modules() if isinstance(part, Feedback)}
        mirrors = [(name, p) for name, p in site.named_parameters() if p in feedback]
        return ({"mirrors": mirrors} if mirrors else {}) | super().groups(site)

    def phases(self, site: Site, batch: Batch) -> Iterator[str]:
        if self.mirror(site, batch.seed, batch.step, site.index):
            feedback: Any
            for _, feedback in self.groups(site)["mirrors"]:
                if batch.ranks.shares:  # each has the whole gradient; summed, rounding cannot part them
                    feedback.grad /= batch.ranks.count
            yield "mirrors"
        yield from super().phases(site, batch)

    def mirror(self, root: nn.Module, seed: int = 0, step: int = 0, *purpose: int) -> int:
        """Fill the gradients of all feedback weights in `root` with B - x y^T, a mean over noise; returns how many maps there are.

        In a training loop of your own it is called at each step, with its number, before the optimizer's step. Raises InputError
        for feedback of another rule.
        """
        parts: list[Any] = [part for part in root.modules() if isinstance(part, Converted)]
        if not all(hasattr(part, "driven") for part in parts):
            raise InputError("mirror was given a module of another rule; it takes one converted to weight-mirrors.")
        for part in parts:
            part.feedback.grad = None
        for number, part in enumerate(parts):
            feedback = part.feedback
            x = draws.normal(
                part.driven, seed, "mirror", *purpose, step, number, dtype=feedback.dtype, device=feedback.device
            )
            gradient = feedback.detach() - _answered(part, x) / (len(x) * part.uses.to(x))
            feedback.grad = gradient if feedback.grad is None else feedback.grad + gradient
        return len(parts)


# A map is linear in its weights, so that its gradient there, of y as the error, is the product of what stands at both ends.


def _answered(map: Any, x: Tensor) -> Tensor:
    """Input times answer, y = W x, at each synapse of a map, summed over images and places."""
    weight = map.weight.detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        answer = functional_call(map, {"weight": weight}, (x,))
    y = answer.detach()
    if (bias := getattr(map, "bias", None)) is not None:  # of the answer noise in B alone
        y = y - bias.detach().view(-1, *[1] * (weight.ndim - 2))
    return torch.autograd.grad(answer, weight, y)[0]


def _uses(map: Any, shape: tuple[int, ...]) -> Tensor:
    """How often an image of `shape` uses each synapse of a map, in a shape that spreads to its weight's: a convolution's at the
    border fewer times, some of a local map's never."""
    weight = map.weight.detach().requires_grad_()
    with torch.enable_grad():
        answer = _apply(map, weight.new_ones(1, *shape), weight)
    (uses,) = torch.autograd.grad(answer, weight, torch.ones_like(answer))
    for axis in range(uses.ndim):
        first = uses.narrow(axis, 0, 1)
        uses = first if torch.equal(uses, first.expand_as(uses)) else uses
    return uses.clone()


class DirectFeedback(RandomFeedback):
    """DFA: each layer gets the output's error through a fixed random matrix of its own (Nøkland 2016).

    The error arrives at the input of a map; from there it runs through pools, activations and skip connections, which
    have no weights, as ever.
    """

    def convert(self, root: nn.Module, maps: list[Any], seed: int, shape: tuple[int, ...] | None = None) -> None:
        """Convert `maps` of `root`; `shape` is one example's, run through once to learn the sizes."""
        shapes, output = _run_through(root, maps, shape, "dfa")
        top = output[-1] if isinstance(output, tuple) else output
        if not isinstance(top, Tensor):
            raise InputError(
                f"The rule dfa takes a module with one output tensor; this one gives {type(top).__name__}."
            )
        plain(root)
        outputs, tape = top[0].numel(), _Tape()
        root.tape = tape  # type: ignore[assignment]  # a list on a module
        root.register_forward_pre_hook(_rewind)
        root.register_forward_hook(_broadcast)
        for number, (part, below) in enumerate(zip(maps, shapes, strict=True)):
            drawn = torch.rand(outputs, math.prod(below), generator=draws.generator(seed, number))
            drawn = ((2 * drawn - 1) * outputs**-0.5).to(part.weight.device, part.weight.dtype)
            kind: Any = type(part)
            part.__class__ = _with(Direct, kind)
            part.feedback, part.tape = nn.Parameter(drawn, requires_grad=False), tape
