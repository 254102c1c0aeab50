"""Audits as tables, figures and sections of a page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..plausibility.verdict import CONDITIONS, MET, PARTS, VIOLATED, Report
from . import figures
from .page import Block, Facts, Section, Svg
from .tables import Cell, Spread, Table

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
    return found
