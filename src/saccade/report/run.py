"""A training run's folder as the sections of a page: what was run, its loss, its diagnostics, its probes."""

import re
from pathlib import Path
from typing import Any

from ..config.run import to_yaml
from ..training.folder import losses, read_config, read_json, read_metrics, read_probes
from .figures import lines, loss_curve
from .page import Block, Code, Facts, Section, Svg, Text
from .tables import Cell, Spread, Table, number_text, spread

Row = dict[str, Any]

# field of a line of metrics, the axis's name, what the curve shows
_MEASURED = (
    ("angle_to_bp", "angle (degrees)", "Angle between each weight's update and backpropagation's at the same batch."),
    ("feedback_angle", "angle (degrees)", "Angle between feedback weights and the forward weights they stand in for."),
    ("feedback_ratio", "ratio of norms", "Norm of the feedback weights over that of the forward weights."),
    ("reconstruction", "relative error", "Error of each learned inverse in giving back its layer's input."),
    (
        "embedding_std",
        "standard deviation",
        "Standard deviation of the embedding over the batch; near 0 it has collapsed.",
    ),
    ("rank_me", "RankMe", "Effective rank of the batch's embeddings, from the entropy of their singular values."),
    ("participation_ratio", "participation ratio", "Number of directions that carry the variance of the embeddings."),
)


def run_sections(folder: Path | str) -> list[Section]:
    """What is to be said of a run: its configuration and surroundings, the loss of every site, and, where there are
    any, curves of its diagnostics and a table of its probes. Raises InputError where the folder holds no run."""
    folder = Path(folder)
    metrics = read_metrics(folder)
    sections = [_what(folder), _loss(metrics), _diagnostics(metrics), _probes(folder)]
    return [section for section in sections if section.blocks]


def _what(folder: Path) -> Section:
    config = read_config(folder)
    facts = {name: value for name, value in read_json(folder / "run.json").items() if name != "config"}
    return Section("What was run", [Facts(facts), Code(to_yaml(config))])


def _loss(metrics: list[Row]) -> Section:
    found = losses(metrics)
    several = len(found) > 1
    curves = {f"site {site + 1}" if several else "loss": points for site, points in found.items()}
    blocks: list[Block] = []
    if curves:
        each = ", of each site (a group of layers with a loss of its own)" if several else ""
        blocks.append(
            Svg(loss_curve(curves, "epoch", "loss"), f"Mean training loss since the measurement before{each}.")
        )
    for row in metrics:
        if "warning" in row:
            blocks.append(Text(f"Warning at step {row['step']:,}, {_site(row)}: {row['warning']}."))
    return Section("Loss", blocks)


def _diagnostics(metrics: list[Row]) -> Section:
    several = len({row["site"] for row in metrics}) > 1
    blocks: list[Block] = []
    for measured, ylabel, caption in _MEASURED:
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in metrics:
            for part, value in _parts(row.get(measured)).items():
                name = ", ".join(filter(None, [_site(row) if several else "", part])) or ylabel
                curves.setdefault(name, []).append((row["step"], value))
        values = {value for points in curves.values() for _, value in points}
        if len(values) == 1:  # backpropagation's angle to itself, say
            blocks.append(Text(f"{caption} It is {number_text(values.pop(), 2)} at every measurement."))
        elif curves:
            blocks.append(Svg(loss_curve(dict(sorted(curves.items(), key=_place)), "step", ylabel), caption))
    if several and blocks:
        blocks.insert(
            0, Text("A site is a group of layers with a loss of its own; its layers are counted from its lowest.")
        )
    return Section("Diagnostics", blocks)


def _place(curve: tuple[str, Any]) -> tuple[bool, list[str | int]]:
    """Sorts by site and layer as numbers, heads last."""
    name = curve[0]
    return name.endswith("head"), [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _site(row: Row) -> str:
    return f"site {row['site'] + 1}"


def _parts(measured: Any) -> dict[str, float]:
    """A measurement by the part that it is of; layers are counted from 1, as probes count them."""
    if isinstance(measured, dict):
        return {_part(name): value for name, value in measured.items()}
    if isinstance(measured, list):  # the first layer's input needs no inverse
        return {f"layer {layer}": value for layer, value in enumerate(measured, 2)}
    return {} if measured is None else {"": measured}


def _part(name: str) -> str:
    """A weight as a reader names it.

    >>> _part("layers.0.linear.weight"), _part("head.linear"), _part("loss.w")
    ('layer 1', 'head', 'loss.w')
    """
    match name.removesuffix(".weight").removesuffix(".linear").split("."):
        case ["layers", number] if number.isdecimal():
            return f"layer {int(number) + 1}"
        case parts:
            return ".".join(parts)


def probe_tables(folder: Path) -> list[Table]:
    """The table of a run's probes, if it has any."""
    return [block for block in _probes(folder).blocks if isinstance(block, Table)]


def probes_by_measurement(folder: Path) -> dict[tuple[str, ...], dict[int, dict[int, Row]]]:
    """A run's probes by what was measured (`_PROBED`), then layer, then seed."""
    found: dict[tuple[str, ...], dict[int, dict[int, Row]]] = {}
    for row in read_probes(folder) if (folder / "probes.json").exists() else []:
        found.setdefault(_described(row), {}).setdefault(row["layer"], {})[row["seed"]] = row  # made again, it replaces
    return found


def _probes(folder: Path) -> Section:
    found = probes_by_measurement(folder)
    if not found:
        return Section("Probes", [])
    # what all share is said below the table, which else would be too wide to read
    telling = [i for i in range(len(_PROBED)) if len({what[i] for what in found}) > 1]
    shared = [f"{_PROBED[i]} {next(iter(found))[i]}" for i in range(len(_PROBED)) if i not in telling]
    cells: list[list[Cell]] = []
    curves: dict[str, list[tuple[float, Spread | float]]] = {}
    for what, layers in found.items():
        told = [what[i] for i in telling]
        for layer, seeds in sorted(layers.items()):
            accuracy = spread([row["accuracy"] for row in seeds.values()])
            features = next(iter(seeds.values()))["features"]
            cells.append([str(layer), *told, accuracy, ", ".join(map(str, sorted(seeds))), features])
            curves.setdefault(", ".join(told) or "test accuracy", []).append((layer, accuracy))
    notes = [f"All: {'; '.join(shared)}."] if shared else []
    notes.append("Layers are counted from 1; 0 is the pixels. The seeds are the probe's own: the encoder is one.")
    header = ["layer", *(_PROBED[i] for i in telling), "accuracy (%)", "seeds", "features"]
    blocks: list[Block] = [Table(header, cells, "Test accuracy of probes on the encoder's layers", notes)]
    if any(len(points) > 1 for points in curves.values()):
        caption = "Test accuracy of probes by layer; a band is a standard deviation each way over the probe's seeds."
        blocks.append(Svg(lines(curves, "layer", "accuracy (%)"), caption))
    return Section("Probes", blocks)


_PROBED = ("protocol", "fitted on", "tested on", "encoder")


def _described(row: Row) -> tuple[str, ...]:
    """What was probed and how, in the order of `_PROBED`; rows that agree in it are seeds of one measurement."""
    options = {
        k: v for k, v in row["details"].items() if k not in ("strength", "held_out")
    }  # those a probe finds itself
    protocol = " ".join([row["protocol"], *(f"{name}={value}" for name, value in options.items())])
    views = f", deformed by {row['test_views']}" if row.get("test_views") else ""
    return (
        protocol,
        f"{row.get('train', '')} ({row['train_size']:,})".strip(),
        f"{row.get('test', '')} ({row['test_size']:,}{views})".strip(),
        "before training" if row.get("initial") else "trained",
    )
