"""Audit a configuration: build it, take a few real training steps, and ask each part what it needs."""

import copy
import re
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .. import measures
from ..config.grammar import is_dotted
from ..config.run import TrainConfig, check, head_of, network_of
from ..data import ImageSet, load
from ..errors import InputError, whole
from ..networks import output_shape
from ..rules.site import Batch
from ..training.model import Model, build, make_batch, train_step
from . import learning, loss
from .operations import complexity
from .trace import Trace
from .verdict import CONDITIONS, MET, UNDECIDED, VIOLATED, Finding, Report, Undecided
from .world import World

STEPS = 3  # real steps that each site learns for
_THIN = 8  # a thin network has an eighth of the channels
_BATCH, _SIDE = 8, 32  # pictures and pixels a side, where they are enough


@torch.random.fork_rng(devices=[])  # the caller's generator stays where it is
def audit(config: TrainConfig, images: ImageSet | None = None, steps: int = STEPS) -> Report:
    """Which of the paper's conditions the parts of a configuration meet, found by running it.

    The network is thinned: the same layers with an eighth of their channels, a small batch, 32 pixels a side, float64,
    on the processor; no condition depends on these. Batch and views are larger where loss or layers want it. A network
    given by a dotted path stays as it is. `images` stand in for the configured ones. Each site learns for `steps` real
    steps, over which feedback weights are followed.

    Raises InputError for a configuration that cannot be trained.
    """
    whole("steps", steps, most=10_000)
    started = time.perf_counter()
    model, images = thin_model(
        config, images if images is not None else load(config.data, root=config.data_root), steps
    )
    small = model.config
    batch = loss.fitting_batch(model.sites[-1], _embedding_shape(model), 4 if _patches(model) else 8)
    batch = min(batch, len(images))
    if batch != small.batch:
        small = replace(small, batch=batch)
        model = build(small, images)
    setting = (
        f"{small.network}; {len(model.sites)} site{'s' * (len(model.sites) > 1)}, batch {small.batch}, views of "
        f"{'x'.join(map(str, model.shape))}, {images.name}, float64, {steps} steps a site"
    )
    report = Report(asdict(config), setting)
    try:
        found, facts = loss.examine(model.sites[-1], _embedding_shape(model), batch)
    except Undecided as reason:
        found, facts = loss.undecided(str(reason))
    worlds = [world_at(model, images, index) for index in range(len(model.sites))]
    by_site = [learning.examine(world) for world in worlds]
    report.findings = [*found, *_merged(by_site), *_optimizer(model)]
    _peeking(report, images, worlds)
    start = {name: p.detach().clone() for name, p in model.modules().named_parameters()}
    feedback = _feedback(report, model, worlds, start)
    turns = _turns(model)
    taken = _steps(turns, len(worlds), steps)
    series: dict[str, list[float]] = {name: [] for name in feedback}
    for step in [None, *taken]:
        if step is not None:
            train_step(model, images, step)
        _measure(series, feedback, model)
    report.findings += _schedule(turns == _turns(model))
    report.angles = {name: angles for name, angles in series.items() if angles}
    report.remarks = _converging(feedback, model, start, report.angles)
    report.needs = _needs(model, worlds, facts)
    report.beyond = _beyond(model, worlds, facts, start, len(taken))
    report.seconds = time.perf_counter() - started
    return report


def thin_model(config: TrainConfig, images: ImageSet, steps: int = STEPS) -> tuple[Model, ImageSet]:
    """A thin model and the few pictures that it sees.

    Where it cannot be built on batches of 8 and views of 32 pixels, batches are of all 64 pictures (for a loss that wants
    more negatives), and then views of the configured size (for layers that pool more often); batches larger than that,
    of more pictures, come last. A network given by a dotted path may want grey pictures as they are. Raises InputError
    for a configuration that cannot be trained.
    """
    check(config)
    counts, sides = dict.fromkeys([64, max(64, config.batch)]), dict.fromkeys([_SIDE, config.size])
    sizes = [(64, _BATCH, _SIDE), *((count, count, side) for count in counts for side in sides)]
    kinds = [stand_in]
    if is_dotted(config.network) and images.shape[0] == 1:
        kinds.append(_some)
    for kind, (count, batch, side) in product(kinds, sizes):
        pictures = kind(images, count)
        try:
            return build(thinned(config, len(pictures), steps, batch, side), pictures), pictures
        except InputError as error:
            refused = error
    raise refused


def thinned(
    config: TrainConfig, available: int, steps: int = STEPS, batch: int = _BATCH, side: int | None = _SIDE
) -> TrainConfig:
    """The configuration with a thin network, small views and a small batch, in float64."""

    def thin(spec: str, divide: int) -> str:
        return re.sub(r"(conv|local|linear)(\d+)", lambda m: f"{m[1]}{max(4, -(-int(m[2]) // divide))}", spec)

    network = network_of(config)
    dotted = is_dotted(network)
    batch = min(config.batch, available, batch)
    return replace(
        config,
        network=network if dotted else thin(network, _THIN),
        head=re.sub(r"linear\d+", "linear13", head_of(config)),
        size=config.size if dotted else side,
        batch=batch,
        epochs=steps * -(-batch // _BATCH),  # as many steps, in which a random layer's turn comes, in larger batches
        device="cpu",
        precision="float64",
        diagnostics=0,
        init_from=None,  # whose encoder is not thin
    )


def _some(images: ImageSet, count: int) -> ImageSet:
    """The first images; where most of these are of one class, as in a folder sorted by class, some from all over the set."""
    few = images.take(0, min(count, len(images)))
    if few.labels is None or 2 * int(few.labels.unique(return_counts=True)[1].max()) <= len(few):
        return few
    assert images.labels is not None
    which = slice(0, len(images), len(images) // len(few))  # a view of all labels, which can be exchanged in place
    pictures, labels = images.images[which][: len(few)], images.labels[which][: len(few)]
    return replace(few, images=pictures, labels=labels, name=f"{len(few)} of {images.name}")


def stand_in(images: ImageSet, count: int) -> ImageSet:
    """Some images; where the pictures are grey, the same in three colours, which every policy of views takes."""
    few = _some(images, count)
    pictures: Any = few.batch(torch.arange(len(few)))
    return replace(few, images=pictures.expand(-1, 3, -1, -1).contiguous() if pictures.shape[1] == 1 else pictures)


def _patches(model: Model) -> bool:
    return model.sites[-1].needs.layout == "patches"


def _embedding_shape(model: Model) -> tuple[int, ...]:
    shape = model.shape
    for site in model.sites:
        shape = output_shape(site.layers, shape)
    head = model.sites[-1].head
    return shape if head is None else output_shape(head, shape)


def world_at(model: Model, images: ImageSet, index: int) -> World:
    """One site's batch of the first step, run up through the layers below it."""
    made, labels = make_batch(model, images, 0)
    x = made.x.double()
    with torch.no_grad():
        for site in model.sites[:index]:
            x = site.layers(x)
    return World(list(model.sites), model.rule, index, Batch(x, labels, made.grid, model.config.seed, 0))


def _merged(by_site: list[list[Finding]]) -> list[Finding]:
    """One finding a part and condition, the worst over the sites, with the evidence of the first that has it."""
    merged: dict[tuple[str, str], Finding] = {}
    order = (MET, UNDECIDED, VIOLATED)
    for number, findings in enumerate(by_site):
        for one in findings:
            key = (one.part, one.condition)
            if key not in merged or order.index(one.verdict) > order.index(merged[key].verdict):
                where = f"site {number + 1}: " if len(by_site) > 1 and one.verdict != MET else ""
                merged[key] = replace(one, evidence=[where + text for text in one.evidence])
    return list(merged.values())


# --------------------------------------------------------------------------------------------------- schedule, optimizer


def _turns(model: Model) -> list[tuple[int, ...]]:
    return [model.turns(step) for step in range(model.total_steps)]


def _steps(turns: list[tuple[int, ...]], sites: int, each: int) -> list[int]:
    """Steps after which every site has learned `each` times."""
    mine = ([step for step, turn in enumerate(turns) if site in turn][:each] for site in range(sites))
    return sorted(set().union(*mine))


def _schedule(again: bool) -> list[Finding]:
    """A schedule says who learns when; it could violate a condition only by letting signals pass between sites. `again`:
    whether it says the same after the steps as before them."""
    told = "who learns at a step follows from the seed and the step alone: no activity, weight or label is asked"
    verdict, told = (MET, told) if again else (UNDECIDED, "two calls with the same seed and step named different sites")
    return [Finding("schedule", c, verdict, [told]) for c in CONDITIONS]


def _optimizer(model: Model) -> list[Finding]:
    """Run one optimizer's step on made-up gradients: its operations, and whether synapses keep to themselves."""
    optimizer = copy.deepcopy(next(iter(model.optimizers.values())))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    generator = torch.Generator().manual_seed(11)
    masks = [torch.rand(p.shape, generator=generator) < 0.5 for p in parameters]
    gradients = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def stepped(change: float, trace: Trace | nullcontext) -> tuple[list[Tensor], dict[Tensor, dict[str, Any]]]:
        one = copy.deepcopy(optimizer)
        own = [p for group in one.param_groups for p in group["params"]]
        for p, gradient, mask in zip(own, gradients, masks, strict=True):
            p.grad = torch.where(mask, gradient * change + (change - 1), gradient)
        with trace:
            one.step()
        return own, one.state

    trace = Trace()
    own, state = stepped(1.0, trace)
    tainted = trace.after([trace.node(p.grad) for p in own])  # type: ignore[arg-type]  # set by `stepped`
    ends = [trace.node(p) for p in own]
    operations = {
        (kind, op.name): f"{kind}: {op.name}{' at ' * bool(op.place)}{op.place}, for each synapse by itself"
        for op in trace.behind(ends)
        if (kind := complexity(op, tainted.__contains__, products=False))
    }
    spread = [
        "the step of a synapse moves with other synapses' gradients"
        for a, b, mask in zip(own, stepped(3.0, nullcontext())[0], masks, strict=True)
        if not torch.equal(a[~mask], b[~mask])
    ][:1]
    kept = [(p, name, x) for p in own for name, x in state[p].items() if isinstance(x, Tensor) and x.numel() > 1]
    names = ", ".join(dict.fromkeys(name for _, name, _ in kept))
    shared = [
        f"it remembers {name} {tuple(x.shape)} of weights {tuple(p.shape)}" for p, name, x in kept if x.shape != p.shape
    ]
    memory = f"each synapse remembers its own {names}" if names else "it remembers nothing"
    return [
        Finding(
            "optimizer",
            "space",
            VIOLATED if spread else MET,
            spread or ["each synapse's step depends on its own gradients"],
        ),
        Finding("optimizer", "time", VIOLATED if shared else MET, shared[:1] or [memory]),
        Finding(
            "optimizer",
            "simple",
            VIOLATED if operations else MET,
            list(operations.values()) or ["sums and multiples of the gradient"],
        ),
    ]


# --------------------------------------------------------------------------------------------- (iv) labels that are peeked at


def _peeking(report: Report, images: ImageSet, worlds: list[World]) -> None:
    """Labels that reach a step by another way than the loss's arguments: change them in place, and look for copies."""
    if images.labels is None or "unsupervised" in {f.condition for f in report.findings if f.verdict == VIOLATED}:
        return
    kept = images.labels.clone()
    world = worlds[-1]
    before, moved = world.updates(), set[str]()
    mixed = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(5))]  # other pictures are alike then
    try:  # in place: what peeks at them has a way to them of its own
        for others in (mixed, (kept + 1) % max(2, images.class_count)):
            images.labels.copy_(others)
            after = world.updates()
            moved |= {name for name in before if not torch.equal(before[name], after.get(name, before[name]))}
    finally:
        images.labels.copy_(kept)
    trace = Trace()
    copied = world.copied()
    with trace:
        copied.learn(world.batch.inputs)
    index = [k for k in (kept, kept[: len(world.batch.inputs) // 2]) if len(k.unique()) > 1]  # else any constant is one
    copies = [x for x in trace.external.values() if any(x.shape == k.shape and bool((x == k).all()) for k in index)]
    if moved or copies:
        how = (
            f"updates of {', '.join(sorted(moved)[:3])} move with them"
            if moved
            else "a copy of them is read during the step"
        )
        report.blame("loss", "unsupervised", f"labels reach the step although the loss does not declare them: {how}")


# ----------------------------------------------------------------------------------- (iii) feedback weights, over time


def _feedback(report: Report, model: Model, worlds: list[World], start: dict[str, Tensor]) -> dict[str, Any]:
    """Tensors of a forward weight's size that a step reads and that are none: {description: (tensor, weight's name)}.

    Adds a violation where one of them equals a forward weight, up to order and scale.
    """
    forward = dict(model.modules().named_parameters())
    storages = {p.untyped_storage()._cdata: name for name, p in forward.items()}
    found: dict[str, Any] = {}
    for world in worlds:
        maps = _forward_names(world)
        trace = Trace()
        with trace:
            world.learn(world.batch.inputs)
        for x in trace.external.values():
            name = storages.get(x.untyped_storage()._cdata, f"a tensor {tuple(x.shape)} of the rule")
            if (
                x.ndim < 2
                or x is world.batch.inputs
                or name in maps
                or not x.is_floating_point()
                or ".loss." in f".{name}"
            ):
                continue
            for weight in maps:
                if x.numel() != forward[weight].numel():
                    continue
                found.setdefault(f"{name} beside {weight}", (x, x.detach().clone(), weight))
                if _same_values(x.detach(), start[weight]):
                    text = f"{name} has the values of the forward weights {weight} at the start: the way down is a copy"
                    report.blame("rule", "asymmetric", text)
    return found


def _forward_names(world: World) -> list[str]:
    copied = world.copied()
    copied.calls = world.forward(world.batch.inputs)
    return [f"{world.index}.{owner}.{name}" for owner, names in copied.maps().items() for name in names]


def _same_values(x: Tensor, weight: Tensor) -> bool:
    a, b = (t.flatten().sort().values / t.norm().clamp_min(1e-30) for t in (x, weight))
    return bool(torch.allclose(a, b, rtol=1e-6, atol=1e-9))


def _measure(series: dict[str, list[float]], feedback: dict[str, Any], model: Model) -> None:
    """Append the angle of each feedback tensor to its forward weights, where their shapes agree."""
    forward = dict(model.modules().named_parameters())
    for description, (now, _, weight) in feedback.items():
        if now.shape == forward[weight].shape:
            series[description].append(round(measures.angle(now.detach(), forward[weight].detach()), 4))


def _converging(
    feedback: dict[str, Any], model: Model, start: dict[str, Tensor], angles: dict[str, list[float]]
) -> list[str]:
    """What became of each feedback tensor, and its angle to the forward weights over the real steps."""
    forward = dict(model.modules().named_parameters())
    remarks = []
    for description, (now, before, weight) in feedback.items():
        w0, w1, b0, b1 = start[weight], forward[weight].detach(), before, now.detach()
        if b0.shape != w0.shape:
            if torch.equal(b0, b1):
                remarks.append(f"{description}: fixed")
            continue
        gap0, gap1 = w0 - b0, w1 - b1
        shrunk = float((gap0 * gap1).sum() / gap0.square().sum())
        drift = float((gap1 - gap0).norm() / (w1 - w0).norm().clamp_min(1e-30))
        astray = float((gap1 - shrunk * gap0).norm() / (gap1 - gap0).norm().clamp_min(1e-30))
        if torch.equal(b0, b1):
            kind = "fixed"
        elif drift < 1e-6:
            kind = "offset, not transported, yet moved by the same increments: its difference to the weights stays as it was"
        elif shrunk < 1 and astray < 0.1:
            kind = f"converging, not transported: its difference to the weights shrank to {shrunk:.6f} of itself"
        else:
            kind = "learned by itself"
        course = angles[description]
        shown = [course[k * (len(course) - 1) // 3] for k in range(4)]
        remarks.append(f"{description}: {kind}; angle {', '.join(f'{a:.2f}' for a in shown)} degrees over time")
    return remarks


# ------------------------------------------------------------------------------------------------ facts without verdict


def _needs(model: Model, worlds: list[World], facts: loss.LossFacts) -> dict[str, Any]:
    turns = _turns(model)
    depth = max(len(_forward_names(world)) for world in worlds)
    runs = [turn for place, turn in enumerate(turns) if place == 0 or turns[place - 1] != turn]
    sequential = len(model.sites) > 1 and len(runs) == len(model.sites)
    waits = (
        f"all {depth} maps wait for the error at the top"
        if len(model.sites) == 1
        else f"a site's {depth} maps wait for its own error, for no other site"
    )
    phases = list(dict.fromkeys(group for _, group in model.optimizers))
    return {
        "memory of the loss": facts.memory,
        "memory of the rule": f"each pre-synaptic activity, while the signal passes {depth} map{'s' * (depth > 1)} and the error returns",
        "locking": waits + ("; each layer waits until those below have learned to the end" if sequential else ""),
        "phases of a step": len(phases),
    }


def _beyond(
    model: Model, worlds: list[World], facts: loss.LossFacts, start: dict[str, Tensor], steps: int
) -> dict[str, Any]:
    forward = dict(model.modules().named_parameters())
    names = [name for world in worlds for name in _forward_names(world)]
    flipped = sum(int((forward[n].detach().sign() != start[n].sign()).sum()) for n in names)
    total = sum(forward[n].numel() for n in names)
    both = sum(1 for n in names if bool((forward[n] > 0).any()) and bool((forward[n] < 0).any()))
    calls = [call for world in worlds for call in world.forward(world.batch.inputs)]
    inner = [call.output for call in calls]
    negative = sum(int((x < 0).sum()) for x in inner) / sum(x.numel() for x in inner)
    sign = (
        "the error is a sum of signs, one a comparison: its sign suffices"
        if facts.sign_suffices
        else f"graded; the cosine between the error and its sign is {facts.sign_cosine:.2f}"
    )
    others = model.config.batch - 1
    return {
        "negatives held": "all others of the batch" if facts.negatives == others else facts.negatives,
        "precision of the error": sign,
        "negative rates": f"{100 * negative:.0f} % of the maps' outputs are below 0",
        "weight sharing": _sharing(worlds),
        "Dale": f"both signs in {both} of {len(names)} maps; {100 * flipped / total:.2g} % of synapses changed sign in {steps} steps",
    }


def _sharing(worlds: Iterable[World]) -> str:
    """How many outputs of one image one entry of a weight reaches."""
    most, where = 1, ""
    for world in worlds:
        for call in world.forward(world.batch.inputs):
            module: Any = copy.deepcopy(world.owners()[call.owner])
            x = torch.ones_like(call.input[:1])
            with torch.no_grad():
                before = module(x)
                for _, p in module.named_parameters(recurse=False):
                    if p.ndim > 1:
                        p[tuple(n // 2 for n in p.shape)] += 1.0
                        break
                reached = int((module(x) != before).sum())
            if reached > most:
                most, where = reached, call.owner
    return f"one weight serves up to {most} places of an image ({where})" if most > 1 else "none"
