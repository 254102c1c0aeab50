"""Pictures of what flows where, drawn from the modules of a configuration and from what a step of it was seen to do.

`schematic` shows one training step of one site: signals going up, errors coming down and the weights that carry them,
weights that move. `timeline` shows which layers learn when. `pairs` shows which views a loss holds against each other
and which of them get an error.

Which weights carry an error is measured as the audit measures it (`plausibility.world`): a tensor is given other values
while all activity and the errors at the embedding are held, and the layers whose updates move are those that it serves.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config.names import SCHEDULES, create
from ..config.run import TrainConfig
from ..data import ImageSet, load
from ..errors import InputError
from ..losses import make as make_loss
from ..losses import needs
from ..networks import output_shape
from ..plausibility.audit import thin_model, world_at
from ..plausibility.learning import moving
from ..plausibility.verdict import Undecided
from ..plausibility.world import World, redraw
from ..training.model import Model, build, train_step

INK, FAINT, UP, SHARED, OWN, LEARNS = "#1d2733", "#9aa3ad", "#4d4d4d", "#d55e00", "#0072b2", "#fff2cc"


@dataclass(frozen=True)
class Carriers:
    """How the error reaches one stage (a layer or the head): from the stage `above`, through `names`.

    names: tensors of the site on which this step down depends; shared: those of them that also carry signals up.
    moving: those that learn. above: None where the error comes straight from the embedding.
    """

    above: int | None
    names: tuple[str, ...]
    shared: frozenset[str]
    moving: frozenset[str]


@dataclass(frozen=True)
class Flow:
    """What one step was seen to do.

    turns: the sites that learned. moved: the tensors that it changed, by names such as `1.layers.0.linear.weight`, the
    site's number first. errors: by learning site, one entry a stage but the topmost, from the bottom up; None where
    activity could not be held.
    """

    turns: tuple[int, ...]
    moved: frozenset[str]
    errors: dict[int, tuple[Carriers, ...] | None]


def flow(model: Model, images: ImageSet, site: int) -> Flow:
    """Take the first step at which `site` learns; `model` is changed by it, and should be small and in float64."""
    step = next((step for step in range(model.total_steps) if site in model.turns(step)), None)
    if step is None:
        raise InputError(f"Site {site} learns at no step of {model.config.schedule}; it takes more epochs.")
    learning = model.turns(step)
    before = {name: p.detach().clone() for name, p in model.modules().named_parameters()}
    errors = {index: _carriers(world_at(model, images, index)) for index in learning}
    train_step(model, images, step)
    after = dict(model.modules().named_parameters())
    moved = frozenset(name for name, old in before.items() if not torch.equal(old, after[name]))
    if not moved:
        raise InputError("The step to be drawn moved no weight; it takes pictures that show something.")
    for index, carriers in errors.items():
        if carriers is not None:
            errors[index] = tuple(
                replace(one, moving=frozenset(name for name in one.names if f"{index}.{name}" in moved))
                for one in carriers
            )
    return Flow(learning, moved, errors)


def _stages(site: Any) -> list[str]:
    """The prefixes of the names of each stage's tensors, from the bottom up."""
    return [*(f"layers.{k}." for k in range(len(site.layers))), *(["head."] if site.head is not None else [])]


def _carriers(world: World) -> tuple[Carriers, ...] | None:
    """For each stage but the topmost, what its error came through on the last step of its way."""
    try:
        world, base = world.with_fixed_errors()
        stages = _stages(world.site)
        served: dict[str, set[int]] = {}  # by each tensor: the stages whose updates depend on it
        for name, tensor in world.site.state_dict().items():
            if tensor.ndim > 1 and tensor.is_floating_point() and not name.startswith(("slow.", "loss.")):

                def redrawn(changed: World, name: str = name) -> None:
                    redraw(changed.site.state_dict()[name])

                after = world.updates(redrawn)
                # Feedback gets its own map's increment, whatever that is.
                others = moving(base, after, lambda key: not key.endswith(".feedback"))
                served[name] = {
                    place
                    for place, stage in enumerate(stages)
                    if not name.startswith(stage) and any(key.startswith(stage) for key in others)
                }
        upward = {f"{owner}.{name}" for owner, names in world.maps().items() for name in names}
    except Undecided:
        return None
    found = []
    through = [frozenset(name for name, places in served.items() if place in places) for place in range(len(stages))]
    for place in range(len(stages) - 1):
        chained = place + 1 == len(stages) - 1 or (through[place + 1] and through[place] >= through[place + 1])
        names = through[place] - through[place + 1] if chained else through[place]
        above = place + 1 if chained else None
        found.append(Carriers(above, tuple(sorted(names)), names & upward, frozenset()))
    return tuple(found)


# --------------------------------------------------------------------------------------------------------- the drawing


def schematic(config: TrainConfig, *, site: int | None = None, images: ImageSet | None = None) -> str:
    """An SVG of one training step of `config`: its layers, the sites that learn at that step, what flows between them.

    `site` counts from 0 and is the one that learns (default: the one in the middle). `images` stand in for the
    configured ones. Sizes are those of the configuration's own modules; what flows is seen on a thin copy of them, with
    an eighth of the channels. The same configuration gives the same text.

    Raises InputError for what cannot be trained, and for a site that there is not.
    """
    images = images if images is not None else load(config.data, root=config.data_root)
    model = build(replace(config, device="cpu"), images)
    site = len(model.sites) // 2 if site is None else site
    if not 0 <= site < len(model.sites):
        raise InputError(f"site is {site}; it takes a whole number from 0 to {len(model.sites) - 1}.")
    with torch.random.fork_rng(devices=[]):
        seen = flow(*thin_model(config, images), site)
    return _drawn(model, seen)


_WIDTH, _ROW, _LEFT, _BOX, _HEAD, _SIDE = 440, 108, 14, 174, 304, 124
_SMALL = 11.5


def _drawn(model: Model, seen: Flow) -> str:
    rows = sum(len(site.layers) for site in model.sites)
    art = _Art(_WIDTH, rows * _ROW + 150)

    def top(row: int) -> float:
        """The upper edge of a layer's box; rows count from the bottom."""
        return (rows - 1 - row) * _ROW + 50

    middle, below = _LEFT + _BOX / 2, top(0) + 80
    art.text(middle, below + 14, _inputs(model), size=12)
    art.text(middle, below + 30, f"{model.config.views}, {_size(model.shape)}", size=_SMALL, ink=FAINT)
    shape, first = model.shape, 0
    for site in model.sites:
        runs, learns = site.index <= max(seen.turns), site.index in seen.turns
        ink = INK if runs else FAINT
        for row, layer in enumerate(site.layers, start=first):
            shape, y = output_shape(layer, shape), top(row)
            art.box(_LEFT, y, _BOX, 56, _moves(seen, site, f"layers.{row - first}."), runs)
            art.text(middle, y + 18, f"layer {row + 1}", bold=True, ink=ink)
            art.text(middle, y + 34, _described(layer), size=_SMALL, ink=ink)
            art.text(middle, y + 49, _size(shape), size=11, ink=FAINT)
            if runs:
                art.arrow([(middle, y + _ROW if row else below), (middle, y + 57)], UP)
        first += len(site.layers)
        _head_and_loss(art, model, site, seen, top(first - 1))
        if learns:
            _errors(art, site, seen.errors[site.index], first - len(site.layers), top)
    _legend(art)
    return art.svg(_alternative(model, seen))


def _moves(seen: Flow, site: Any, prefix: str) -> bool:
    return any(name.startswith(f"{site.index}.{prefix}") for name in seen.moved)


def _inputs(model: Model) -> str:
    wants = model.sites[0].needs
    if wants.layout == "patches":
        return "patches of a view"
    if wants.layout == "single":
        return "one view" + (", and its label" if wants.labels else "")
    return {"ab": "views A and B", "b": "view B; A is remembered", "a": "view A; B is remembered"}[wants.gradient]


def _head_and_loss(art: "_Art", model: Model, site: Any, seen: Flow, y: float) -> None:
    """Beside the topmost layer of a site, at height `y`: the head if there is one, and above it the loss."""
    learns = site.index in seen.turns
    ink, middle, edge = (INK if learns else FAINT), _HEAD + _SIDE / 2, _LEFT + _BOX
    if site.head is not None:
        art.box(_HEAD, y + 8, _SIDE, 40, _moves(seen, site, "head."), learns)
        art.text(middle, y + 24, "head", bold=True, ink=ink)
        art.text(middle, y + 39, _described(site.head), size=11, ink=ink)
    if not learns:
        return
    loss_y = y - 38 if site.head is not None else y + 13
    art.box(_HEAD, loss_y, _SIDE, 30, _moves(seen, site, "loss."), True, corner=15)
    name = model.config.loss.partition("(")[0].rpartition(".")[2]
    art.text(middle, loss_y + 19, name if len(name) <= 16 else f"{name[:15]}…", bold=True)
    art.arrow([(edge, y + 18), (_HEAD - 1, y + 18)], UP)
    if site.head is None:
        art.arrow([(_HEAD, y + 40), (edge + 1, y + 40)], UP, dashed=True)
    else:
        art.arrow([(middle - 22, y + 8), (middle - 22, y - 7)], UP)
        art.arrow([(middle + 22, y - 8), (middle + 22, y + 7)], UP, dashed=True)


def _errors(art: "_Art", site: Any, carriers: tuple[Carriers, ...] | None, first: int, top: Any) -> None:
    """The errors' way down inside a site whose lowest layer is number `first`."""
    layers, edge = len(site.layers), _LEFT + _BOX
    if carriers is None:
        art.text(edge + 8, top(first) + 74, "errors: not decidable", size=_SMALL, anchor="start")
        return
    beside = _HEAD + 16
    for place, one in enumerate(carriers):
        y = top(first + place)
        ink, label = (SHARED if one.shared else OWN), _label(one, first)
        if one.above is None:  # straight from the embedding
            art.arrow([(beside, top(first + layers - 1) + 48), (beside, y + 40), (edge + 1, y + 40)], ink, dashed=True)
            art.text(edge + 8, y + 35, label, size=_SMALL, ink=ink, anchor="start")
            beside += 26
        elif one.above == layers:  # from the head, beside the topmost layer
            art.arrow([(_HEAD, y + 40), (edge + 1, y + 40)], ink, dashed=True)
            art.text((_HEAD + edge) / 2, y + 33, label, size=11, ink=ink)
        else:
            above, lane = top(first + place + 1) + 50, edge + 24
            art.arrow([(edge, above), (lane, above), (lane, y + 10), (edge + 1, y + 10)], ink, dashed=True)
            art.text(lane + 6, (above + y + 10) / 2 + 4, label, size=_SMALL, ink=ink, anchor="start")


def _label(one: Carriers, first: int) -> str:
    """What the error goes through: W of a map of the forward pass, B of its feedback, g of an inverse."""
    said = []
    for name in one.names:
        parts = name.split(".")
        symbol = "B" if parts[-1] == "feedback" else "W"
        symbol += "ᵀ" if name in one.shared else ""
        if parts[0] == "inverses":
            symbol = f"g{_sub(first + int(parts[1]) + 2)}"
        elif parts[0] == "layers":
            symbol += _sub(first + int(parts[1]) + 1)
        elif parts[0] != "head":
            symbol = name
        said.append(symbol if name in one.shared else f"{symbol}, {'learns' if name in one.moving else 'fixed'}")
    return " and ".join(sorted(said, reverse=True)) or "no weights"


def _sub(number: int) -> str:
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(number))


def _described(layer: nn.Module) -> str:
    """A layer's parts in few words: `conv 32, tanh, pool`."""
    words = []
    for part in layer.modules():
        kind = getattr(type(part), "plain", type(part)).__name__
        if hasattr(part, "out_channels"):
            words.append(f"{'conv' if 'Conv' in kind else 'local'} {part.out_channels}")
        elif isinstance(part, nn.Linear):
            words.append(f"linear {part.out_features}")
        elif not list(part.children()) and not isinstance(part, nn.Flatten):
            words.append("pool" if "Pool" in kind else kind.lower())
    text = ", ".join(words)
    return text if len(text) <= 28 else f"{text[:27]}…"


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _legend(art: "_Art") -> None:
    y = art.height - 56
    for x, ink, said in ((14, UP, "signals"), (130, None, "moves"), (230, None, "stays"), (330, None, "not run")):
        if ink:
            art.arrow([(x, y), (x + 26, y)], ink)
        else:
            art.box(x, y - 8, 26, 16, said == "moves", said != "not run")
        art.text(x + 32, y + 4, said, size=_SMALL, anchor="start")
    art.arrow([(14, y + 23), (40, y + 23)], UP, dashed=True)
    art.text(46, y + 27, "errors", size=_SMALL, anchor="start")
    art.arrow([(130, y + 23), (156, y + 23)], OWN, dashed=True)
    art.text(162, y + 27, "… through weights of their own", size=_SMALL, anchor="start")
    art.arrow([(130, y + 46), (156, y + 46)], SHARED, dashed=True)
    art.text(162, y + 50, "… through the weights that carry signals", size=_SMALL, anchor="start")


def _alternative(model: Model, seen: Flow) -> str:
    """The picture in a sentence, for those who cannot see it."""
    c = model.config
    learning = " and ".join(str(turn + 1) for turn in seen.turns)
    ways = [f"site {site + 1}: {', '.join(_label(one, 0) for one in way)}" for site, way in seen.errors.items() if way]
    through = f"; errors come down through {'; '.join(ways)}" if ways else ""
    return (
        f"Network {c.network}, loss {c.loss}, schedule {c.schedule}, rule {c.rule}, a step at which "
        f"{'sites' if len(seen.turns) > 1 else 'site'} {learning} of {len(model.sites)} learn{through}."
    )


# ------------------------------------------------------------------------------------------- schedules, losses


def timeline(schedule: str, *, layers: int = 5, steps: int = 8, seed: int = 0) -> str:
    """An SVG of which layers learn at which step, where each site is to be trained for `steps` of them.

    Raises InputError for an unknown schedule.
    """
    plan = create(schedule, SCHEDULES, "schedule")
    groups = plan.groups(layers)
    length = plan.length(len(groups), steps)
    art = _Art(_WIDTH, 22 * layers + 44)
    left, cell = 64, min(9.0, (_WIDTH - 72) / length)
    for number, group in enumerate(groups):
        for layer in group:
            y = 10 + 22 * (layers - 1 - layer)
            art.text(left - 8, y + 14, f"layer {layer + 1}", size=_SMALL, anchor="end")
            for step in range(length):
                learns = number in plan.sites(seed, step, len(groups), steps)
                art.cell(left + step * cell, y, cell, 18, OWN if learns else "#eef0f2")
    art.text(left, art.height - 8, f"{length} steps", size=_SMALL, anchor="start", ink=FAINT)
    return art.svg(f"Schedule {schedule}: which of {layers} layers learn at each of {length} steps.")


def pairs(loss: str, *, count: int = 6) -> str:
    """An SVG of which views a loss holds against each other, and of which lists of views get an error from it.

    Embeddings are drawn at several sizes, `count` images in each list. Two views are held against each other if the
    change that moving both makes to the loss is not the sum of the changes that moving each makes.

    Raises InputError for a loss that is not called with two lists of views.
    """
    made: Any = make_loss(loss).double()
    if needs(made).layout != "pair":
        raise InputError(f"The loss {loss} does not take two lists of views, which this picture is of.")
    if hasattr(made, "sized"):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            made.sized((4,))
            made.double()
    names = ["A", "B"] if needs(made).momentum is None else ["A", "B", "slow A", "slow B"]
    held = torch.zeros(2 * [len(names) * count], dtype=torch.bool)
    errors = torch.zeros(len(names), dtype=torch.bool)
    for z, moved in _draws(len(names) * count):
        z = z.requires_grad_()
        made(*z.chunk(len(names))).backward()
        assert z.grad is not None
        errors |= torch.stack([part.any() for part in z.grad.chunk(len(names))])
        held |= _held(lambda x: made(*x.chunk(len(names))), z.detach(), moved)
    art = _Art(_WIDTH, 336 if len(names) == 2 else 394)
    left, y0, cell = 96, 40, (264 if len(names) == 2 else 316) / len(held)
    for i in range(len(held)):
        for j in range(len(held)):
            same = i % count == j % count
            colour = "#ffffff" if i == j else (("#009e73" if same else "#d55e00") if held[i, j] else "#eef0f2")
            gap = 3 * (j // count), 3 * (i // count)
            art.cell(left + j * cell + gap[0], y0 + i * cell + gap[1], cell, cell, colour)
    for number, name in enumerate(names):
        at = (number + 0.5) * count * cell + 3 * number
        art.text(left + at, 16, name, bold=True)
        art.text(left + at, 31, "gets an error" if errors[number] else "no error", size=11, ink=FAINT)
        art.text(left - 10, y0 + at + 4, name, bold=True, anchor="end")
    for x, colour, said in (
        (96, "#009e73", "same image"),
        (196, "#d55e00", "other images"),
        (306, "#eef0f2", "not compared"),
    ):
        art.cell(x, art.height - 18, 12, 12, colour)
        art.text(x + 18, art.height - 8, said, size=_SMALL, anchor="start")
    who = " and ".join(name for name, gets in zip(names, errors.tolist(), strict=True) if gets)
    return art.svg(f"Loss {loss}: which of {count} images' views are held against each other; errors go to {who}.")


def _draws(rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Embeddings at several sizes, so that some lie on each side of any margin, and where each is to move."""
    for number, size in enumerate((0.1, 0.3, 1.0, 3.0)):
        generator = torch.Generator().manual_seed(number)
        yield tuple(size * torch.randn(2, rows, 4, generator=generator, dtype=torch.float64))


def _held(loss: Callable[[Tensor], Tensor], z: Tensor, moved: Tensor) -> Tensor:
    """Which rows of `z` are held against which: (rows, rows), bool."""
    rows = len(z)

    def at(*places: int) -> float:
        mask = torch.zeros(rows, 1, dtype=torch.bool)
        mask[list(places)] = True
        with torch.no_grad():
            return float(loss(torch.where(mask, moved, z)))

    base, alone = at(), [at(i) for i in range(rows)]
    found = torch.zeros(rows, rows, dtype=torch.bool)
    for i in range(rows):
        for j in range(i):
            both = at(i, j) - alone[i] - alone[j] + base
            found[i, j] = found[j, i] = abs(both) > 1e-9 * (abs(base) + 1)
    return found


class _Art:
    """An SVG in the making."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.parts: list[str] = []

    def cell(self, x: float, y: float, w: float, h: float, fill: str) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}" stroke="#ffffff" stroke-width="0.6"/>'
        )

    def box(self, x: float, y: float, w: float, h: float, moves: bool, runs: bool, corner: float = 5) -> None:
        fill, ink = (LEARNS if moves else "#ffffff"), (INK if runs else FAINT)
        dash = "" if runs else ' stroke-dasharray="3 3"'
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{corner:g}" fill="{fill}" '
            f'stroke="{ink}" stroke-width="{2.2 if moves else 1.1:g}"{dash}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        bold: bool = False,
        ink: str = INK,
        anchor: str = "middle",
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{ink}"{weight}>'
            f"{html.escape(text)}</text>"
        )

    def arrow(self, points: Sequence[tuple[float, float]], ink: str, *, dashed: bool = False) -> None:
        """A line through the points, with a head at the last."""
        (x0, y0), (x, y) = points[-2:]
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        dx, dy = (x - x0) / length, (y - y0) / length
        line = " ".join(f"{a:g},{b:g}" for a, b in [*points[:-1], (x - 5 * dx, y - 5 * dy)])
        back, side = (x - 8 * dx, y - 8 * dy), (4 * dy, -4 * dx)
        corners = [(x, y), (back[0] - side[0], back[1] - side[1]), (back[0] + side[0], back[1] + side[1])]
        tip = " ".join(f"{a:g},{b:g}" for a, b in corners)
        dash = ' stroke-dasharray="6 3"' if dashed else ""
        self.parts.append(f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-width="1.7"{dash}/>')
        self.parts.append(f'<polygon points="{tip}" fill="{ink}"/>')

    def svg(self, alternative: str) -> str:
        said = html.escape(alternative)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" height="{self.height:g}" font-family="Helvetica, Arial, sans-serif" role="img" '
            f'aria-label="{said}">\n<title>{said}</title>\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )
