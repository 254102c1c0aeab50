"""Sweeps: a recipe, some of its fields varied, every combination a run; on any engine, each combination once.

A run's folder is named by what was chosen, so that the same run asked for twice, by two sweeps or by two writers, is one
run. Its result holds nothing but what the choices fix.
"""

import hashlib
import json
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from . import api, engines
from .config.run import INCIDENTAL, TrainConfig, check, from_dict
from .config.view_names import resolve
from .errors import InputError, RunError, whole
from .evaluation.probe import class_count
from .files import make_folder, refuse_file
from .parallel import Report
from .report.paired import differences, holm
from .report.tables import Cell, Table, spread
from .training.folder import read_json, read_metrics, settled, surroundings, write_json
from .training.own_code import own_code, refuse_other_code


class Probe(NamedTuple):
    """Labeled images to fit a linear probe on, images to score it on, and the views that these are deformed by, if any."""

    train: str
    test: str
    test_views: str | None = None

    @property
    def sets(self) -> tuple[str, str]:
        return self.train, self.test


def parse(texts: Sequence[str]) -> dict[str, list[Any]]:
    """What is varied, from texts such as `rate=[1e-4, 3e-4]` and `loss=["hinge(m1=1)", simclr]`: YAML lists.

    >>> parse(["rate=[1e-4, 1]", "rule=[bp, rf]"])
    {'rate': [0.0001, 1.0], 'rule': ['bp', 'rf']}

    Fields that vary together are named together, and each value is a list with one for each of them:

    >>> parse(["schedule,epochs=[[e2e, 60], [gll, 12]]"])
    {'schedule,epochs': [['e2e', 60.0], ['gll', 12.0]]}

    Raises InputError for what is no list of a field's values, or a field that is named twice.
    """
    types = {f.name: f.type for f in fields(TrainConfig)}
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, written = text.partition("=")
        names = key.split(",")
        try:
            values = yaml.safe_load(written)
        except Exception:  # besides its own, the parser raises what a number's or a date's constructor does
            values = None
        before = [name for other in found for name in other.split(",")]
        usable = equals and isinstance(values, list) and values and len({*names, *before}) == len([*names, *before])
        if not usable or any(name not in types for name in names) or not all(_fits(key, value) for value in values):
            raise InputError(
                f"The variation {text!r} cannot be used; it takes a field of a recipe, once, and a list of values in "
                "brackets, such as rate=[1e-4, 3e-4], or fields that vary together and lists of as many, such as "
                "schedule,epochs=[[e2e, 60], [gll, 12]]."
            )
        try:
            read = [
                [_number(v) if types[n] is float else v for n, v in _choice(key, value).items()] for value in values
            ]
        except (TypeError, ValueError):
            raise InputError(f"The variation {text!r} has a value that is no number.") from None
        found[key] = read if len(names) > 1 else [value for [value] in read]
    return found


def _fits(key: str, value: Any) -> bool:
    """Whether a value is one of the field that `key` names, or one each of the fields."""
    return "," not in key or (isinstance(value, list | tuple) and len(value) == key.count(",") + 1)


def _number(value: Any) -> float:
    """YAML reads 1e-4 as text. Raises TypeError or ValueError for what is no number."""
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _choice(key: str, value: Any) -> dict[str, Any]:
    return dict(zip(key.split(","), value, strict=True)) if "," in key else {key: value}


def runs(base: TrainConfig, varied: Mapping[str, Sequence[Any]], seeds: int = 1) -> dict[str, TrainConfig]:
    """The configurations of a sweep by their names: every combination of what is varied, as `parse` gives it.

    Raises InputError for one that cannot run, for a field that decides nothing of a run's result, and for several seeds
    where `seed` is varied.
    """
    for key, values in varied.items():
        if odd := [value for value in values if not _fits(key, value)]:
            raise InputError(
                f"The sweep varies {key} and has {odd[0]!r} for it; it takes a list of one value for each."
            )
    whole("seeds", seeds)
    names = [name for key in varied for name in key.split(",")]
    if unfit := [name for name in names if name in INCIDENTAL]:
        raise InputError(
            f"The sweep varies {unfit[0]}, of which no result depends; it takes fields other than {', '.join(INCIDENTAL)}."
        )
    if "seed" in names and seeds != 1:
        raise InputError(f"The sweep varies seed and has seeds={seeds}; it takes one or the other.")
    made = {}
    keys = [*varied, *([] if "seed" in names else ["seed"])]
    for values in product(*varied.values(), *([] if "seed" in names else [range(base.seed, base.seed + seeds)])):
        chosen = [_choice(key, value) for key, value in zip(keys, values, strict=True)]
        config = from_dict(asdict(base) | dict(ChainMap(*chosen)), "The sweep")
        check(config)
        made[_name(config)] = config
    return made


def _name(config: TrainConfig) -> str:
    kinds = {f.name: f.type for f in fields(TrainConfig)}
    chosen = {name: float(value) if kinds[name] is float else value for name, value in settled(config).items()}
    return f"{hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]}-seed{config.seed}"


def run(
    base: TrainConfig,
    varied: Mapping[str, Sequence[Any]],
    out: Path,
    *,
    seeds: int = 1,
    engine: str = "local",
    probe: Probe | None = None,
    progress: Callable[[float], None] | None = None,
) -> Table:
    """Run what is missing of every combination at every seed, and tell of all; `out/sweep.json` holds the same.

    `probe`: a linear probe of each run's last layer, and of its encoder untrained. Raises InputError where what is there
    was made with other images, or other code of the user's own, than there are now.
    """
    configs = runs(base, varied, seeds)
    refuse_file(out)
    images = {
        name: api.load_images(name, root=base.data_root, download=base.download)
        for name in dict.fromkeys([*(config.data for config in configs.values()), *(probe.sets if probe else ())])
    }
    if probe is not None:
        class_count(*(images[name] for name in probe.sets))
        resolve(probe.test_views or "none")
    hashes = {name: one.fingerprint() for name, one in images.items()}
    del images
    make_folder(out)
    missing = {}
    for name, config in configs.items():
        if (path := _result(out / name, probe)).exists():
            _refuse_other(path, config, hashes)
        else:
            seen = {data: hashes[data] for data in (config.data, *(probe.sets if probe else ()))}
            missing[name] = (config, str((out / name).resolve()), probe, seen)
    engines.run(_trained, missing, engine, progress)
    found = {name: read_json(_result(out / name, probe)) for name in configs}
    write_json(out / "sweep.json", {"varied": dict(varied), "runs": found, **surroundings()})
    return table(varied, list(found.values()), probe)


def _result(folder: Path, probe: Probe | None) -> Path:
    if probe is None:
        return folder / "result-loss.json"
    return folder / f"result-probe-{hashlib.sha256(' '.join(filter(None, probe)).encode()).hexdigest()[:12]}.json"


def _refuse_other(path: Path, config: TrainConfig, hashes: dict[str, str]) -> None:
    """Raises InputError for a result of other images than there are now, or of other code of the user's own."""
    made = read_json(path)
    if changed := [name for name, kept in made.get("sha256", {}).items() if hashes.get(name) != kept]:
        raise InputError(
            f"The images {', '.join(changed)} are not those that {path} was made with (their hashes differ); it takes the "
            "same images or a new folder."
        )
    refuse_other_code(path.parent, made, config)


def _trained(task: tuple[TrainConfig, str, Probe | None, dict[str, str]], report: Report) -> None:
    config, folder, probe, hashes = task
    path = Path(folder)
    api.train(config, out=path, progress=lambda step, steps, loss: report(0.9 * step / steps))
    logged = [row for row in read_metrics(path) if "loss" in row]
    last = [row["loss"] for row in logged if row["step"] > 0.9 * logged[-1]["step"]]
    result: dict[str, Any] = {"config": settled(config), "loss": fmean(last), "sha256": hashes}
    if code := own_code(config):
        result["own_code"] = code
    if probe is not None:
        [after], [before] = (
            api.probe(
                path, *probe.sets, test_views=probe.test_views, seed=config.seed, initial=initial, device=config.device
            )
            for initial in (False, True)
        )
        result |= {"probe": list(filter(None, probe)), "accuracy": after.accuracy, "untrained": before.accuracy}
    keep(_result(path, probe), result)
    report(1.0)


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write a result, or find it there: two writers of one run must agree. Raises RunError where they don't."""
    if path.exists():
        if (other := read_json(path)) != json.loads(json.dumps(result)):
            raise RunError(f"{path.name} in {path.parent.name} was written with another result: {other}, not {result}.")
        return
    write_json(path, result)


def table(varied: Mapping[str, Sequence[Any]], found: list[dict[str, Any]], probe: Probe | None) -> Table:
    """A row for each combination, over its seeds.

    Of a probe also what training gained over the same encoder untrained, and how each row differs from the first, both
    paired by seed; p is that of Student's t on the latter, after Holm's correction for all rows but the first.
    """
    names = [name for key in varied for name in key.split(",") if name != "seed"]
    groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for one in found:
        groups.setdefault(tuple(one["config"][name] for name in names), {})[one["config"]["seed"]] = one
    labels = [[*map(str, values)] for values in groups]
    if probe is None:
        rows: list[list[Cell]] = [
            [*label, spread(one["loss"] for one in group.values())]
            for label, group in zip(labels, groups.values(), strict=True)
        ]
        return Table([*names, "loss, last tenth"], rows, f"{len(found)} runs.", digits=4)

    header = [*names, "test accuracy (%)", "gain over untrained (points)"]
    first, *others = groups.values()
    rows = [
        [
            *label,
            spread(one["accuracy"] for one in group.values()),
            differences([one["accuracy"] - one["untrained"] for one in group.values()]),
        ]
        for label, group in zip(labels, groups.values(), strict=True)
    ]
    notes = [
        "Gain over untrained: minus a probe of the encoder that the run began with, paired by seed; 95 % interval."
    ]
    if others:
        # Over the seeds that both have: fewer, or none, where seeds vary together with a field.
        against_first = [
            [group[seed]["accuracy"] - first[seed]["accuracy"] for seed in group if seed in first] for group in others
        ]
        tests = [differences(values) if values else None for values in against_first]
        adjusted = holm([test.p if test else None for test in tests])
        header += ["minus the first row (points)", "p, Holm"]
        rows[0] += ["", ""]
        for row, test, p in zip(rows[1:], tests, adjusted, strict=True):
            row += ["" if test is None else test, "" if p is None else p]
        notes.append(
            "Minus the first row: paired by seed; 95 % interval, and p by Student's t after Holm's correction for all rows below "
            "the first. No interval and no p where there is one seed only, or where all differences are equal."
        )
    said = f"{len(found)} runs; accuracy of a linear probe fitted on {probe.train} and scored on {probe.test}"
    if probe.test_views is not None:
        said += f", deformed by the views {probe.test_views}"
    return Table(header, rows, f"{said}.", notes, digits=2)
