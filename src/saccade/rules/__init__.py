"""Rules: how an error reaches a weight. `convert` gives a feedback rule to any `torch.nn.Module`."""

from typing import Any

from torch import nn

from .. import draws
from ..config.names import RULES, choose
from ..errors import InputError
from ..networks import imported
from .feedback import DirectFeedback, RandomFeedback, maps_of, plain
from .site import Batch, Site

__all__ = ["Batch", "Site", "convert", "make", "plain"]


def make(text: str) -> Any:
    """The rule that `text` names, such as `dtp(eta=0.5)`, or a dotted path to a class of one's own."""
    call, entry = choose(text, RULES, "rule")
    try:
        return imported(entry.path if entry else call.name, "rule")(**call.options)
    except TypeError as error:
        raise InputError(f"The rule {text!r} cannot be made: {error}.") from None


def convert(module: nn.Module, rule: str, *, seed: int = 0, example: tuple[int, ...] | None = None) -> nn.Module:
    """Make a user's module learn by a feedback rule, in place: train it with its usual loss and `backward()`.

    Every convolution, linear and locally connected map keeps its weights and their names and gains a `feedback` parameter
    of its own draw. Under `urf` an optimizer over `module.parameters()` made after the call moves feedback along with the
    weights; `kolen-pollack` is the same under weight decay. `dfa` needs `example`, the shape of one input, and a module
    with one output tensor. `bp` undoes a conversion.

    >>> import torch
    >>> net = convert(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), "rf")
    >>> sorted(name for name, _ in net.named_parameters() if "feedback" in name)
    ['0.feedback', '2.feedback']

    Raises InputError for a part whose error would still run down through its forward weights, and for `dtp`, whose phases
    need the chain of layers that `saccade.train` builds.
    """
    made = make(rule)
    maps = maps_of(plain(module))
    if isinstance(made, DirectFeedback):
        if example is None:
            raise InputError(
                "convert to dfa needs example, the shape of one input such as (3, 32, 32), to size its feedback."
            )
        made.convert(module, maps[1:], example, draws.key(seed, "feedback", 0))
    elif isinstance(made, RandomFeedback):
        made.convert(maps, draws.key(seed, "feedback", 0))
    elif rule != "bp":
        raise InputError(
            f"convert takes feedback rules (rf, urf, kolen-pollack, sign-symmetry, dfa) or bp, not {rule!r}."
        )
    return module
