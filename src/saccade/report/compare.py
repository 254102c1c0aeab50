"""Runs side by side: where their configurations differ, what they ran on, what came of each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..training.folder import configuration, losses, read_facts, read_metrics, timed
from .figures import lines, loss_curve
from .page import Block, Section, Svg, Text
from .run import probes_by_measurement
from .tables import Cell, Spread, Table, spread

Values = dict[str, list[Any]]  # by what is compared, one value a run; None where a run has none


@dataclass(frozen=True)
class Comparison:
    """Runs and what differs between them: fields of their configurations, their surroundings, and all their results.

    `results` holds numbers, and a Spread where a probe has several seeds; `curves` the losses by epoch of each run's
    sites; `same` counts the configuration's fields in which all agree.
    """

    names: list[str]
    configuration: Values
    surroundings: Values
    results: Values
    curves: dict[str, list[tuple[float, float]]]
    same: int

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, without the curves."""
        kept: dict[str, Any] = {"runs": self.names, "configuration": self.configuration}
        results = {
            name: [asdict(value) if isinstance(value, Spread) else value for value in values]
            for name, values in self.results.items()
        }
        return kept | {"surroundings": self.surroundings, "results": results, "same fields": self.same}

    def tables(self) -> list[Table]:
        """Configuration, surroundings and results, those of them that have rows."""
        found = []
        for caption, values in (
            ("Configuration, where it differs", self.configuration),
            ("Surroundings, where they differ", self.surroundings),
            ("Results", self.results),
        ):
            told = values is self.configuration
            shown = _whole if told else _cell  # what differs must not look alike
            rows: list[list[Cell]] = [[name, *map(shown, row)] for name, row in values.items()]
            notes = [f"The other {self.same} fields are the same."] if told else []
            if rows:
                found.append(Table(["", *self.names], rows, caption, notes, digits=2))
        return found

    def sections(self) -> list[Section]:
        """The tables and the figures of a page."""
        tables: list[Block] = [*self.tables()]
        if not self.configuration:
            tables.insert(0, Text("The configurations are the same."))
        found = [Section("Differences", tables)]
        if self.curves:
            said = "Mean training loss since the measurement before."
            found.append(Section("Loss", [Svg(loss_curve(self.curves, "epoch", "loss"), said)]))
        accuracies = self._by_layer()
        if any(len(points) > 1 for points in accuracies.values()):
            said = "Test accuracy of probes by layer; a band is a standard deviation each way over the probe's seeds."
            found.append(Section("Probes", [Svg(lines(accuracies, "layer", "accuracy (%)"), said)]))
        return found

    def _by_layer(self) -> dict[str, list[tuple[float, Spread | float]]]:
        curves: dict[str, list[tuple[float, Spread | float]]] = {}
        for name, values in self.results.items():
            what, found, layer = name.rpartition(", layer ")
            for run, value in zip(self.names, values, strict=True) if found else ():
                if value is not None:
                    curves.setdefault(f"{run}: {what}", []).append((float(layer), value))
        return curves


def compare(runs: Sequence[Path | str]) -> Comparison:
    """Two runs or more, in the order given; unfinished ones count with what they have.

    Raises InputError for fewer, and for a folder that holds no run.
    """
    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise InputError(
            f"{', '.join(map(str, runs)) or 'Nothing'} cannot be compared; it takes two different runs or more."
        )
    names = _names(folders)
    configs = [asdict(configuration(folder)) for folder in folders]
    facts = [read_facts(folder) for folder in folders]
    fields = {name: [config[name] for config in configs] for name in configs[0]}
    different = _differing(fields)
    results: dict[str, list[Any]] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for place, folder in enumerate(folders):
        for what, value in _results(folder, facts[place]).items():
            results.setdefault(what, [None] * len(folders))[place] = value
        for site, points in _losses(folder).items():
            curves[f"{names[place]}{site}"] = points
    around = [_surroundings(one) for one in facts]
    surroundings = {name: [one.get(name) for one in around] for name in dict.fromkeys(k for one in around for k in one)}
    same = len(fields) - len(different)
    return Comparison(names, different, _differing(surroundings), results, curves, same)


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two have one name."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _differing(values: Values) -> Values:
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def _surroundings(facts: dict[str, Any]) -> dict[str, Any]:
    """What may explain a difference, flat: versions, hardware, source tree, images."""
    flat = {"images": facts["data"].get("sha256"), "device": facts.get("device"), "precision": facts.get("precision")}
    for group in ("versions", "hardware", "source"):
        inner = facts.get(group)
        flat |= {f"{group}: {name}": value for name, value in (inner if isinstance(inner, dict) else {}).items()}
    return flat


def _losses(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The loss by epoch of every site, by ", site 1" and so on, or "" where there is one."""
    found = losses(read_metrics(folder))
    return {f", site {site + 1}" if len(found) > 1 else "": points for site, points in found.items()}


def _results(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"finished": bool(facts.get("finished"))}
    found |= {f"last loss{site}": points[-1][1] for site, points in _losses(folder).items()}
    for name, said in (("seconds", timed(facts)), ("pairs_per_second", "pairs per second")):
        if isinstance(facts.get(name), int | float):
            found[said] = float(facts[name])
    for what, layers in probes_by_measurement(folder).items():
        for layer, seeds in sorted(layers.items()):
            found[f"accuracy (%), {'; '.join(what)}, layer {layer}"] = spread(
                [row["accuracy"] for row in seeds.values()]
            )
    return found


def _whole(value: Any) -> Cell:
    return f"{value:.12g}" if isinstance(value, float) else _cell(value)


def _cell(value: Any) -> Cell:
    match value:
        case None:
            return None
        case bool():
            return "yes" if value else "no"
        case str() | float() | Spread():
            return value
        case _:
            return str(value)
