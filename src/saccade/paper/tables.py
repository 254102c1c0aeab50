"""Table 1 of Tang, Yang and Amit (2022) as data: a cell is a training configuration and its published accuracy."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One number of a table: its name, its place there, the fields of `TrainConfig` that make it, the paper's value.

    A cell that is not `trained` is the encoder as it starts.
    """

    name: str
    row: tuple[str, ...]  # the table's own columns: loss, learning, update
    column: str
    options: dict[str, Any] = field(default_factory=dict)
    published: float | None = None
    trained: bool = True


@dataclass(frozen=True)
class PaperTable:
    """A table: what its rows are named by, its columns, its cells, and what its caption says."""

    name: str
    caption: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]


FULL, CONSTRAINED = "all negatives", "gradient block, 5 negatives"


def _hinge(row: str, schedule: str, rule: str, full: float, constrained: float) -> list[Cell]:
    """The two columns of one row of the hinge loss."""
    losses = {FULL: ("hinge", full), CONSTRAINED: ("hinge(negatives=5, block=true)", constrained)}
    short = {FULL: "full", CONSTRAINED: "constrained"}
    return [
        Cell(
            f"hinge-{schedule}-{rule}-{short[column]}",
            ("hinge", schedule.upper(), row),
            column,
            {"loss": loss, "schedule": schedule, "rule": rule},
            published,
        )
        for column, (loss, published) in losses.items()
    ]


def _other(loss: str, row: str, schedule: str, published: float) -> Cell:
    options = {"loss": loss, "schedule": schedule, "rule": "bp"}
    return Cell(f"{loss}-{schedule}-bp", (row, schedule.upper(), "BP"), FULL, options, published)


TABLES: dict[str, PaperTable] = {
    "table1": PaperTable(
        "table1",
        "Test accuracy (%) of a linear classifier on the last layer of encoders trained without labels",
        ("loss", "learning", "update"),
        (FULL, CONSTRAINED),
        (
            *_hinge("BP", "e2e", "bp", 71.44, 70.35),
            *_hinge("DTP", "e2e", "dtp", 71.29, 67.74),
            *_hinge("RF", "e2e", "rf", 61.70, 63.61),
            *_hinge("BP", "gll", "bp", 72.76, 71.14),
            *_hinge("URF", "gll", "urf", 72.76, 71.14),
            *_hinge("RF", "gll", "rf", 67.83, 66.52),
            *_hinge("BP", "rll", "bp", 71.35, 71.17),
            *_hinge("URF", "rll", "urf", 71.35, 71.17),
            *_hinge("RF", "rll", "rf", 65.94, 65.49),
            _other("simclr", "SimCLR", "e2e", 72.44),
            _other("clapp", "CLAPP", "e2e", 69.05),
            _other("clapp", "CLAPP", "gll", 68.93),
            Cell("random", ("random encoder", "", ""), FULL, {}, 61.23, trained=False),
        ),
    ),
}
