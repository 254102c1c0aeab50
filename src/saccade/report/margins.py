"""Distances before training and the margins they propose, as a table and a figure."""

from collections.abc import Sequence

from ..config.run import TrainConfig
from ..evaluation.margins import Margins, quantile
from ..losses import make
from . import figures
from .tables import Cell, Table


def table(found: Sequence[Margins], config: TrainConfig, beyond: float, within: float) -> Table:
    """A row a site: medians, the proposals, and what the loss's own margins, if it has any, leave beyond and within."""
    m1, m2 = own(config)
    header = ["site", "median of positives", "median of negatives", "proposed m1", "proposed m2"]
    if m1 is not None and m2 is not None:
        header += [f"positives beyond m1={m1:g} (%)", f"negatives within m2={m2:g} (%)"]
    rows: list[list[Cell]] = []
    for site, one in enumerate(found, 1):
        row: list[Cell] = [str(site), quantile(one.positives, 0.5), quantile(one.negatives, 0.5), one.m1, one.m2]
        rows.append(row if m1 is None or m2 is None else [*row, one.beyond(m1), one.within(m2)])
    pairs = len(found[0].positives)
    caption = f"L1 distances before training, of {pairs:,} positive pairs a site: {config.network} on {config.data}"
    rule = f"Rule: m1 leaves {beyond:.0%} of positives beyond it; m2 has {within:.0%} of negatives within it, and is at least twice m1."
    return Table(header, rows, f"{caption}, views {config.views}.", [rule], digits=2)


def figure(found: Sequence[Margins], config: TrainConfig) -> str:
    """The distances' histograms, a panel a site, with the loss's own margins, as SVG."""
    panels = {f"site {site}": (one.positives, one.negatives) for site, one in enumerate(found, 1)}
    return figures.pair_histograms(panels, *own(config))


def own(config: TrainConfig) -> tuple[float | None, float | None]:
    """The margins m1 and m2 of the configured loss, None where it has none."""
    loss = make(config.loss)
    return getattr(loss, "m1", None), getattr(loss, "m2", None)
