"""Run the cells of a table at a scale, each once: a finished one is a small JSON file, an interrupted one continues."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from .. import networks
from ..config.grammar import parse_call
from ..config.run import TrainConfig, from_dict
from ..data import load
from ..errors import InputError
from ..evaluation.probe import deformation, probe
from ..parallel import Report, side_by_side
from ..report.tables import Table, spread
from ..training import pick_device, pick_precision, read_weights, run
from ..training.folder import differences, read_json, surroundings, write_json
from .tables import Cell, PaperTable


@dataclass(frozen=True)
class Scale:
    """How much of the paper's protocol a cell runs. A layer-wise cell trains each layer for as many pairs as E2E."""

    name: str
    pairs: int
    batch: int
    rate: float
    probe_epochs: int
    sets: tuple[str, str, str] = ("cifar100:train", "cifar10:train[:45000]", "cifar10:test")  # encoder's, probe's, test
    network: str = "cifar"
    views: str = "paper"
    test_views: str | None = None
    margins: dict[str, float] = field(default_factory=dict)  # the hinge's, where distances are not the CIFAR network's

    def said(self) -> str:
        return (
            f"{self.name} scale: {self.pairs:,} pairs of views a layer (a step end to end trains all), "
            f"batch {self.batch}, rate {self.rate:g}, views {self.views}, "
            + "".join(f"{name}={value:g}, " for name, value in self.margins.items())
            + f"probe of {self.probe_epochs} epochs; network "
            f"{self.network} trained on {self.sets[0]}, probe fitted on {self.sets[1]}, scored on {self.sets[2]}"
            + (f" deformed by {self.test_views}" if self.test_views else "")
        )


SCALES = {
    "paper": Scale("paper", 400 * 50_000, 500, 1e-4, 400),
    "small": Scale("small", 100_000, 100, 3e-4, 30),
    "tiny": Scale("tiny", 25_000, 100, 3e-4, 30),
    "mini": Scale("mini", 5_000, 100, 3e-4, 10, ("cifar100:train", "cifar10:train[:10000]", "cifar10:test")),
    "smoke": Scale("smoke", 200, 100, 3e-4, 1, ("cifar100:train[:1000]", "cifar10:train[:1000]", "cifar10:test[:500]")),
    "digits": Scale(
        "digits",
        30_000,
        50,
        5e-4,
        60,
        ("digits:train", "digits:train", "digits:test"),
        "emnist",
        "digits",
        "digits",
        {"m2": 1.5},
    ),
}


def config_of(cell: Cell, scale: Scale, seed: int, size: int) -> TrainConfig:
    """The cell's training configuration, for an encoder's set of `size` images."""
    taken = {"network": scale.network, "views": scale.views, "batch": scale.batch, "rate": scale.rate}
    fixed = {"data": scale.sets[0], "seed": seed, **taken}
    options = dict(cell.options)
    loss = parse_call(cell.options.get("loss", "none"))
    if loss.name == "hinge":
        options["loss"] = str(replace(loss, options=scale.margins | loss.options))
    # Whole steps, so that a scale's pairs are what is trained.
    epochs = math.ceil(scale.pairs / scale.batch) / (size // scale.batch)
    return from_dict({**asdict(TrainConfig()), **fixed, **options, "epochs": epochs}, f"The cell {cell.name}")


def run_cells(
    table: PaperTable,
    scale: Scale,
    seeds: Iterable[int],
    out: Path,
    *,
    cells: list[str] | None = None,
    root: str | None = None,
    work: Path = Path("runs"),
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Run what is missing of `cells` (default: all), side by side; a result is `out/TABLE/SCALE/CELL-seedK.json`.

    Seeds come one after another. `workers` is the number of processes (default: one a core, or one on a GPU).

    Raises InputError for an unknown cell, a result of another scale, or where the images cannot be had.
    """
    known = [cell.name for cell in table.cells]
    for name in cells or []:
        if name not in known:
            raise InputError(f"Unknown cell {name!r} of {table.name}; it takes {', '.join(known)}.")
    wanted = [cell for cell in table.cells if not cells or cell.name in cells]
    missing = []
    for seed, cell in product(seeds, wanted):
        path = _path(out, table, scale, cell, seed)
        if path.exists():
            _checked(path, scale)
        else:
            missing.append((seed, cell, path))
    if not missing:
        return
    for name in scale.sets:  # what is not there is said before anything runs
        load(name, root=root)
    tasks = {
        f"{cell.name}-seed{seed}": (table.name, cell, scale, seed, root, work / table.name / scale.name, _made(path))
        for seed, cell, path in missing
    }
    side_by_side(_run_cell, tasks, workers=workers, progress=progress)


def _run_cell(task: tuple[str, Cell, Scale, int, str | None, Path, Path], report: Report) -> None:
    """Train, probe, and write the result of one cell at one seed."""
    table, cell, scale, seed, root, work, path = task
    device = pick_device("auto")
    encoder_set, probe_set, test_set = (load(name, root=root, device=device) for name in scale.sets)
    config = replace(config_of(cell, scale, seed, len(encoder_set)), data_root=root)
    encoder = networks.build(config.network, encoder_set.shape, config.seed)
    facts: dict[str, Any] = {}
    if cell.trained:
        folder = work / f"{cell.name}-seed{seed}"
        run(config, folder, images=encoder_set, progress=lambda step, steps, loss: report(0.9 * step / steps))
        encoder.load_state_dict(read_weights(folder, "encoder."))
        made = read_json(folder / "run.json")
        facts = {name: made[name] for name in ("seconds", "steps", "precision")}
        # A path means nothing on another machine; the hash says which images they were.
        facts["data"] = made["data"] | {"source": Path(made["data"]["source"]).name}
    encoder.to(device)
    [found] = probe(
        encoder,
        probe_set,
        test_set,
        layers=[len(encoder)],
        protocol="paper",
        deform_test=deformation(scale.test_views) if scale.test_views else None,
        epochs=scale.probe_epochs,
        seed=seed,
        precision=pick_precision("auto", device),
    )
    settings = {name: value for name, value in asdict(config).items() if name != "data_root"}
    found_here = {
        "table": table,
        "cell": cell.name,
        "scale": asdict(scale),
        "seed": seed,
        "accuracy": found.accuracy,
        "probe": found.as_dict(),
        "config": settings if cell.trained else {"network": config.network, "seed": seed},
        "run": facts,
    }
    write_json(path, found_here | surroundings())
    report(1.0)


def _path(out: Path, table: PaperTable, scale: Scale, cell: Cell, seed: int) -> Path:
    return out / table.name / scale.name / f"{cell.name}-seed{seed}.json"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def results(table: PaperTable, scale: Scale, out: Path) -> Table:
    """What `out` holds of a table at a scale, beside the published numbers; what is missing is shown as missing."""
    rows = []
    for row in dict.fromkeys(cell.row for cell in table.cells):
        line: list[Any] = list(row)
        for column in table.columns:
            cell = next((c for c in table.cells if c.row == row and c.column == column), None)
            line += [None, None] if cell is None else [_ours(table, scale, cell, out), cell.published]
        rows.append(line)
    header = [*table.names, *(part for column in table.columns for part in (column, "published"))]
    return Table(
        header, rows, f"{table.caption}. Ours at {scale.said()}; published: on CIFAR at the paper's scale.", digits=2
    )


def _ours(table: PaperTable, scale: Scale, cell: Cell, out: Path) -> Any:
    paths = sorted((out / table.name / scale.name).glob(f"{cell.name}-seed*.json"))
    found = [_checked(path, scale)["accuracy"] for path in paths]
    return spread(found) if found else None


def _checked(path: Path, scale: Scale) -> dict[str, Any]:
    """A result. Raises InputError where it is none, or was made when the scale of that name was another."""
    found = read_json(path)
    made = found.get("scale")
    if not isinstance(made, dict) or not isinstance(found.get("accuracy"), int | float):
        raise InputError(f"{path} is not what a cell writes; remove it to run the cell anew.")
    if changed := differences(made, json.loads(json.dumps(asdict(scale)))):
        raise InputError(f"{path} was made at another scale ({changed}); remove it to run the cell anew.")
    return found
