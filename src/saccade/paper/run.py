"""Run the cells of a table at a scale, each once: a finished one is a small JSON file, an interrupted one continues."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from .. import engines
from ..config.grammar import parse_calls
from ..config.names import LOSSES, RULES, choose
from ..config.run import TrainConfig, check
from ..data import ImageSet, load
from ..errors import InputError, RunError
from ..evaluation.probe import class_count
from ..files import make_folder, write_whole
from ..losses import make as make_loss
from ..parallel import Report
from ..training.folder import differences, read_json, surroundings, write_json
from .scales import Scale, field_of, runs_of, scaled
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
            checked(path, table, cell, scale)
        else:
            missing.append((seed, cell, path))
    if workers is not None and engine != "local":
        raise InputError(f"workers goes with the engine local, not {engine}; it takes one of the two.")
    if not missing:
        return
    sets = [load(name, root=root, download=download) for name in scale.sets]
    _fit_each_other(MEASURES[table.measure].reads, scale, *sets)
    for _, cell, _ in missing:  # what cannot be is said before anything runs
        _check(cell, scale, min([len(sets[cell.learns_from]), *(scale.sizes if cell.supervised else ())]))
    tasks = {
        f"{cell.name}-seed{seed}": (
            table,
            cell,
            scale,
            seed,
            root,
            (work / home(table, cell, scale)).resolve(),
            _made(path),
        )
        for seed, cell, path in missing
    }
    said = engines.run(_run_cell, tasks, engine if workers is None else f"local(workers={workers})", progress)
    failed = [f"{name}: {why}" for name, why in said.items() if why]
    if failed:
        raise RunError(f"{len(failed)} of {len(tasks)} cells failed, and the others are kept; the first is {failed[0]}")


def _fit_each_other(reads: frozenset[str], scale: Scale, encoders: ImageSet, train: ImageSet, test: ImageSet) -> None:
    """Raises InputError where what is measured needs sets of one shape, or of the same classes, and they are not."""
    read = [images for images, option in ((train, "probe_set"), (test, "test_set")) if option in reads]
    for images in read:
        here, there = (one.shape[:1] if scale.size else one.shape for one in (images, encoders))
        if here != there:
            raise InputError(
                f"{images.name} has pictures of {images.shape}, and the encoders learn from {encoders.name}, of "
                f"{encoders.shape}; it takes sets of one shape."
            )
    if len(read) == 2:
        class_count(train, test)


def home(table: PaperTable, cell: Cell, scale: Scale) -> str:
    """The folder of a cell's runs: that of the scale as it is without changes, where these leave the cell's training be."""
    plain = table.scales.get(scale.name.partition(",")[0], scale)
    same = config_of(cell, plain, 0, MANY) == config_of(cell, scale, 0, MANY)
    return runs_of(table.name, plain if same else scale)


def check_cells(table: PaperTable, scale: Scale) -> None:
    """Raises InputError for a scale at which a cell's configuration cannot be."""
    for cell in table.cells:
        _check(cell, scale, MANY)


def _check(cell: Cell, scale: Scale, images: int) -> None:
    config = config_of(cell, scale, 0, images)
    check(config)
    make_loss(config.loss)


def refuse_idle(table: PaperTable, scale: str, changes: dict[str, Any]) -> None:
    """Raises InputError for a change of the scale that no number of the table depends on."""
    before = scaled(table.scales, scale)
    one_by_one = list(changes.items())
    if readings := changes.get("readings"):
        one_by_one += [("readings", str(call)) for call in parse_calls(readings)]
    for option, value in one_by_one:
        after = scaled(table.scales, scale, **{option: value})
        reads = MEASURES[table.measure].reads - (set() if after.sizes else {"corrupted"})
        if after == before or option in reads:
            continue
        trained = [
            [_filled(config_of(cell, one, 0, MANY)) for cell in table.cells if cell.trained] for one in (before, after)
        ]
        if trained[0] == trained[1]:
            what = f"the reading {value}" if option == "readings" else option
            raise InputError(f"No number of {table.name} depends on {what}; leave it out.")


def _filled(config: TrainConfig) -> TrainConfig:
    """The configuration with the options of its loss and its rule all written out, as it is where they cannot be together:
    one of two margins may need the other."""
    try:
        loss, rule = choose(config.loss, LOSSES, "loss")[0], choose(config.rule, RULES, "rule")[0]
    except InputError:
        return config
    return replace(config, loss=str(loss), rule=str(rule))


def chosen(table: PaperTable, cells: list[str] | None) -> list[Cell]:
    """The table's cells of these names, those that the paper has a number of (`published`), or all. Raises InputError for a
    name that it has not, and for no name."""
    known = [cell.name for cell in table.cells]
    if cells == ["published"] and any(cell.published is not None for cell in table.cells):
        return [cell for cell in table.cells if cell.published is not None]
    for name in known if cells is None else cells or [""]:
        if name not in known:
            raise InputError(f"Unknown cell {name!r} of {table.name}; it takes {', '.join(known)}.")
    return [cell for cell in table.cells if cells is None or cell.name in cells]


def _run_cell(task: tuple[PaperTable, Cell, Scale, int, str | None, Path, Path], report: Report) -> str:
    """Train, measure, and write the result of one cell at one seed; returns what it failed of, so that the others go on."""
    table, cell, scale, seed, root, runs, path = task
    if path.exists():  # another process has made it meanwhile
        return ""
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


_TAKES = "what a cell writes; remove it to run the cell anew"
_KINDS = {"table": str, "cell": str, "seed": int, "command": str, "date": str}  # of what every result holds
_KINDS |= dict.fromkeys(("scale", "config", "run", "versions", "hardware", "source"), dict)
_MEASURED = ("accuracy", "scores", "curve", "corruptions", "points", "quantiles", "map")  # in which two machines agree


def _numbers(values: Any) -> list[Any]:
    """The values of a mapping, or of the mappings that are its values."""
    inner = values.values() if isinstance(values, dict) else []
    return [one for value in inner for one in (value.values() if isinstance(value, dict) else [value])]


def _is_whole(found: dict[str, Any], table: PaperTable, scale: Scale) -> bool:
    """Whether a result holds what its table's measure writes."""
    if any(type(found.get(name)) is not kind for name, kind in _KINDS.items()):
        return False
    measure, columns = MEASURES[table.measure], set(table.columns_at(scale))
    scores = found.get("scores", {name: found.get("accuracy") for name in columns})
    numbers = [*_numbers(scores), *([found["accuracy"]] if "accuracy" in found else [])]
    if not numbers or not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        return False
    if measure.percent and not all(0 <= one <= 100 for one in numbers):
        return False
    rows = [one for one in scores.values() if isinstance(one, dict)] or [scores]
    told = {"torch"} <= found["versions"].keys() and {"processor", "threads"} <= found["hardware"].keys()
    return told and all(columns <= row.keys() for row in rows) and all(name in found for name in measure.holds)


def checked(path: Path, table: PaperTable, cell: Cell, scale: Scale) -> dict[str, Any]:
    """A cell's result. Raises InputError where it is none, or was made when the cell or the scale of that name was another."""
    found = read_json(path, _TAKES)
    if not _is_whole(found, table, scale):
        raise InputError(f"{path} is not what a cell writes; remove it to run the cell anew.")
    if found["table"] != table.name:
        raise InputError(f"{path} holds a cell of {found['table']}; it takes one of {table.name}.")
    if path.stem != f"{found.get('cell')}-seed{found['seed']}":
        raise InputError(f"{path} holds cell {found.get('cell')}, seed {found['seed']}; it takes a file of that name.")
    made = {name: value for name, value in found["scale"].items() if name != "runs"}  # on which no number depends
    if changed := differences(made, json.loads(json.dumps(asdict(scale)))):
        raise InputError(f"{path} was made at another scale ({changed}); remove it to run the cell anew.")
    config = {name: value for name, value in found["config"].items() if name not in _OF_THE_JOB}
    if changed := differences(config, asdict(config_of(cell, scale, found["seed"], MANY))):
        raise InputError(f"{path} was trained otherwise ({changed}); remove it to run the cell anew.")
    return found


def _as_named(table: PaperTable, name: str, made: dict[str, Any]) -> Scale:
    """The scale of that name: as it is defined now, but for what the name says was changed, which is taken as `made`."""
    plain, *changes = name.split(",")
    if plain not in table.scales:
        raise InputError(f"Unknown scale {plain!r} of {table.name}; it takes {', '.join(table.scales)}.")
    fields = [field_of(change.partition("=")[0]) for change in changes]
    now = asdict(table.scales[plain]) | {"name": name}
    return Scale(**now | {field: made[field] for field in fields if field in made})


def _made(path: Path) -> Path:
    make_folder(path.parent)
    return path.resolve()  # which other machines may see too


def merge(source: Path, out: Path) -> int:
    """Copy the results of a second machine's folder that `out` has not; returns how many came.

    Raises InputError, with nothing copied, where `source` is no folder of results, for a file in it that is no result of a
    cell and scale as they are now, and where both have a result whose numbers differ.
    """
    results = sorted(path for name in TABLES for path in source.glob(f"{name}/*/*-seed*.json"))
    if not results:
        raise InputError(f"{source} holds no results; merge takes a folder of them, such as results.")
    differ, new = [], []
    for theirs in results:
        found = read_json(theirs, _TAKES)
        if not {"table", "cell", "scale", "seed"} <= found.keys() or not isinstance(found["scale"], dict):
            raise InputError(f"{theirs} is no result of a cell; merge takes a folder of results.")
        table = TABLES[theirs.parent.parent.name]
        [cell] = chosen(table, [str(found["cell"])])
        checked(theirs, table, cell, _as_named(table, theirs.parent.name, found["scale"]))
        ours = out / theirs.relative_to(source)
        if not ours.exists():
            new.append((theirs, ours))
        elif any(found.get(name) != read_json(ours, _TAKES).get(name) for name in _MEASURED):
            differ.append(str(ours.relative_to(out)))
    if differ:
        raise InputError(
            f"{source} and {out} differ in {', '.join(differ)}; remove one of each pair. Nothing was copied."
        )
    for theirs, ours in new:
        write_whole(_made(ours), theirs.read_bytes())
    return len(new)
