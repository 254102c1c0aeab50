"""One site's updates, again and again, with something changed and all else held.

Held are: the site's input, the output of every map of the forward chain (its module then returns what it returned the first
time), and the errors at the embedding (the loss is replaced by one whose gradient is a fixed random tensor). Every run is of a
copy.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..rules.site import Batch
from .verdict import Undecided

Updates = dict[str, Tensor]


class FixedErrors(nn.Module):
    """Stands in for a loss: whatever the embeddings are, its gradient at them is what was drawn at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[int, Tensor] = {}

    def forward(self, *arguments: Any) -> Tensor:
        total: Any = 0.0
        for place, z in enumerate(arguments):
            if z.is_floating_point():
                if place not in self.errors:
                    drawn = torch.randn(z.shape, generator=torch.Generator().manual_seed(place), dtype=z.dtype)
                    self.errors[place] = drawn
                total = total + (self.errors[place] * z).sum()
        return total


class _Value(torch.autograd.Function):
    """Another value in place of a tensor's; the error passes through."""

    @staticmethod
    def forward(ctx, y, value):
        return value.clone()

    @staticmethod
    def backward(ctx, error):
        return error, None


@dataclass
class Call:
    """One call of a map in the forward chain: its name, what went in, what came out."""

    owner: str
    input: Tensor
    output: Any  # a tensor; None among calls to be held leaves this one free


@dataclass
class World:
    """All sites of a model, its rule, and one batch for one of them."""

    sites: list[Any]
    rule: Any
    index: int
    batch: Batch
    calls: list[Call] = field(default_factory=list)

    @property
    def site(self) -> Any:
        return self.sites[self.index]

    def copied(self, whole: bool = False) -> "World":
        """A copy of the site and the rule, and of the other sites too if `whole`."""
        own = self.sites if whole else [self.site]
        copied, rule = copy.deepcopy((own, self.rule))  # at once: a rule may hold layers
        sites = copied if whole else [copied[0] if site is self.site else site for site in self.sites]
        sites[self.index].zero_grad(set_to_none=True)
        return World(sites, rule, self.index, self.batch, self.calls)

    def owners(self) -> dict[str, nn.Module]:
        """The modules of the forward chain that hold weights themselves."""
        parts = {f"layers.{k}": layer for k, layer in enumerate(self.site.layers)}
        parts |= {} if self.site.head is None else {"head": self.site.head}
        return {
            f"{where}{'.' if name else ''}{name}": module
            for where, part in parts.items()
            for name, module in part.named_modules()
            if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))
        }

    def maps(self) -> dict[str, list[str]]:
        """The owners of forward weights, with the names of their matrices that their output depends on."""
        owners, found = self.owners(), {}
        for call in self.calls:
            module = copy.deepcopy(owners[call.owner])
            names = [n for n, p in module.state_dict().items() if p.ndim > 1 and p.is_floating_point() and "." not in n]
            with torch.no_grad():
                hanging = [n for n in names if not torch.equal(_output(module, call), _with_noise(module, n, call))]
            if hanging:
                found[call.owner] = hanging
        return found

    def updates(
        self,
        change: Callable[["World"], None] = lambda world: None,
        calls: list[Call] | None = None,
        inputs: Tensor | None = None,
        seen: list[Call] | None = None,
        whole: bool = False,
    ) -> Updates:
        """The gradients that the rule fills, by parameter, in a copy that `change` has changed.

        `calls` are the outputs to hold (default: those of the first run); `seen` is given the calls as they were.
        """
        world = self.copied(whole)
        change(world)
        with world.holding(self.calls if calls is None else calls, seen):
            return world.learn(self.batch.inputs if inputs is None else inputs)

    def learn(self, inputs: Tensor) -> Updates:
        """Run the rule's phases and collect what it leaves for the optimizers."""
        batch = Batch(inputs.clone(), self.batch.labels, self.batch.grid, self.batch.seed, self.batch.step)
        groups = self.rule.groups(self.site)
        found: Updates = {}
        torch.default_generator.manual_seed(0)
        for phase, group in enumerate(self.rule.phases(self.site, batch)):
            for name, parameter in groups.get(group, []):
                if parameter.grad is not None:
                    key = name if name not in found else f"{name} (phase {phase + 1})"
                    found[key] = parameter.grad.detach().clone()
                    parameter.grad = None
        return found

    def with_fixed_errors(self) -> tuple["World", Updates]:
        """A copy with fixed errors at the embedding, the calls of its first run kept to be held, and that run's updates."""
        world = self.copied(whole=True)
        calls: list[Call] = []
        world.calls = []
        world.site.loss = FixedErrors()
        base = world.updates(seen=calls)
        world.calls = calls
        return world, base

    def forward(self, inputs: Tensor, calls: list[Call] | None = None) -> list[Call]:
        """The calls of one forward pass of the site, with the outputs of `calls` held where given."""
        seen: list[Call] = []
        copied = self.copied()
        torch.default_generator.manual_seed(0)
        with copied.holding(calls or [], seen), torch.no_grad():
            copied.site(inputs.clone())
        return seen

    @contextmanager
    def holding(self, calls: list[Call], seen: list[Call] | None) -> Iterator[None]:
        """Maps return the outputs of `calls`, call by call; without any, what they compute is kept in `seen`."""
        count = 0

        def hook(owner: str) -> Any:
            def held(module: nn.Module, args: Any, output: Any) -> Any:
                nonlocal count
                if seen is not None:
                    seen.append(Call(owner, args[0].detach().clone(), output.detach().clone()))
                if not calls:
                    return None
                kept = calls[count] if count < len(calls) else None
                if (
                    kept is None
                    or kept.owner != owner
                    or (kept.output is not None and kept.output.shape != output.shape)
                ):
                    raise Undecided(f"the calls of {owner} differ from one run to the next, so activity cannot be held")
                count += 1
                return None if kept.output is None else _Value.apply(output, kept.output)

            return held

        handles = [module.register_forward_hook(hook(name)) for name, module in self.owners().items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _output(module: Any, call: Call) -> Tensor:
    return module(call.input.clone())


def _with_noise(module: Any, name: str, call: Call) -> Tensor:
    twin = copy.deepcopy(module)
    redraw(twin.state_dict()[name])
    return _output(twin, call)


def redraw(weight: Tensor, signs: bool = True) -> None:
    """Other values, in place; with `signs` false the signs stay."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        if signs:
            weight.copy_(weight.std() * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
        else:
            weight.mul_(0.5 + torch.rand(weight.shape, generator=generator, dtype=weight.dtype))
