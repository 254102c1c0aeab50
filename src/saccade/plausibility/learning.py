"""The way from the error to the weights: what each weight's update depends on, in a site, under its rule.

A site's updates are computed again and again with something changed and all else held (`world`).
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .operations import complexity
from .trace import Op, Trace
from .verdict import CONDITIONS, MET, UNDECIDED, VIOLATED, Finding, Undecided
from .world import Call, Updates, World, redraw

_STILL = 1e-9  # an update that moves by less, relative to its size, has not moved


def moving(before: Updates, after: Updates, where: Callable[[str], bool] = lambda name: True) -> list[str]:
    """The parameters whose update is another one."""
    names = [name for name in {**before, **after} if where(name)]
    return [
        name
        for name in names
        if name not in before
        or name not in after
        or float((after[name] - before[name]).abs().max()) > _STILL * float(before[name].abs().max() + 1e-30)
    ]


class _Named(Trace):
    """A trace that knows the site's tensors by name, and which nodes depend on the data."""

    names: dict[int, str]
    tainted: set[int]


def examine(world: World) -> list[Finding]:
    """Judge the network and the rule by one site's updates."""
    try:
        world, base = world.with_fixed_errors()
        if not any(bool(g.abs().max() > 0) for g in base.values()):
            raise Undecided("no update arose from errors at the embedding")
        if moved := moving(base, world.updates()):
            raise Undecided(f"two runs of the same step gave different updates of {', '.join(moved)}")
        return _network(world) + _rule(world, base)
    except Undecided as reason:
        return [Finding("rule", condition, UNDECIDED, [str(reason)]) for condition in CONDITIONS]


def _rule(world: World, base: Updates) -> list[Finding]:
    """The rule's findings, for a network that is not to blame for them."""
    maps = world.maps()
    mixing = bool(_mixing_images(world)) or bool(_mixing_units(world, maps))
    space, shares = ([], []) if mixing else (_units(world, base, maps), _images(world, base))
    network = {op.place for op, _ in _forward_operations(world)}
    trace, found = _traced(world)
    simple = {
        (kind, op.place): _shown(op, kind)
        for op, kind in _complex(trace, trace.tainted, [*map(trace.node, found.values()), *trace.item], products=False)
        if op.place not in network
    }
    statistic = [f"a statistic of the batch: {text}" for text in shares[:1]] if not simple else []
    seen = {
        "space": (space, "an update moves with its own unit's and its pre-synaptic unit's activity alone"),
        "time": (
            shares + _earlier(world),
            "each image's share of an update depends on that image, and nothing of earlier batches is kept",
        ),
        "simple": (
            [*simple.values(), *statistic],
            "from errors to weights stand sums, local derivatives and Hebbian products",
        ),
        "asymmetric": (_transport(world, base, maps, trace), _unmoved(maps)),
        "unsupervised": (_labels(world, base), "with the errors held, labels move no update"),
    }
    return [Finding("rule", c, VIOLATED if bad else MET, bad or [good]) for c, (bad, good) in seen.items()]


def _network(world: World) -> list[Finding]:
    maps = world.maps()
    operations = [_shown(op, kind) for op, kind in _forward_operations(world)]
    seen = {
        "space": (_mixing_units(world, maps), "between two maps, each unit's activity depends on that unit alone"),
        "time": (_mixing_images(world), "an image's activity does not depend on the other images of the batch"),
        "simple": (list(dict.fromkeys(operations)), "maps, pools and transfer functions of single units"),
    }
    return [Finding("network", c, VIOLATED if bad else MET, bad or [good]) for c, (bad, good) in seen.items()]


# ------------------------------------------------------------------------------------------------- (iii) weight transport


def _transport(world: World, base: Updates, maps: dict[str, list[str]], trace: _Named) -> list[str]:
    """Give a map other weights while all activity and the errors at the top stay: do other maps' updates move?"""
    found = []
    for owner, names in maps.items():

        def change(signs: bool, owner: str = owner, names: list[str] = names) -> Callable[[World], None]:
            def changes(world: World) -> None:
                state = world.owners()[owner].state_dict()
                for name in names:
                    redraw(state[name], signs)

            return changes

        def elsewhere(name: str, owner: str = owner) -> bool:
            return not name.startswith(f"{owner}.")

        if moved := moving(base, world.updates(change(signs=True)), elsewhere):
            sized = moving(base, world.updates(change(signs=False)), elsewhere)
            what = "weights" if sized else "weights' signs"
            found.append(
                f"the {what} of {owner} ({', '.join(names)}) carry errors down: with all activity and the errors at the top "
                f"held, other values there move the updates of {_some(moved)}{_reader(trace, owner, names)}"
            )
    if len(world.sites) > 1:

        def others(changed: World) -> None:
            for site in changed.sites:
                if site.index != changed.index:
                    for part in (site.layers, site.head):
                        for p in [] if part is None else part.parameters():
                            if p.ndim > 1:
                                redraw(p)

        if moved := moving(base, world.updates(others, whole=True)):
            found.append(f"forward weights of another site move the updates of {_some(moved)}")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _unmoved(maps: dict[str, list[str]]) -> str:
    if len(maps) < 2:
        return "no map stands above another, so that no error goes down through weights"
    return "other weights in any map, with all activity and the errors at the top held, leave the other maps' updates as they were"


def _reader(trace: _Named, owner: str, names: list[str]) -> str:
    """The operation that reads a weight, or a copy of it, on the way down."""
    for op in reversed(trace.ops):
        for node in op.reads if op.backward else []:
            if node not in trace.tainted and any(
                trace.names.get(id(s)) in {f"{owner}.{n}" for n in names} for s in trace.sources(node)
            ):
                return f" (read by {op.name} at {op.place})"
    return ""


# ------------------------------------------------------------------------------------------------------------ (i) locality


def _with_unit(calls: list[Call], owner: str, unit: int) -> list[Call]:
    """The calls, with one unit (channel) of a map at another activity in all images and positions."""
    changed = []
    for call in calls:
        output = call.output.clone()
        if call.owner == owner:
            generator = torch.Generator().manual_seed(6)
            drawn = torch.randn(output.select(1, unit).shape, generator=generator, dtype=output.dtype)
            output.select(1, unit).add_(output.std() * drawn)
        changed.append(Call(call.owner, call.input, output))
    return changed


def _units(world: World, base: Updates, maps: dict[str, list[str]]) -> list[str]:
    """Change one unit's activity and hold all else: do weights move that do not end or begin at that unit?"""
    found = []
    for owner in maps:
        unit = 0
        seen: list[Call] = []
        after = world.updates(calls=_with_unit(world.calls, owner, unit), seen=seen)
        inputs = [(call, one) for call, one in zip(world.calls, seen, strict=True)]
        for name in maps:
            before_after = [(c.input, o.input) for c, o in inputs if c.owner == name]
            changed = [float((o - c).abs().max()) > 0 for c, o in before_after]
            if name != owner and not any(changed):
                continue  # below the unit, where an error may well move, or not above it
            for weight in maps[name]:
                key = f"{name}.{weight}"
                if key in base and key in after:
                    allowed = _attached(world, name, weight, unit if name == owner else None, before_after)
                    moved = (after[key] - base[key]).abs() > _STILL * base[key].abs().max()
                    if bool((moved & ~allowed).any()):
                        found.append(
                            f"the update of {key} at other units moves with the activity of unit {unit} of {owner}, "
                            "with all other activity and the errors at the top held"
                        )
    return found


def _attached(world: World, owner: str, weight: str, unit: int | None, inputs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Which entries of a weight end at a unit of their map, or (unit None) begin at the inputs that were changed."""
    allowed: Any = False
    for before, after in inputs:
        module: Any = copy.deepcopy(world.owners()[owner])
        p = module.get_parameter(weight)
        x = torch.ones_like(before) if unit is not None else (after - before).abs()
        with torch.enable_grad():
            y = module(x)
        bare = module(torch.zeros_like(x)) if unit is None else torch.zeros_like(y)  # a bias is no input
        y = (y - bare.detach()) if unit is None else y.select(1, unit)
        (slope,) = torch.autograd.grad(y.sum(), p)
        allowed = allowed | (slope != 0)
    return allowed


def _images(world: World, base: Updates) -> list[str]:
    """Change two images' activity, one at a time and together: do their shares of the updates add up?"""

    def changed(which: tuple[int, ...]) -> Updates:
        generator = torch.Generator().manual_seed(8)

        def other(x: Tensor) -> Tensor:
            drawn = x.std() * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            mask = torch.zeros(len(x), *[1] * (x.ndim - 1), dtype=x.dtype)
            mask[[image for image in which if image < len(x)]] = 1  # a rule may drive a map by something else
            return x + mask * drawn

        inputs = other(world.batch.inputs)
        return world.updates(calls=[Call(c.owner, c.input, other(c.output)) for c in world.calls], inputs=inputs)

    first, second, both = changed((0,)), changed((1,)), changed((0, 1))
    found = []
    for name in base:
        apart = both[name] - first[name] - second[name] + base[name]
        if float(apart.abs().max()) > 1e-8 * float(
            torch.stack([u[name].abs().max() for u in (base, first, second, both)]).max() + 1e-30
        ):
            found.append(
                f"the share of an image in the update of {name} moves with the activity of another image of the batch"
            )
    return found


def _earlier(world: World) -> list[str]:
    """Let the rule see another batch before: do the updates from this one move?"""
    results = []
    for seed in (9, 10):
        changed = world.copied()
        state = copy.deepcopy([site.state_dict() for site in changed.sites])
        generator = torch.Generator().manual_seed(seed)
        inputs = world.batch.inputs
        changed.learn(inputs + inputs.std() * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype))
        for site, kept in zip(changed.sites, state, strict=True):
            site.load_state_dict(kept)
        results.append(changed.learn(inputs))
    moved = moving(results[0], results[1])
    return [f"the updates of {_some(moved)} move with what an earlier batch was"] if moved else []


def _mixing_images(world: World) -> list[str]:
    """Does one image's activity reach another image's?"""
    seen: list[list[Call]] = []
    for changed in (False, True):
        inputs = world.batch.inputs.clone()
        if changed:
            inputs[0] = inputs[0].flip(-1) + inputs[0].std()
        seen.append(world.forward(inputs))
    for before, after in zip(*seen, strict=True):
        for what, a, b in (("input", before.input, after.input), ("output", before.output, after.output)):
            if bool(((b - a)[1:].abs() > _STILL * a.abs().max()).any()):
                return [f"the {what} of {before.owner} for one image moves with another image of the batch"]
    return []


def _mixing_units(world: World, maps: dict[str, list[str]]) -> list[str]:
    """Between a map and the next, does one unit's activity reach another unit?"""
    before = world.forward(world.batch.inputs)
    for place, call in enumerate(before):
        if call.owner not in maps:
            continue
        free = [Call(c.owner, c.input, None) for c in before]
        held = _with_unit(before, call.owner, 0)[: place + 1] + free[place + 1 :]
        after = world.forward(world.batch.inputs, held)
        for late, one in list(zip(before, after, strict=True))[place + 1 :]:
            units = call.output.shape[1]
            a, b = (x.flatten(1) for x in (late.input, one.input))
            if a.shape[1] % units == 0 and late.owner in maps:
                moved = ((b - a).abs() > _STILL * a.abs().max()).view(len(a), units, -1)
                if bool(moved.any()) and bool(moved[:, 1:].any()):
                    return [f"between {call.owner} and {late.owner}, one unit's activity reaches other units"]
                break
    return []


# -------------------------------------------------------------------------------------- (ii) operations, (iv) labels


def _traced(world: World) -> tuple[_Named, Updates]:
    copied, trace = world.copied(), _Named()
    inputs = world.batch.inputs.clone()
    with trace, _naming(trace, copied.site):
        found = copied.learn(inputs)
    trace.names = {id(p): name for name, p in copied.site.named_parameters()}
    trace.tainted = trace.after([trace.node(inputs), *map(trace.node, copied.site.loss.errors.values())])
    return trace, found


@contextmanager
def _naming(trace: Trace, site: nn.Module) -> Iterator[None]:
    """The trace is told which of the site's modules runs."""

    def enter(name: str) -> Any:
        return lambda module, args: trace.within.append(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        trace.within.pop()

    handles: list[Any] = []
    for name, module in site.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shown(op: Op, kind: str) -> str:
    return f"{kind}: {op.name} at {op.place}{f' in {op.module}' if op.module else ''}, result {op.shape}"


def _complex(trace: Trace, tainted: set[int], ends: Iterable[int], *, products: bool) -> list[tuple[Op, str]]:
    """The operations that `ends` depend on and that are not simple, each with what is not."""
    kinds = ((op, complexity(op, tainted.__contains__, products=products, transfer=True)) for op in trace.behind(ends))
    return [(op, kind) for op, kind in kinds if kind]


def _forward_operations(world: World) -> list[tuple[Op, str]]:
    """Operations of the forward pass that are not simple."""
    copied, trace = world.copied(), Trace()
    inputs = world.batch.inputs.clone()
    with trace, _naming(trace, copied.site), torch.no_grad():
        outputs = copied.site(inputs)
    return _complex(trace, trace.after([trace.node(inputs)]), map(trace.node, outputs), products=True)


def _labels(world: World, base: Updates) -> list[str]:
    """With the errors at the top held, do labels move an update?"""
    if world.batch.labels is None:
        return []
    other = copy.copy(world)
    other.batch = copy.copy(world.batch)
    other.batch.labels = world.batch.labels.roll(1)
    moved = moving(base, other.updates())
    return [f"with the errors at the top held, the updates of {_some(moved)} move with the labels"] if moved else []
