"""Audits as tables, figures and sections of a page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..plausibility.circuit import Circuit
from ..plausibility.verdict import CONDITIONS, MET, PARTS, VIOLATED, Report
from . import figures
from .page import Block, Facts, Section, Svg
from .tables import Cell, Spread, Table

_PLACES = {  # of the circuit's populations in its drawing: (column, row)
    "seen on": (0, 1.4),
    "seen off": (0, 3.6),
    "load on": (1, 2),
    "unload on": (1, 3),
    "load off": (1, 4.1),
    "unload off": (1, 5.1),
    "kept on": (2, 2.5),
    "kept off": (2, 4.6),
    "above": (3, 0.8),
    "below": (3, 3.4),
    "sign above": (4, 0),
    "sign below": (4, 4.4),
    "far": (4, 1.5),
    "spread": (4, 2.9),
    "near": (5, 2.9),
    "shut pull": (5, 1.5),
    "shut push": (6, 2.9),
    "pull up": (7, 0),
    "pull down": (7, 1.5),
    "push up": (7, 2.9),
    "push down": (7, 4.4),
    "up": (8, 1.5),
    "down": (8, 2.9),
}

NOTES = [
    "(ii) of the optimizer stands apart: Adam divides, each synapse by itself.",
    "A verdict on (iii) asks whether weights are transported; of feedback that comes to resemble them, it is said beside it.",
]
_LEARNING = tuple(part for part in PARTS if part != "optimizer")


@dataclass(frozen=True)
class Audited:
    """An audit and the accuracies (%) that go with it: ours, published."""

    label: tuple[str, ...]
    report: Report
    accuracy: Spread | None = None
    published: float | None = None


def verdicts(report: Report) -> Table:
    """One audit: a row a part and condition, violations first, each with its evidence."""
    order = sorted(report.findings, key=lambda f: (f.verdict != VIOLATED, list(CONDITIONS).index(f.condition)))
    rows: list[list[Cell]] = [[CONDITIONS[f.condition], f.part, f.verdict, "; ".join(f.evidence)] for f in order]
    return Table(["condition", "part", "verdict", "evidence"], rows, report.name, [f"Run: {report.setting}."])


def facts(report: Report) -> dict[str, Any]:
    """What a report says without a verdict."""
    kept = {**report.needs, **report.beyond}
    return kept | ({"feedback over time": report.remarks} if report.remarks else {})


def as_data(one: Audited) -> dict[str, Any]:
    """An audit and its accuracies, for JSON."""
    accuracy = None if one.accuracy is None else asdict(one.accuracy)
    return one.report.as_dict() | {"label": list(one.label), "accuracy": accuracy, "published": one.published}


def matrix(audited: Sequence[Audited], names: Sequence[str], caption: str) -> Table:
    """Configurations by conditions, and the accuracies beside them."""
    header = [*names, *CONDITIONS.values(), "(ii) optimizer", "accuracy (%)", "published (%)"]
    rows = []
    for one in audited:
        line: list[Cell] = [*one.label, *(_short(one.report, condition) for condition in CONDITIONS)]
        rows.append([*line, _optimizers(one.report), one.accuracy, one.published])
    return Table(header, rows, caption, NOTES, digits=2)


def _short(report: Report, condition: str) -> str:
    verdict = report.verdict(condition, _LEARNING)
    blamed = [part for part in report.blamed(condition) if part in _LEARNING]
    if verdict == VIOLATED:
        return f"no: {', '.join(blamed)}"
    kinds = {remark.split(": ", 1)[1].split(",")[0].split(";")[0] for remark in report.remarks}
    moving = sorted(kinds & {"converging", "offset"}) if condition == "asymmetric" else []
    return ", ".join([verdict, *moving])


def _optimizers(report: Report) -> str:
    return MET if report.verdict("simple", ["optimizer"]) == MET else "no: divides"


def violated(report: Report) -> int:
    """How many of the paper's four conditions are violated, the optimizer apart."""
    groups = (("space", "time"), ("simple",), ("asymmetric",), ("unsupervised",))
    return sum(any(report.verdict(c, _LEARNING) == VIOLATED for c in group) for group in groups)


def plausibility_against_performance(audited: Sequence[Audited], caption: str = "test accuracy (%)") -> str:
    """Accuracy over the number of violated conditions: filled, ours; hollow, published. A colour an update."""
    with figures._figure(4.4) as figure:
        axes = figure.subplots()
        updates = list(dict.fromkeys(one.label[2] for one in audited))
        columns = [[one for one in audited if violated(one.report) == count] for count in range(5)]
        for count, column in enumerate(columns):
            for place, one in enumerate(column):
                at = count + 0.8 * ((place + 0.5) / len(column) - 0.5)
                colour = figures.COLOURS[updates.index(one.label[2]) % len(figures.COLOURS)]
                if one.published is not None:
                    axes.plot(at, one.published, "o", color=colour, markerfacecolor="none", markersize=6)
                if one.accuracy is not None:
                    axes.plot(at, one.accuracy.mean, "o", color=colour, markersize=6)
                known = [one.published, None if one.accuracy is None else one.accuracy.mean]
                top = max((value for value in known if value is not None), default=None)
                if top is not None:
                    text = " ".join(word for word in (*one.label[:2], *one.label[3:]) if word)
                    axes.annotate(
                        text,
                        (at, top),
                        (0, 6),
                        textcoords="offset points",
                        rotation=90,
                        fontsize=6.5,
                        ha="center",
                        va="bottom",
                    )
        for index, update in enumerate(updates):
            axes.plot([], [], "o", color=figures.COLOURS[index % len(figures.COLOURS)], label=update)
        axes.set_xlim(-0.5, 4.5)
        axes.set_xticks(range(5))
        axes.margins(y=0.35)
        axes.set_xlabel("conditions violated, of four (the optimizer apart)")
        axes.set_ylabel(caption)
        figures._legend(figure, axes)
        return figures._svg(figure)


def sections(audited: Sequence[Audited], names: Sequence[str], caption: str) -> list[Section]:
    """A page: the matrix, the figure where there are accuracies, and each audit with its evidence."""
    blocks: list[Block] = [matrix(audited, names, caption)] if len(audited) > 1 else []
    if len(audited) > 1 and any(one.accuracy or one.published for one in audited):
        said = "Accuracy over the number of violated conditions. Filled: ours; hollow: published."
        blocks.append(Svg(plausibility_against_performance(audited), said))
    found = [Section("Plausibility against performance", blocks)] if blocks else []
    for one in audited:
        title = ", ".join(word for word in one.label if word) or one.report.name
        found.append(Section(title, [verdicts(one.report), Facts(facts(one.report))]))
    return [*found, circuit_section()] if len(audited) > 1 else found


def circuit_drawing(circuit: Circuit) -> str:
    """The circuit: excitatory populations as circles, inhibitory ones as squares; arrows excite, bars inhibit.

    The inhibitory companions of the embedding's units are left out: what they inhibit is inhibited by the unit itself.
    """
    with figures._figure(4.2) as figure:
        axes = figure.subplots()
        at = {name: (1.1 * column, -float(row)) for name, (column, row) in _PLACES.items()}
        for population in circuit.populations:
            for source, _, _ in population.inputs if population.name in at else ():
                name = source.removesuffix(" companion")
                if name not in at:
                    continue  # what tells of the saccade
                excites = circuit.excites(source)
                colour = figures.COLOURS[0] if excites else figures.COLOURS[1]
                style: dict[str, Any] = {"color": colour, "lw": 0.9, "alpha": 0.75, "shrinkA": 9, "shrinkB": 9}
                style["arrowstyle"] = "-|>" if excites else "|-|,widthA=0,widthB=0.25"
                bend = 0.08 if excites else -0.08
                style["connectionstyle"] = f"arc3,rad={bend}"
                start, end = at[name], at[population.name]
                if start == end:  # a memory excites itself
                    start, end = (start[0] - 0.12, start[1] + 0.1), (end[0] + 0.12, end[1] + 0.1)
                    style |= {"connectionstyle": "arc3,rad=-2.2", "shrinkA": 3, "shrinkB": 3}
                axes.annotate("", end, start, arrowprops=style)
        for name, (x, y) in at.items():
            excites = circuit.excites(name)
            colour = figures.COLOURS[0] if excites else figures.COLOURS[1]
            axes.plot(
                x, y, "o" if excites else "s", markersize=13, color="white", markeredgecolor=colour, markeredgewidth=1.6
            )
            axes.annotate(name, (x, y), (0, -15), textcoords="offset points", ha="center", fontsize=7.5)
        axes.set_xlim(-0.5, 9.3)
        axes.set_ylim(-5.7, 0.5)
        axes.axis("off")
        return figures._svg(figure)


def circuit_activity(circuit: Circuit, anchor: Tensor, positive: Tensor, negative: Tensor) -> str:
    """Rates over one episode: anchor, positive, saccade, negative; embeddings (width,), of which two units are shown."""
    steps, blank = 100, 40
    course = list(circuit.over_time(anchor[None], positive[None], negative[None], steps=steps, blank=blank))
    rows = {
        "seen": [("seen on", 0), ("seen off", 0)],
        "memory": [("kept on", 0), ("kept off", 0)],
        "difference": [("above", 0), ("below", 0)],
        "decision": [("far", 0), ("near", 0)],
        "error, unit 1": [("up", 0), ("down", 0)],
        "error, unit 2": [("up", 1), ("down", 1)],
    }
    with figures._figure(5.2) as figure:
        panels = figure.subplots(len(rows), 1, sharex=True)
        for axes, (title, traces) in zip(panels, rows.items(), strict=True):
            for number, (name, unit) in enumerate(traces):
                values = [float(rates[name][0, unit]) for rates in course]
                axes.plot(values, label=name, **figures._style(number))
            axes.set_ylabel(title, fontsize=8.5)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
            for edge in (steps, 2 * steps, 2 * steps + blank, 3 * steps + blank):
                axes.axvline(edge, color="#5a6470", linewidth=0.8, linestyle=":")
            axes.margins(y=0.15)
        middles = [steps / 2, 1.5 * steps, 2 * steps + blank / 2, 2.5 * steps + blank, 3.5 * steps + blank]
        panels[-1].set_xticks(middles, ["anchor", "positive", "saccade", "negative", "forgotten"], fontsize=7)
        return figures._svg(figure)


def circuit_section() -> Section:
    """The circuit and its activity, for an episode of three units."""
    anchor, positive, negative = torch.tensor(
        [[0.9, -0.4, 0.2], [-0.5, 0.3, 0.7], [0.6, -0.1, 0.5]], dtype=torch.float64
    )
    circuit = Circuit(3, gain=20.0)
    drawn = (
        "The hinge as a circuit. Circles excite (arrows), squares inhibit (bars). Where a circle inhibits, it does so through "
        "an inhibitory companion, which is not drawn, nor are the signals that tell where the episode stands."
    )
    shown = (
        "One episode: the anchor is taken into memory; a positive farther than m1 is pulled to it, a negative nearer than m2 "
        "pushed away; then it is forgotten. Where nothing is compared, there is no error."
    )
    blocks: list[Block] = [Svg(circuit_drawing(circuit), drawn)]
    blocks.append(Svg(circuit_activity(circuit, anchor, positive, negative), shown))
    return Section("The loss as a circuit", blocks)
