"""Audits as tables, figures and sections of a page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
_HEADS = {
    "space": "(i) space",
    "time": "(i) time",
    "simple": "(ii) simple",
    "asymmetric": "(iii) asymmetric",
    "unsupervised": "(iv) unsupervised",
    "optimizer": "(ii) optimizer",
}
_MARKERS = "os^Dv"
_LEARNING = tuple(part for part in PARTS if part != "optimizer")


@dataclass(frozen=True)
class Audited:
    """A configuration of one of the paper's tables, its audit, and the test accuracies (%) that go with it.

    `key` is the table's name and the cell's, with a slash between; `label` is loss, learning, update, variant; `ours` are
    accuracies by scale. The random encoder, where nothing learns, has no report.
    """

    key: str
    label: tuple[str, ...]
    report: Report | None
    ours: Mapping[str, Spread] = field(default_factory=dict)
    published: float | None = None

    @property
    def table(self) -> str:
        return self.key.split("/")[0]

    @property
    def name(self) -> str:
        *words, variant = (word for word in self.label if word)
        return f"{', '.join(words)}; {variant}" if words else variant


def verdicts(report: Report) -> Table:
    """One audit: a row a part and condition, violations first, each with its evidence."""
    order = sorted(report.findings, key=lambda f: (f.verdict != VIOLATED, list(CONDITIONS).index(f.condition)))
    rows: list[list[Cell]] = [[CONDITIONS[f.condition], f.part, f.verdict, "; ".join(f.evidence)] for f in order]
    return Table(["condition", "part", "verdict", "evidence"], rows, report.name, [f"Run: {report.setting}."])


def facts(report: Report) -> dict[str, Any]:
    """What a report says without a verdict."""
    kept = {**report.needs, **report.beyond}
    return kept | ({"feedback over time": report.remarks} if report.remarks else {})


def as_data(audited: Sequence[Audited]) -> dict[str, Any]:
    """Audits and accuracies for JSON, by key."""
    return {
        one.key: {
            "label": list(one.label),
            "published": one.published,
            "ours": {scale: asdict(accuracy) for scale, accuracy in one.ours.items()},
            "audit": one.report and one.report.as_dict(),
        }
        for one in audited
    }


def matrix(audited: Sequence[Audited], caption: str) -> Table:
    """Configurations by conditions, and the accuracies beside them."""
    scales = list(dict.fromkeys(scale for one in audited for scale in one.ours))
    header = ["table", "configuration", *_HEADS.values(), "published (%)", *(f"ours, {scale} (%)" for scale in scales)]
    rows: list[list[Cell]] = []
    for one in audited:
        judged: list[Cell] = ["nothing learns"] * len(_HEADS)
        if one.report is not None:
            judged = [*(_short(one.report, condition) for condition in CONDITIONS), _optimizers(one.report)]
        ours = (one.ours.get(scale) for scale in scales)
        rows.append([one.table.removeprefix("table"), one.name, *judged, one.published, *ours])
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
    """The verdict on the optimizer's operations, with what is not simple about them: division, if that is among it."""
    evidence = [
        text for f in report.findings if (f.part, f.condition) == ("optimizer", "simple") for text in f.evidence
    ]
    if (verdict := report.verdict("simple", ["optimizer"])) == MET:
        return verdict
    kinds = [text.split(":")[0] for text in evidence]
    return f"no: {min(kinds, key=lambda kind: kind != 'division')}"


def violated(report: Report) -> int:
    """How many of the paper's four conditions are violated, the optimizer apart."""
    groups = (("space", "time"), ("simple",), ("asymmetric",), ("unsupervised",))
    return sum(any(report.verdict(c, _LEARNING) == VIOLATED for c in group) for group in groups)


def plausibility_against_performance(audited: Sequence[Audited]) -> str:
    """Accuracy over the number of violated conditions, a panel a table and scale that has accuracies, and the published ones.

    A colour an update, a marker a way of learning, hollow where the loss is no hinge; the dashed line is the random encoder.
    """
    panels: dict[tuple[str, str], list[tuple[Audited, float]]] = {}
    for one in audited:
        found = {"published": one.published} | {scale: ours.mean for scale, ours in one.ours.items()}
        for source, accuracy in found.items():
            if accuracy is not None:
                panels.setdefault((one.table, source), []).append((one, accuracy))
    trained = [one for one in audited if one.report is not None]
    colours = _numbered(one.label[2] for one in trained)
    markers = _numbered(one.label[1] for one in trained)
    with figures.drawing(0.9 + 1.9 * len(panels)) as figure:
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, ((table, source), points) in zip(rows, sorted(panels.items()), strict=True):
            columns: dict[int, list[tuple[Audited, float]]] = {}
            for one, accuracy in points:
                if one.report is None:
                    axes.axhline(accuracy, color="#5a6470", linestyle="--", linewidth=1)
                else:
                    columns.setdefault(violated(one.report), []).append((one, accuracy))
            for count, column in columns.items():
                for place, (one, accuracy) in enumerate(column):
                    at = count + 0.8 * ((place + 0.5) / len(column) - 0.5)
                    colour = figures.COLOURS[colours[one.label[2]] % len(figures.COLOURS)]
                    face = colour if one.label[0].startswith("hinge") else "white"
                    marker = _MARKERS[markers[one.label[1]] % len(_MARKERS)]
                    axes.plot(at, accuracy, marker, color=colour, markerfacecolor=face, markersize=5.5)
                    spread = one.ours[source].std if source in one.ours else None
                    axes.errorbar(at, accuracy, yerr=spread, ecolor=colour, elinewidth=1)
            said = "published" if source == "published" else f"ours, {source} scale"
            axes.set_title(f"Table {table.removeprefix('table')}, {said}", loc="left", fontsize=10)
            axes.margins(y=0.15)
            axes.grid(axis="x", visible=False)
        for name, number in colours.items():
            rows[0].plot([], [], "o", color=figures.COLOURS[number % len(figures.COLOURS)], label=name)
        for name, number in markers.items():
            rows[0].plot([], [], _MARKERS[number % len(_MARKERS)], color="#5a6470", label=name)
        rows[0].plot([], [], "o", color="#5a6470", markerfacecolor="white", label="no hinge")
        rows[0].plot([], [], "--", color="#5a6470", linewidth=1, label="random encoder")
        rows[0].set_xlim(-0.5, 4.5)
        rows[-1].set_xticks(range(5))
        rows[-1].set_xlabel("conditions violated, of four (the optimizer apart)")
        figure.supylabel("test accuracy (%)", fontsize=11)
        figures.legend_above(figure, rows[0])
        return figures.as_svg(figure)


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def sections(audited: Sequence[Audited], caption: str) -> list[Section]:
    """A page: the matrix, the figure, each audit with its evidence, and the loss as a circuit."""
    blocks: list[Block] = [matrix(audited, caption)]
    if any(one.ours or one.published for one in audited):
        said = (
            "Accuracy over the number of violated conditions. Published numbers and ours are of other amounts of training, the "
            "two tables of other images: compare within a panel."
        )
        blocks.append(Svg(plausibility_against_performance(audited), said))
    each = [
        Section(one.name, [verdicts(one.report), Facts(facts(one.report))]) for one in audited if one.report is not None
    ]
    return [Section("Plausibility against performance", blocks), *each, circuit_section()]


def section(report: Report, title: str) -> Section:
    """One audit: its verdicts with their evidence, what else was found, and feedback's angles over time."""
    blocks: list[Block] = [verdicts(report), Facts(facts(report))]
    if report.angles:
        series = {name: list(enumerate(angles)) for name, angles in report.angles.items()}
        drawn = figures.lines(series, "steps", "angle of feedback to forward weights (degrees)", markers=False)
        blocks.append(
            Svg(drawn, "Angles of feedback weights to the forward weights beside them, over the audit's steps.")
        )
    return Section(title, blocks)


def circuit_drawing(circuit: Circuit) -> str:
    """The circuit: excitatory populations as circles, inhibitory ones as squares; arrows excite, bars inhibit.

    The inhibitory companions of the embedding's units are left out: what they inhibit is inhibited by the unit itself.
    """
    with figures.drawing(4.2) as figure:
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
        return figures.as_svg(figure)


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
    with figures.drawing(5.2) as figure:
        panels = figure.subplots(len(rows), 1, sharex=True)
        for axes, (title, traces) in zip(panels, rows.items(), strict=True):
            for number, (name, unit) in enumerate(traces):
                values = [float(rates[name][0, unit]) for rates in course]
                axes.plot(values, label=name, **figures.line_style(number))
            axes.set_ylabel(title, fontsize=8.5)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
            for edge in (steps, 2 * steps, 2 * steps + blank, 3 * steps + blank):
                axes.axvline(edge, color="#5a6470", linewidth=0.8, linestyle=":")
            axes.margins(y=0.15)
        middles = [steps / 2, 1.5 * steps, 2 * steps + blank / 2, 2.5 * steps + blank, 3.5 * steps + blank]
        panels[-1].set_xticks(middles, ["anchor", "positive", "saccade", "negative", "forgotten"], fontsize=7)
        return figures.as_svg(figure)


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
