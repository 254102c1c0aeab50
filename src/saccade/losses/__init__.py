"""Losses: what is wrong with two views' embeddings.

Any callable `loss(z_a, z_b)` is one; a module may declare what it needs.
"""

import copy
import inspect
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from ..config.grammar import called, imported
from ..config.names import LOSSES, choose
from ..errors import InputError


@dataclass(frozen=True)
class Needs:
    """What a loss declares, as attributes of these names; what it leaves out has these values.

    Args:
        layout: "pair", it is called with the embeddings of two lists of views; "single", with one list and the labels;
            "patches", with a grid of patches' embeddings, twice.
        labels: it needs them (they travel to no other loss).
        head: it wants a linear head; else it reads the feature map.
        gradient: which lists carry gradient, "ab", "a" or "b"; a list that carries none costs no backward pass.
        momentum: None, or the decay of a slowly following copy of the network; the loss is then called as
            loss(z_a, z_b, slow_a, slow_b).
        reduction: "sum" or "mean" over images; a target's step refers to the gradient of one image's loss.

    Two methods are called where a loss has them: `sized(shape)`, once, with the shape of one image's (or patch's)
    embedding, or feature map without a head, to make parameters that depend on it, from torch's global generator, which
    is seeded; and `draw(seed, step)` before each evaluation, to key what the loss draws.
    """

    layout: str = "pair"
    labels: bool = False
    head: bool = True
    gradient: str = "ab"
    momentum: float | None = None
    reduction: str = "mean"


def needs(loss: nn.Module) -> Needs:
    """What `loss` declares."""
    return Needs(**{name: getattr(loss, name, default) for name, default in vars(Needs()).items()})


class _Called(nn.Module):
    """A plain function as a loss."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z_a, z_b):
        return self.function(z_a, z_b)

    def _get_name(self):
        function = self.function.func if isinstance(self.function, partial) else self.function
        return getattr(function, "__name__", super()._get_name())


def make(text: str) -> nn.Module:
    """The loss that `text` names: `hinge(negatives=5)`, or `lightly.loss.BarlowTwinsLoss(lambda_param=0.01)`.

    Options of a function are handed to it at each call. A module at the path stays as it is there: what is given is a copy.

    Raises InputError for an unknown name or option.
    """
    call, entry = choose(text, LOSSES, "loss")
    found = imported(entry.path if entry else call.name, "loss")
    if inspect.isclass(found):
        found, call = called(found, call, f"The loss {text!r}"), replace(call, options={})
    elif isinstance(found, nn.Module):
        if call.options:
            raise InputError(f"The loss {text!r} is made already and takes no options.")
        found = copy.deepcopy(found)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise InputError(f"The loss {text!r} is a {type(found).__name__}; it takes a callable loss(z_a, z_b).")
    if call.options:
        try:
            inspect.signature(found).bind(None, None, **call.options)
        except (TypeError, ValueError) as error:
            raise InputError(f"The loss {text!r} cannot be made: {error}.") from None
        found = partial(found, **call.options)
    return _Called(found)
