"""The loss alone: what the error of each embedding depends on.

The loss is fed with made-up embeddings at several distances, in float64, and its errors (gradients) are looked at while
something is changed. A change too small to carry anything over a threshold leaves every gate as it was: what moves then
carries graded activity. A large change shows on whom an error depends at all.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .operations import complexity
from .trace import Op, Trace
from .verdict import CONDITIONS, MET, UNDECIDED, VIOLATED, Finding, Undecided

_SCALES = (0.02, 0.1, 0.3, 1.0, 3.0)  # of the embeddings: somewhere among them are a loss's margins
_SMALL = 1e-6  # a change that crosses no threshold
_STILL = 1e-9  # an error that moves by less, relative to the largest, has not moved
_GRID = (3, 3)
_PLAIN = "between embeddings and errors stand sums, differences, absolute values, signs and thresholds alone"


@dataclass
class LossFacts:
    """What needs no verdict."""

    memory: str
    negatives: int
    sign_suffices: bool
    sign_cosine: float  # between the error and its sign


class Subject:
    """A loss and what it takes. Each call is of a copy that starts from the same state and draws the same numbers."""

    def __init__(self, site: Any, shape: tuple[int, ...], images: int):
        self.needs, self.shape, self.images = site.needs, shape, images
        self.loss = copy.deepcopy(site.loss)
        self.roles = {"single": 1, "patches": 2, "pair": 2}[self.needs.layout]
        self.slow = 2 if self.needs.momentum is not None else 0
        self.classes = shape[0]

    def draw(self, scale: float, seed: int) -> list[Tensor]:
        """Embeddings of two lists of views, or one; pairs lie nearer to each other, by amounts that differ."""
        generator = torch.Generator().manual_seed(seed)
        leading = (self.images, *(_GRID if self.needs.layout == "patches" else ()))
        full = (*leading, *self.shape)

        def normal() -> Tensor:
            return scale * torch.randn(full, generator=generator, dtype=torch.float64)

        first = normal()
        near = torch.logspace(-1.5, 0.5, self.images, dtype=torch.float64).view(-1, *[1] * (len(full) - 1))
        rest = [first + near * normal() for _ in range(self.roles + self.slow - 1)]
        return [first, *rest]

    def errors(self, z: list[Tensor], loss: Any = None, labels: Tensor | None = None) -> list[Any]:
        """The gradient at each list, None where it carries none."""
        return self.traced(z, nullcontext(), loss, labels)[1]

    def traced(
        self, z: list[Tensor], trace: Any, loss: Any = None, labels: Tensor | None = None
    ) -> tuple[list[Tensor], list[Any]]:
        """The leaves and the errors at them; `trace` records how they come about."""
        loss = copy.deepcopy(self.loss) if loss is None else loss
        leaves = [x.clone().requires_grad_(k < self.roles) for k, x in enumerate(z)]
        arguments: list[Tensor] = list(leaves)
        if self.needs.layout == "single":
            arguments.append(torch.arange(self.images) % self.classes if labels is None else labels)
        torch.default_generator.manual_seed(0)
        if hasattr(loss, "draw"):
            loss.draw(0, 0)
        with torch.enable_grad(), trace:
            return leaves, self._gradients(loss(*arguments), leaves)

    def _gradients(self, value: Tensor, leaves: list[Tensor]) -> list[Any]:
        if not value.requires_grad:
            return [None] * self.roles
        return list(torch.autograd.grad(value, leaves[: self.roles], allow_unused=True))


def examine(site: Any, shape: tuple[int, ...], images: int) -> tuple[list[Finding], LossFacts]:
    """Judge the loss of a site whose embeddings of one image have `shape`, in batches of `images`."""
    subject = Subject(site, shape, images)
    cases = [subject.draw(scale, seed) for seed, scale in enumerate(_SCALES)]
    live = []
    for z in cases:
        errors, again = subject.errors(z), subject.errors(z)
        if any(_moved(e, f) for e, f in zip(errors, again, strict=True)):
            reason = "two calls with the same embeddings gave different errors: it draws numbers that no seed fixes"
            return undecided(reason)
        if any(e is not None and e.abs().max() > 0 for e in errors):
            live.append(z)
    if not live:
        return undecided("no error arose, at any of the distances that were tried")
    try:
        depends = _dependence(subject, live)
    except (RuntimeError, ValueError) as error:
        raise Undecided(f"the loss could not be called again with other embeddings: {error}") from None
    queue = _queue(subject, live[len(live) // 2])
    space = _space(subject, live)
    operations, symmetric, gates, graded = _operations(subject, live)
    time = _time(subject, depends, queue)
    labels = _labels(subject, live)
    findings = [
        Finding("loss", "space", VIOLATED if space[0] else MET, [space[1], *gates]),
        Finding("loss", "time", VIOLATED if time[0] else MET, time[1]),
        Finding("loss", "simple", VIOLATED if operations else MET, operations or [_PLAIN]),
        Finding("loss", "asymmetric", VIOLATED if symmetric else MET, symmetric or [_one_way(subject)]),
        Finding("loss", "unsupervised", VIOLATED if labels else MET, labels or ["no label is among its arguments"]),
    ]
    facts = LossFacts(time[2], _negatives(subject, depends | depends.T), not graded, _sign_cosine(subject, live))
    return findings, facts


def undecided(reason: str) -> tuple[list[Finding], LossFacts]:
    findings = [Finding("loss", condition, UNDECIDED, [reason]) for condition in CONDITIONS]
    return findings, LossFacts("not known", 0, False, float("nan"))


def _moved(before: Tensor | None, after: Tensor | None) -> bool:
    if before is None or after is None:
        return before is not after
    return bool((after - before).abs().max() > _STILL * before.abs().max().clamp_min(1e-30))


def _one_way(subject: Subject) -> str:
    if any(True for _ in subject.loss.parameters()):
        return "its own weights carry graded signals in one direction only"
    return "it has no weights of its own"


# ------------------------------------------------------------------------------------------------------ (i) in space


def _space(subject: Subject, cases: list[list[Tensor]]) -> tuple[bool, str]:
    """Change half of the units by too little to cross a threshold: do the other units' errors move?"""
    generator = torch.Generator().manual_seed(1)
    if not subject.shape or torch.Size(subject.shape).numel() < 2:
        return False, "the embedding has one unit"
    for z in cases:
        errors = subject.errors(z)
        for _ in range(2):
            half = torch.rand(subject.shape, generator=generator) < 0.5
            changed = [
                x + _SMALL * x.abs().mean() * half * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in z
            ]
            for role, (before, after) in enumerate(zip(errors, subject.errors(changed), strict=True)):
                if before is None:
                    continue
                others = ~half.expand(before.shape)
                if _moved(before[others], after[others]):
                    return True, (
                        f"the error at units of list {'AB'[role]} moves with the activity of other units, although that "
                        "changed by too little to cross a threshold: more than gates reaches them"
                    )
    return False, "a unit's error depends on its own activities, now and remembered, and on gates alone"


# ------------------------------------------------------------------------------------------------------- (i) in time


def _dependence(subject: Subject, cases: list[list[Tensor]]) -> Tensor:
    """depends[e, v]: does the error at view e depend on view v? Views are list A's, then B's (patches: every patch)."""
    each = cases[0][0].shape[: cases[0][0].ndim - len(subject.shape)].numel()
    depends = torch.zeros(subject.roles * each, subject.roles * each, dtype=torch.bool)
    generator = torch.Generator().manual_seed(2)
    for z in cases:
        before = _per_view(subject.errors(z), each)
        largest = before.abs().max()
        for view in range(subject.roles * each):
            role, place = divmod(view, each)
            for size in (0.3, 3.0):
                changed = [x.clone() for x in z]
                for one in range(role, len(z), subject.roles):  # a slow copy's embedding is of the same view
                    flat = changed[one].view(each, -1)
                    drawn = torch.randn(flat.shape[1], generator=generator, dtype=flat.dtype)
                    flat[place] = flat[place] * (0.1 if size < 1 else 1) + size * z[0].abs().mean() * drawn
                after = _per_view(subject.errors(changed), each)
                depends[:, view] |= (after - before).abs().amax(1) > _STILL * largest
    depends.fill_diagonal_(False)
    return depends


def _per_view(errors: list[Any], each: int) -> Tensor:
    width = next((e.numel() // each for e in errors if e is not None), 1)
    flat = [torch.zeros(each, width, dtype=torch.float64) if e is None else e.reshape(each, -1) for e in errors]
    return torch.cat(flat)


def _time(subject: Subject, depends: Tensor, queue: int) -> tuple[bool, list[str], str]:
    """Is there an order of showing the views in which no update waits for a view that comes later?"""
    reaches = depends.clone()
    for _ in range(int(torch.tensor(float(len(depends))).log2().ceil()) + 1):
        reaches |= (reaches.double() @ reaches.double()) > 0
    cycle = reaches & reaches.T
    if queue:
        declared = int(getattr(subject.loss, "queue", 0))
        undeclared = f", more than the {declared} that it declares" if queue > declared else ""
        held = f"an error depends on embeddings of earlier batches, up to {queue} of them{undeclared}"
        return True, [held], f"what {queue} embeddings of earlier batches leave behind"
    direct = depends & depends.T
    if bool(cycle.any()):
        first, second = (int(k) for k in (direct if direct.any() else cycle).nonzero()[0])
        text = (
            f"the error at {_view(subject, first, depends)} waits for {_view(subject, second, depends)}, and the other way "
            "round: in any order, the pre-synaptic activity of one of them has to be remembered"
        )
        return True, [text], "the pre-synaptic activities of both views, until their comparisons are over"
    others = int(depends.sum(0).max())
    if not others:
        return False, ["the error at a view needs no other view"], "nothing but what is seen now"
    order = "the remembered views come first, and carry no update that waits for a later one"
    return False, [order], f"one anchor's embedding, while {others} other views are seen"


def _view(subject: Subject, number: int, depends: Tensor) -> str:
    role, place = divmod(number, len(depends) // subject.roles)
    return f"{'AB'[role]}[{place}]"


def _negatives(subject: Subject, links: Tensor) -> int:
    """Most other images that a view is held against."""
    size = len(links)
    each = size // subject.roles
    patches = each // subject.images
    image = torch.arange(size) % each // patches
    counts = [len({int(image[v]) for v in links[u].nonzero()[:, 0]} - {int(image[u])}) for u in range(size)]
    return max(counts)


def _queue(subject: Subject, z: list[Tensor], patience: int = 8, most: int = 2000) -> int:
    """How many embeddings of earlier batches an error depends on: change a batch, and follow the errors of later ones."""
    first, second = copy.deepcopy(subject.loss), copy.deepcopy(subject.loss)
    generator = torch.Generator().manual_seed(3)
    scale = z[0].abs().mean()
    subject.errors(z, first)
    subject.errors([x + scale * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in z], second)
    last = 0
    for call in range(1, most):
        if call > last + patience:
            break
        later = [x + scale * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in z]
        pairs = zip(subject.errors(later, first), subject.errors(later, second), strict=True)
        if any(_moved(e, f) for e, f in pairs):
            last = call
    return last * len(z[0])


# ------------------------------------------------------------------------------- (ii) operations, (iii) weights of its own


class _Traced(Trace):
    """A trace that knows the loss's own weights by the memory that they occupy."""

    weights: dict[int, str]


def _operations(subject: Subject, cases: list[list[Tensor]]) -> tuple[list[str], list[str], list[str], bool]:
    """What stands between embeddings and errors: complex operations, weights used both ways, gates; are errors graded?"""
    complex_: dict[Any, str] = {}
    symmetric: dict[str, str] = {}
    gates: dict[Any, str] = {}
    any_graded = False
    generator = torch.Generator().manual_seed(4)

    def moved_by(size: float, z: list[Tensor]) -> list[Tensor]:
        return [x + size * x.abs().mean() * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in z]

    for z in cases:
        trace, errors, start = _traced(subject, z)
        tainted = trace.after(start)
        graded = tainted & _differing(trace, _traced(subject, moved_by(_SMALL, z))[0])
        varying = _differing(trace, _traced(subject, moved_by(1.0, z))[0])
        ends = [trace.node(e) for e in errors if e is not None] + trace.item
        any_graded |= any(e in graded for e in ends)
        for op in trace.behind(ends):
            if kind := complexity(op, graded.__contains__, products=True):
                complex_.setdefault((kind, op.place), f"{kind}: {op.name} at {op.place}, result {op.shape}")
            if _is_gate(op, graded, varying, subject.shape):
                gates[op.place, op.shape] = (
                    f"broadcast to all units: a threshold's outcome ({op.name} at {op.place}), {op.shape}: one scalar a "
                    "comparison"
                )
        symmetric |= _both_ways(subject, trace, trace.behind(ends, graded.__contains__), graded, tainted)
    return list(complex_.values()), list(symmetric.values()), list(gates.values()), any_graded


def _traced(subject: Subject, z: list[Tensor]) -> tuple[_Traced, list[Any], set[int]]:
    """A trace of one call, the errors, and the nodes of the embeddings."""
    loss, trace = copy.deepcopy(subject.loss), _Traced(values=True)
    trace.weights = {p.untyped_storage()._cdata: n for n, p in loss.state_dict(keep_vars=True).items() if p.ndim > 1}
    leaves, errors = subject.traced(z, trace, loss)
    return trace, errors, {trace.node(x) for x in leaves}


def _differing(trace: Trace, other: Trace) -> set[int]:
    """The nodes that hold other numbers in `other`; all of them, where it ran other operations."""
    if [op.name for op in trace.ops] != [op.name for op in other.ops]:
        return {node for op in trace.ops for node in op.writes} | set(trace.external)
    pairs = [
        (n, a, b)
        for op, o in zip(trace.ops, other.ops, strict=True)
        for n, a, b in zip(op.writes, op.values, o.values, strict=True)
    ]
    return {n for n, a, b in pairs if a.shape != b.shape or not torch.equal(a, b)} | set(trace.external)


def _is_gate(op: Op, graded: set[int], varying: set[int], shape: tuple[int, ...]) -> bool:
    """A threshold's outcome without an axis of units: made of graded numbers, not graded itself, yet not constant."""
    thresholds = any(n in graded for n in op.reads) and not any(n in graded for n in op.writes)
    units = torch.Size(shape).numel()
    per_unit = units in op.shape or shape == op.shape[len(op.shape) - len(shape) :]
    return thresholds and any(n in varying for n in op.writes) and not per_unit


def _both_ways(
    subject: Subject, trace: _Traced, behind: list[Op], graded: set[int], tainted: set[int]
) -> dict[str, str]:
    """Weights of the loss that carry graded signals up in its forward pass and down in its backward pass."""
    uses: list[tuple[str, int | None, bool, str]] = []  # which weight, where in it, in a backward pass?, by what
    for op in behind:
        if any(n in graded for n in op.reads):
            for node, offset in zip(op.reads, op.offsets, strict=True):
                for source in trace.sources(node) if node not in tainted else []:
                    if name := trace.weights.get(source.untyped_storage()._cdata):
                        place = offset if node in trace.external else None  # of a copy we know the whole alone
                        uses.append((name, place, op.backward, f"{op.name} at {op.place}"))
    found = {}
    for name, at, backward, up in uses:
        for other, elsewhere, down_too, down in uses:
            same = name == other and (at == elsewhere or None in (at, elsewhere))
            if same and down_too and not backward and not _remembers(subject, name):
                found[name] = f"the loss's own {name} carries activity up ({up}) and errors down ({down})"
    return found


def _remembers(subject: Subject, name: str) -> bool:
    """Whether a call changes it: then it is a memory of embeddings, and no weight."""
    loss = copy.deepcopy(subject.loss)
    subject.errors(subject.draw(1.0, 7), loss)
    return not torch.equal(loss.state_dict()[name], subject.loss.state_dict()[name])


# ------------------------------------------------------------------------------------------- (iv) labels, and the rest


def _labels(subject: Subject, cases: list[list[Tensor]]) -> list[str]:
    """Do the errors move with the labels that the loss is given?"""
    if subject.needs.layout != "single":
        return []
    labels = torch.arange(subject.images) % subject.classes
    for z in cases:
        pairs = zip(subject.errors(z, labels=labels), subject.errors(z, labels=labels.roll(1)), strict=True)
        if any(_moved(e, f) for e, f in pairs):
            return ["it is called with labels, and its errors move with them"]
    return []


def _sign_cosine(subject: Subject, cases: list[list[Tensor]]) -> float:
    """Mean cosine between the error and its sign."""
    errors = [e.flatten() for z in cases for e in subject.errors(z) if e is not None and e.abs().max() > 0]
    cosines = [torch.nn.functional.cosine_similarity(e, e.sign(), dim=0) for e in errors]
    return float(torch.stack(cosines).mean())


def fitting_batch(site: Any, shape: tuple[int, ...], least: int) -> int:
    """The smallest batch, from `least` up, that the loss takes: it may want more negatives. Raises what the loss does."""
    images = least
    while True:
        subject = Subject(site, shape, images)
        try:
            subject.errors(subject.draw(1.0, 0))
        except (RuntimeError, ValueError, IndexError):
            if images >= 64 * least:
                raise
            images *= 2
        else:
            return images
