"""Run the cells of a table at a scale, each once: a finished one is a small JSON file, an interrupted one continues."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from .. import engines
from ..config.run import check
from ..data import load
from ..errors import InputError, RunError
from ..losses import make as make_loss
from ..parallel import Report
from ..training.checkpoint import write_whole
from ..training.folder import differences, read_json, surroundings, write_json
from .scales import Scale, runs_of, scaled
from .scores import MANY, MEASURES, Job, config_of
from .tables import TABLES, Cell, PaperTable

_OF_THE_JOB = ("data", "epochs", "precision")  # of a configuration: what its images and its measure decide


def run_cells(
    table: PaperTable,
    scale: Scale,
    seeds: Iterable[int],
    out: Path,
    *,
    cells: list[str] | None = None,
    root: str | None = None,
    download: bool = False,
    work: Path = Path("runs"),
    workers: int | None = None,
    engine: str = "local",
    progress: Callable[[float], None] | None = None,
) -> None:
    """Run what is missing of `cells` (default: all), side by side; a result is `out/TABLE/SCALE/CELL-seedK.json`.

    Seeds come one after another. `workers` is the number of processes (default: one a core, or one on a GPU), or `engine`
    says what runs them, on folders that all machines see. Training runs
    go under `work`, where tables that look into the same encoders share them.

    Raises InputError for an unknown cell, a result of another scale, or where the images cannot be had; RunError at the end
    where a cell failed, such as one whose numbers are no longer finite.
    """
    wanted = chosen(table, cells)
    missing = []
    for seed, cell in product(seeds, wanted):
        path = result_path(out, table, scale, cell, seed)
        if path.exists():
            checked(path, cell, scale)
        else:
            missing.append((seed, cell, path))
    if workers is not None and engine != "local":
        raise InputError(f"workers goes with the engine local, not {engine}; it takes one of the two.")
    if not missing:
        return
    sets = [load(name, root=root, download=download) for name in scale.sets]
    for seed, cell, _ in missing:  # what cannot be is said before anything runs
        fewest = min([len(sets[cell.learns_from]), *(scale.sizes if cell.supervised else ())])
        config = config_of(cell, scale, seed, fewest)
        check(config)
        make_loss(config.loss)
    tasks = {
        f"{cell.name}-seed{seed}": (
            table,
            cell,
            scale,
            seed,
            root,
            (work / runs_of(table.name, scale)).resolve(),
            _made(path),
        )
        for seed, cell, path in missing
    }
    said = engines.run(_run_cell, tasks, engine if workers is None else f"local(workers={workers})", progress)
    failed = [f"{name}: {why}" for name, why in said.items() if why]
    if failed:
        raise RunError(f"{len(failed)} of {len(tasks)} cells failed, and the others are kept; the first is {failed[0]}")


def refuse_idle(table: PaperTable, scale: str, changes: dict[str, Any]) -> None:
    """Raises InputError for a change of the scale that no number of the table hangs on."""
    before = scaled(table.scales, scale)
    for option, value in changes.items():
        after = scaled(table.scales, scale, **{option: value})
        if after == before or option in MEASURES[table.measure].reads:
            continue
        trained = [[config_of(cell, one, 0, MANY) for cell in table.cells if cell.trained] for one in (before, after)]
        if trained[0] == trained[1]:
            raise InputError(f"No number of {table.name} hangs on {option}; leave it out.")


def chosen(table: PaperTable, cells: list[str] | None) -> list[Cell]:
    """The table's cells of these names, or all. Raises InputError for a name that it has not."""
    known = [cell.name for cell in table.cells]
    for name in cells or []:
        if name not in known:
            raise InputError(f"Unknown cell {name!r} of {table.name}; it takes {', '.join(known)}.")
    return [cell for cell in table.cells if not cells or cell.name in cells]


def _run_cell(task: tuple[PaperTable, Cell, Scale, int, str | None, Path, Path], report: Report) -> str:
    """Train, measure, and write the result of one cell at one seed; returns what it failed of, so that the others go on."""
    table, cell, scale, seed, root, runs, path = task
    try:
        found = MEASURES[table.measure].of(Job(table, cell, scale, seed, root, runs, report))
    except RunError as error:
        report(1.0)
        return str(error)
    about = {"table": table.name, "cell": cell.name, "scale": asdict(scale), "seed": seed}
    write_json(path, about | found | surroundings())
    report(1.0)
    return ""


def result_path(out: Path, table: PaperTable, scale: Scale, cell: Cell, seed: int) -> Path:
    return out / table.name / scale.name / f"{cell.name}-seed{seed}.json"


def checked(path: Path, cell: Cell, scale: Scale) -> dict[str, Any]:
    """A cell's result. Raises InputError where it is none, or was made when the cell or the scale of that name was another."""
    found = read_json(path)
    made, scores = found.get("scale"), found.get("scores")
    if not (isinstance(made, dict) and type(found.get("seed")) is int) or not (
        isinstance(scores, dict) or isinstance(found.get("accuracy"), int | float)
    ):
        raise InputError(f"{path} is not what a cell writes; remove it to run the cell anew.")
    if changed := differences(made, json.loads(json.dumps(asdict(scale)))):
        raise InputError(f"{path} was made at another scale ({changed}); remove it to run the cell anew.")
    config = {name: value for name, value in found.get("config", {}).items() if name not in _OF_THE_JOB}
    if changed := differences(config, asdict(config_of(cell, scale, found["seed"], MANY))):
        raise InputError(f"{path} was trained otherwise ({changed}); remove it to run the cell anew.")
    return found


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.resolve()  # which other machines may see too


def merge(source: Path, out: Path) -> tuple[int, list[Path]]:
    """Copy the results of a second machine's folder that `out` has not; returns how many came, and which, present in both,
    differ in their scores (those of `out` stay).

    Raises InputError where `source` is no folder, and for a file in it that is no result.
    """
    if not source.is_dir():
        raise InputError(f"{source} is no folder; merge takes a folder of results.")
    came, differ = 0, []
    for theirs in sorted(path for name in TABLES for path in source.glob(f"{name}/*/*-seed*.json")):
        found = read_json(theirs)
        if not {"table", "cell", "scale", "seed"} <= found.keys():
            raise InputError(f"{theirs} is no result of a cell; merge takes a folder of results.")
        ours = out / theirs.relative_to(source)
        if not ours.exists():
            write_whole(_made(ours), theirs.read_bytes())
            came += 1
        elif any(found.get(name) != read_json(ours).get(name) for name in ("accuracy", "scores")):
            differ.append(ours.relative_to(out))
    return came, differ
