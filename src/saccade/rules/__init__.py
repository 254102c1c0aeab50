"""Rules: how an error reaches a weight. `convert` gives one to any `torch.nn.Module`."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .. import draws
from ..config.names import RULES, create
from ..errors import InputError, whole
from ..networks import layers_of
from .dtp import DifferenceTargetPropagation
from .feedback import RandomFeedback, maps_of, plain
from .gradient import Backpropagation
from .site import Batch, Site

__all__ = ["Batch", "Site", "convert", "make", "plain"]


def make(text: str) -> Any:
    """The rule that `text` names, such as `dtp(eta=0.5)`, or a dotted path to a class of one's own.

    Raises InputError for an unknown name or option, and for a class that lacks a method of a rule.
    """
    rule = create(text, RULES, "rule")
    for name in ("rates", "prepare", "groups", "phases"):
        has = getattr(rule, name, None)
        if not (isinstance(has, Mapping) if name == "rates" else callable(has)):
            raise InputError(
                f"The rule {text!r} has no {name}; it takes rates, a dict, and the methods prepare, groups and phases."
            )
    return rule


def convert(
    module: nn.Module,
    rule: Any,
    *,
    seed: int = 0,
    example: tuple[int, ...] | None = None,
    loss: nn.Module | None = None,
) -> nn.Module:
    """Make a user's module learn by a rule: `rule` is a text such as `rf`, or what `make` made of one.

    **Feedback rules and bp**: in place; train the module with its usual loss and `backward()`. Every convolution,
    linear and locally connected map keeps its weights and their names and gains a `feedback` parameter of its own draw.
    Under `urf` an optimizer over `module.parameters()` made after the call moves feedback along with the weights;
    `kolen-pollack` is the same under weight decay. `dfa` needs `example`, the shape of one input, and a module with one
    output tensor. So does `weight-mirrors`, whose `mirror` your loop calls at each step; its feedback wants an optimizer of its
    own, since gradient clipping and loss scaling are for the weights alone. `bp` undoes a conversion.

    >>> import torch
    >>> net = convert(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), "rf")
    >>> sorted(name for name, _ in net.named_parameters() if "feedback" in name)
    ['0.feedback', '2.feedback']

    >>> mirrors = make("weight-mirrors")
    >>> net = convert(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), mirrors, example=(4,))
    >>> feedback = torch.optim.SGD([p for name, p in net.named_parameters() if name.endswith("feedback")], lr=0.1)
    >>> optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    >>> mirrors.mirror(net, step=0)  # the gradients of two maps' feedback
    2
    >>> feedback.step()
    >>> net(torch.randn(8, 4)).square().mean().backward()
    >>> optimizer.step()

    **dtp**: a chain, an `nn.Sequential` whose layers have one map each and whose last layer is the head. A step has
    phases, each with parameters and an optimizer of its own, so what comes back is a `Site`: the same modules,
    inverses, and `loss`, a module of `saccade.losses` or anything called as loss(z_a, z_b). `example` is needed too. The slow
    copy of a loss that has one (MoCo, BYOL) follows where the loop calls `site.follow()` after a step.

    >>> from saccade.losses.hinge import ContrastiveHinge
    >>> chain = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> dtp = make("dtp(eta=0.1)")
    >>> site = convert(chain, dtp, example=(4,), loss=ContrastiveHinge())
    >>> optimizers = {
    ...     name: torch.optim.Adam([p for _, p in group], lr=dtp.rates.get(name, 1e-4))
    ...     for name, group in dtp.groups(site).items()
    ... }
    >>> for group in dtp.phases(site, Batch(torch.randn(10, 4))):  # five pictures' views A, then their views B
    ...     optimizers[group].step()
    ...     optimizers[group].zero_grad()

    Raises InputError for a part whose error would still run down through its forward weights, and for what is no chain.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"convert takes a torch.nn.Module, not a {type(module).__name__}.")
    if example is not None and not (
        isinstance(example, Sequence) and all(isinstance(n, int) and n > 0 for n in example)
    ):
        raise InputError(
            f"convert was given example {example!r}; it takes the shape of one input, such as (3, 32, 32)."
        )
    whole("seed", seed, 0)
    made = make(rule) if isinstance(rule, str) else rule
    if loss is not None and not isinstance(made, DifferenceTargetPropagation):
        raise InputError("convert was given a loss, which goes with the rule dtp; your own loop has the others'.")
    key = draws.key(seed, "feedback", 0)
    if isinstance(made, DifferenceTargetPropagation):
        return _with_targets(module, made, seed, example, loss)
    if isinstance(made, RandomFeedback):
        if not (maps := maps_of(module)):
            raise InputError("convert takes a module with a linear map in it; this one has none.")
        made.convert(module, maps, key, example)
    elif type(made) is Backpropagation:
        plain(module)
    else:
        raise InputError(f"convert takes one of {', '.join(RULES)}, not {rule!r}.")
    return module


def _with_targets(
    module: nn.Module, rule: DifferenceTargetPropagation, seed: int, example: tuple[int, ...] | None, loss: Any
) -> Site:
    if not isinstance(module, nn.Sequential):
        raise InputError(f"convert to dtp takes a chain, an nn.Sequential of layers, not a {type(module).__name__}.")
    *layers, head = layers_of(module)
    if not layers:
        raise InputError("convert to dtp takes a chain of two layers or more, the last of which is the head.")
    if example is None or not callable(loss):
        raise InputError(
            "convert to dtp needs example, the shape of one input such as (3, 32, 32), and loss, called as loss(z_a, z_b)."
        )
    plain(module)
    site = Site(0, nn.Sequential(*layers), head, loss)
    rule.prepare(site, example, seed)
    return site
