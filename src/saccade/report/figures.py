"""Figures as SVG text: the same data give the same bytes, and nothing outside a function is changed.

They are small, so that a phone shows them at nearly their size, on white, and in colours that colour-blind readers can
tell apart (Okabe and Ito's), with line styles beside them.
"""

import base64
import io
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import InputError
from ..views.sheet import as_png
from .tables import Spread, number_text, plain

Number = Spread | float
Points = Sequence[tuple[float, float]]
Series = Mapping[str, Sequence[tuple[float, Number]]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
_DASHES: tuple[str, ...] = ("-", "--", ":", "-.")
_INK = "#1d2733"
_WIDTH = 4.8  # inches
_LOOK: Any = {
    "svg.fonttype": "path",  # the same look wherever it is shown
    "svg.hashsalt": "saccade",
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5a6470",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": "#3a444f",
    "ytick.color": "#3a444f",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.7,
}


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """A figure in the project's look, whatever the user's matplotlib is set to."""
    with matplotlib.style.context("default"), matplotlib.rc_context(_LOOK):
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def as_svg(figure: Figure) -> str:
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    text = stream.getvalue()
    return re.sub(r"<!--.*?-->\n?", "", text[text.index("<svg") :], flags=re.DOTALL)


def line_style(index: int) -> dict[str, Any]:
    # dashes change with every colour, so that lines on top of each other are both seen
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": _DASHES[index % len(_DASHES)]}


def _columns(names: Collection[str]) -> int:
    """How many columns the legend of these names has."""
    return max(1, min(len(names), 52 // (max(map(len, names), default=0) + 6)))


def legend_above(figure: Figure, axes: Axes) -> None:
    """The axes' legend, above them, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=_columns(labels))


def _wrapped(text: str, width: int) -> str:
    wrapped = "\n".join(textwrap.wrap(plain(text), width)) or " "
    return f" {wrapped}" if wrapped.startswith("_") else wrapped  # matplotlib leaves such names out of a legend


def loss_curve(series: Mapping[str, Points], xlabel: str, ylabel: str) -> str:
    """One line a series of (x, y) points."""
    return lines(series, xlabel, ylabel, markers=False)


def lines(series: Series, xlabel: str, ylabel: str, *, markers: bool = True) -> str:
    """One line a series of (x, y) points, where y is a number or a Spread, drawn with a standard deviation each way."""
    return panels({"": series}, xlabel, ylabel, markers=markers)


def panels(groups: Mapping[str, Series], xlabel: str, ylabel: str, *, markers: bool = True) -> str:
    """As `lines`, one panel for each of `groups`, {title: series}; a name has the same line in all of them."""
    names = {name: _wrapped(name, 46) for series in groups.values() for name in series}
    styles = {name: line_style(index) for index, name in enumerate(names)}
    legend = sum(text.count("\n") + 1 for text in names.values()) / _columns(names.values()) if len(names) > 1 else 0
    with drawing(0.4 + 2.6 * max(len(groups), 1) + 0.19 * legend) as figure:
        every = figure.subplots(max(len(groups), 1), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        drawn: dict[str, Any] = {}
        for axes, (title, series) in zip(every, groups.items(), strict=False):
            for name, points in series.items():
                x = [float(at) for at, _ in points]
                means = [value.mean if isinstance(value, Spread) else float(value) for _, value in points]
                stds = [(value.std or 0.0) if isinstance(value, Spread) else 0.0 for _, value in points]
                style = styles[name]
                alone = markers or len(points) == 1  # a line through one point would not be seen
                [drawn[name]] = axes.plot(x, means, marker="o" if alone else None, markersize=4.5, **style)
                if any(stds):
                    low, high = ([m + side * s for m, s in zip(means, stds, strict=True)] for side in (-1, 1))
                    axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
            if title:
                axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold")
            axes.set_ylabel(plain(ylabel))
        if all(float(at).is_integer() for series in groups.values() for points in series.values() for at, _ in points):
            every[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        every[-1].set_xlabel(plain(xlabel))
        if len(names) > 1:
            texts = [names[name] for name in drawn]
            figure.legend(drawn.values(), texts, loc="outside upper left", ncols=_columns(texts))
        return as_svg(figure)


def distances(
    before: tuple[ArrayLike, ArrayLike], after: tuple[ArrayLike, ArrayLike], m1: float | None, m2: float | None
) -> str:
    """Histograms of the distances of (positive, negative) pairs before and after training, with the margins drawn in
    where there are any: the hinge loss wants positives below m1 and negatives beyond m2.

    Raises InputError where a kind of pair has no distances, or some are not finite.
    """
    return pair_histograms({"Before training": before, "After training": after}, m1, m2)


def pair_histograms(panels: Mapping[str, tuple[ArrayLike, ArrayLike]], m1: float | None, m2: float | None) -> str:
    """As `distances`, one panel for each of `panels`, {title: (positives, negatives)}."""
    arrays = [[np.asarray(pairs, dtype=float).ravel() for pairs in both] for both in panels.values()]
    if not arrays or not all(pairs.size and np.isfinite(pairs).all() for both in arrays for pairs in both):
        raise InputError("The distances to be drawn are not all there or not all finite; it takes finite numbers.")
    margins = [(name, m, side) for name, m, side in (("m1", m1, "right"), ("m2", m2, "left")) if m is not None]
    # a few far pairs would squeeze all others together; they are counted in the last bin
    top = max(
        [1.02 * np.quantile(pairs, 0.995) for both in arrays for pairs in both] + [1.25 * m for _, m, _ in margins]
    )
    edges = np.linspace(0, top or 1.0, 51)
    with drawing(1.0 + 1.8 * len(panels)) as figure:
        every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, title, both in zip(every, panels, arrays, strict=True):
            for name, pairs, colour in zip(("positive pairs", "negative pairs"), both, COLOURS, strict=False):
                share, _ = np.histogram(pairs.clip(0, edges[-1]), edges)
                percent = 100 * share / pairs.size
                axes.stairs(percent, edges, fill=True, color=colour, alpha=0.35)
                axes.stairs(percent, edges, color=colour, linewidth=1.5, label=name)
            for name, margin, side in margins:
                axes.axvline(margin, color=_INK, linestyle="--", linewidth=1.2)
                at: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
                text, offset = f"{name} = {margin:g}", (-4 if side == "right" else 4, -2)
                axes.annotate(text, (margin, 1), offset, ha=side, va="top", fontsize=10, **at)
            axes.set_ylim(0, 1.3 * axes.dataLim.ymax)  # room for the margins' names
            axes.set_xlim(0, edges[-1])
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold")
            axes.set_ylabel("% of pairs")
        every[-1].set_xlabel("L1 distance between two embeddings")
        legend_above(figure, every[0])
        return as_svg(figure)


def maps(panels: Mapping[str, Points], labels: Sequence[int], classes: Sequence[str], marked: Collection[str]) -> str:
    """Maps of the same points in the plane, side by side in pairs, one for each of `panels`, {title: places}.

    A point's colour is its class: cold colours and squares for the `marked` classes, warm ones and dots for the others.
    """
    both = {True: [c for c in classes if c in marked], False: [c for c in classes if c not in marked]}
    styles: dict[str, tuple[Any, str]] = {}
    for kind, names in both.items():
        shades = matplotlib.colormaps["winter" if kind else "autumn" if both[True] else "hsv"](
            np.linspace(0.0, 0.85, max(len(names), 1))
        )
        styles |= {name: (shade, "s" if kind else "o") for name, shade in zip(names, shades, strict=False)}
    rows = -(-len(panels) // 2)
    with drawing(0.6 + 2.2 * rows + 0.2 * len(classes) / _columns(classes)) as figure:
        every = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes in every[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, points) in zip(every, panels.items(), strict=False):
            places = np.asarray(points, dtype=float).reshape(-1, 2)
            for number, name in enumerate(classes):
                shade, marker = styles[name]
                chosen = places[np.asarray(labels) == number]
                axes.plot(*chosen.T, marker, color=shade, markersize=2, markeredgewidth=0, label=plain(name))
            axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold")
            axes.set_xticks([])
            axes.set_yticks([])
        handles, names = every[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=_columns(names), markerscale=2.5)
        return as_svg(figure)


def bars(groups: Mapping[str, Mapping[str, Number | None]], xlabel: str) -> str:
    """Lying bars: a group a row, a colour a series; a Spread draws its standard deviation. A missing value says so.

    `groups` is {group: {series: value}}, such as {"random encoder": {"plain": 95.1, "transformed": 60.2}}.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    thick = 0.8 / max(len(names), 1)
    with drawing(0.9 + 0.27 * sum(len(names) + 0.8 for _ in groups)) as figure:
        axes = figure.subplots()
        for index, name in enumerate(names):
            label: str | None = _wrapped(name, 46)
            for row, group in enumerate(groups.values()):
                value, at = group.get(name), row + (index + 0.5) * thick - 0.4
                mean, std = (value.mean, value.std) if isinstance(value, Spread) else (value, None)
                if mean is not None:
                    axes.barh(at, mean, 0.92 * thick, color=COLOURS[index % len(COLOURS)], label=label)
                    axes.errorbar(mean, at, xerr=std, ecolor=_INK, elinewidth=1.2, capsize=2.5)
                    label = None  # one entry a series in the legend
                text = "missing" if mean is None else number_text(float(mean))
                reach = 0.0 if mean is None else max(0.0, mean + (std or 0.0))
                axes.annotate(text, (reach, at), (4, 0), textcoords="offset points", va="center", fontsize=9.5)
        axes.set_yticks(range(len(groups)), [_wrapped(group, 22) for group in groups])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(groups) - 0.45, -0.55)  # downwards, with room for a row where all is missing
        axes.margins(x=0.12)
        axes.set_xlabel(plain(xlabel))
        legend_above(figure, axes)
        return as_svg(figure)


def picture(image: Tensor) -> str:
    """A picture, uint8 (3, height, width) or (1, height, width), as the data URI of a PNG file."""
    if image.ndim != 3 or image.shape[0] not in (1, 3) or str(image.dtype) != "torch.uint8":
        raise InputError(f"The picture is {image.dtype} {tuple(image.shape)}; it takes uint8 (3, height, width).")
    return "data:image/png;base64," + base64.b64encode(as_png(image.expand(3, -1, -1))).decode()
