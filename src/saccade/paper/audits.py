"""Audit what the paper's tables train, and put the accuracies beside the verdicts."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config.run import TrainConfig, from_dict
from ..data import load
from ..parallel import Report as Share
from ..parallel import side_by_side
from ..plausibility.audit import audit
from ..plausibility.verdict import Report
from ..report.audit import Audited
from .results import accuracies
from .tables import TABLES, Cell

_TABLES = ("table1", "table2")
_PLAUSIBLE = Cell(
    "plausible",
    ("hinge", "RLL", "RF"),
    "gradient block, 1 negative, SGD",
    {"loss": "hinge(negatives=1, block=true)", "schedule": "rll", "rule": "rf", "optimizer": "sgd"},
)


def audited(
    results: Path,
    reports: dict[str, Report] | None = None,
    *,
    steps: int = 3,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Audited]:
    """Every configuration that Tables 1 and 2 train, each once; the one that meets all conditions; the random encoders.

    Accuracies are those in the JSON files under `results`, at scales as they are. `reports`, by `name_of` a cell, are
    audits made before; without them all are made here, side by side.
    """
    cells = [(table, cell) for table in _TABLES for cell in TABLES[table].cells]
    cells.append(("table1", _PLAUSIBLE))
    if reports is None:
        first: dict[str, tuple[str, Any]] = {}  # of cells that train alike
        for table, cell in cells:
            if cell.trained:
                config = config_of(table, cell)
                first.setdefault(repr(config), (name_of(table, cell), (config, steps)))
        workers = workers or len(os.sched_getaffinity(0))  # where there is a GPU, too: an audit is the processor's
        reports = side_by_side(_audited, dict(first.values()), workers=workers, progress=progress)
    ours = {
        table: {name: accuracies(TABLES[table], scale, results) for name, scale in TABLES[table].scales.items()}
        for table in _TABLES
    }
    found = []
    for table, cell in cells:
        name = name_of(table, cell)
        if not cell.trained or name in reports:
            scores = {scale: by_cell[cell.name] for scale, by_cell in ours[table].items() if cell.name in by_cell}
            label = (*cell.row, (cell.variant or cell.column) if cell.trained else "")
            found.append(Audited(name, label, reports.get(name), scores, cell.published))
    return found


def name_of(table: str, cell: Cell) -> str:
    return f"{table}/{cell.name}"


def config_of(table: str, cell: Cell) -> TrainConfig:
    """The cell's configuration, on its table's network. Sizes are the audit's own."""
    return from_dict(
        {**asdict(TrainConfig()), "network": TABLES[table].scales["paper"].network, **cell.options},
        f"The cell {cell.name}",
    )


def _audited(task: tuple[TrainConfig, int], share: Share) -> Report:
    config, steps = task
    report = audit(config, load("digits"), steps)
    share(1.0)
    return report
