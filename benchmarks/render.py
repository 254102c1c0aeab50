"""Tables and plots from the committed figures: `python -m benchmarks.render` writes RESULTS.md here and docs/speed.md's part."""

import json
from pathlib import Path
from typing import Any

from saccade.report.figures import lines
from saccade.report.paired import Paired, differences
from saccade.report.tables import Table, spread, to_markdown

from . import train_step

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
NAMES = {
    "e2e": "end to end",
    "rll": "layer-wise, a random layer a step",
    "simultaneous": "layer-wise, all layers at once",
}


def surroundings(found: dict[str, Any]) -> str:
    machine, versions = found["hardware"], found["versions"]
    place = machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} thread(s)"
    return f"`{found['command']}`, {found['date'][:10]}, {place}, torch {versions['torch']}, Python {versions['python']}.\n"


def steps(found: dict[str, Any], title: str) -> str:
    tables = [train_step.speeds(found)]
    if found["ours"]:
        tables += [train_step.stages(found), train_step.stages(found, "operations")]
    bandwidth = f"A copy within memory moves {found['bandwidth'] / 1e9:.0f} GB/s, read and written bytes counted.\n"
    out = [f"Left out: {name}: {why}\n" for name, why in found["left out"].items()]
    return "\n".join([f"## {title}\n", *map(to_markdown, tables), bandwidth, *out, surroundings(found)])


def paired(runs: list[dict[str, Any]]) -> list[int]:
    """The seeds that were run in both precisions."""
    of = {kind: {row["seed"] for row in runs if row["precision"] == kind} for kind in ("float32", "bfloat16")}
    return sorted(of["float32"] & of["bfloat16"])


def difference(runs: list[dict[str, Any]], what: str) -> Paired:
    """bfloat16's accuracy less float32's, seed by seed."""
    of = {(row["precision"], row["seed"]): row[what] for row in runs}
    return differences([of["bfloat16", seed] - of["float32", seed] for seed in paired(runs)])


def precision(runs: list[dict[str, Any]]) -> str:
    rows: list[list[Any]] = []
    runs = [row for row in runs if row["seed"] in paired(runs)]
    for what in ("plain", "deformed"):
        scores = [spread(row[what] for row in runs if row["precision"] == kind) for kind in ("float32", "bfloat16")]
        rows.append([f"{what} test digits", *scores, difference(runs, what)])
    seeds = len(runs) // 2
    caption = (
        f"Test accuracy (%) of a linear probe on encoders trained in two precisions, {seeds} seeds; the difference seed "
        "by seed with its 95 % interval. The deformed score is the mean over five deformations of each test digit."
    )
    header = ["", "float32", "bfloat16", "bfloat16 - float32"]
    table = to_markdown(Table(header, rows, caption, digits=2))
    return f"## What bfloat16 changes in the result\n\n{table}\n{surroundings(runs[0])}"


PLOTS = {"batch": "batch", "width": "times the CIFAR network's channels", "side": "side (pixels)"}


def growth_plots(found: dict[str, Any]) -> dict[str, str]:
    """SVG by file name, of the sweeps that were made."""

    def of(rows: list[dict[str, Any]], x: str, y: str, scale: float) -> list[tuple[float, float]]:
        return [(row[x], scale * row[y]) for row in rows]

    plots = {}
    if "depth" in found:
        depth = {NAMES[schedule]: of(rows, "depth", "bytes", 2**-20) for schedule, rows in found["depth"].items()}
        plots["speed-depth.svg"] = lines(depth, "layers", "peak memory of a step (MiB)")
    if "loss" in found:
        losses = found["loss"].items()
        memory = {name: of(rows, "batch", "bytes", 2**-20) for name, rows in losses}
        times = {name: of(rows, "batch", "seconds", 1e3) for name, rows in losses}
        plots["speed-loss-memory.svg"] = lines(memory, "batch", "peak memory of the loss (MiB)")
        plots["speed-loss-time.svg"] = lines(times, "batch", "forward and backward (ms)")
    for name, label in PLOTS.items():
        rows = found.get(name, [])
        if rows and "pairs per second" in rows[0]:
            plots[f"speed-{name}.svg"] = lines({"": of(rows, name, "pairs per second", 1)}, label, "pairs/s")
        if rows:
            memory = {"": of(rows, name, "bytes", 2**-20)}
            plots[f"speed-{name}-memory.svg"] = lines(memory, label, "peak memory of a step (MiB)")
    return plots


def slope(rows: list[dict[str, Any]]) -> float:
    """MiB that a further layer costs, between the deepest two networks."""
    a, b = rows[-2:]
    return (b["bytes"] - a["bytes"]) / (b["depth"] - a["depth"]) / 2**20


def growth(found: dict[str, Any]) -> str:
    def speed(row: dict[str, Any]) -> str | None:
        return f"{row['pairs per second']:.0f}" if "pairs per second" in row else None

    def table(name: str, rows: list[dict[str, Any]], caption: str) -> str:
        body: list[list[Any]] = [[str(row[name]), f"{row['bytes'] / 2**20:.1f}", speed(row)] for row in rows]
        return to_markdown(timed([name, "peak memory (MiB)", "pairs/s"], body, caption))

    def timed(header: list[str], body: list[list[Any]], caption: str) -> Table:
        """Without its last column, the speed, where only memory was measured."""
        if all(row[-1] is None for row in body):
            header, body = header[:-1], [row[:-1] for row in body]
        return Table(header, body, caption)

    parts = ["## Growth\n"]
    if "cifar network" in found:
        cifar = found["cifar network"]
        body: list[list[Any]] = [
            [NAMES[s], f"{row['bytes'] / 2**20:.0f}", f"{row['bytes'] / cifar['e2e']['bytes']:.2f}", speed(row)]
            for s, row in cifar.items()
        ]
        caption = "Memory of a step on the CIFAR network, batch 500, beyond weights, data and optimizer state."
        parts.append(to_markdown(timed(["schedule", "peak memory (MiB)", "/ end to end", "pairs/s"], body, caption)))
    if "depth" in found:
        for schedule, rows in found["depth"].items():
            parts.append(table("depth", rows, f"Depth, {NAMES[schedule]}: layers of 32 channels at 32x32, batch 20."))
        law = "; ".join(f"{NAMES[s]} {slope(rows):.2f} MiB" for s, rows in found["depth"].items())
        parts.append(f"A further layer costs, between the deepest two: {law}.\n")
    captions = {
        "batch": "Batch, CIFAR network, end to end.",
        "width": "Width, times the CIFAR network's channels, batch 100.",
        "side": "Side of the pictures, CIFAR network, batch 100.",
    }
    parts += [table(name, found[name], caption) for name, caption in captions.items() if name in found]
    if "loss" in found:
        body = [
            [name, row["batch"], f"{1e3 * row['seconds']:.1f}", f"{row['bytes'] / 2**20:.1f}"]
            for name, rows in found["loss"].items()
            for row in rows
        ]
        caption = "The hinge, forward and backward, embeddings of width 64."
        parts.append(to_markdown(Table(["loss", "batch", "ms", "peak memory (MiB)"], body, caption)))
    return "\n".join([*parts, surroundings(found)])


def probes(found: dict[str, Any]) -> str:
    rows: list[list[Any]] = []
    if "exact" in found:
        rows.append(
            [
                f"features and exact probe, all layers, {found['exact']['pictures']:,} pictures",
                f"{found['exact']['seconds']:.0f}",
            ]
        )
    if "paper" in found:
        row = found["paper"]
        said = (
            f"paper's protocol, last layer ({row['features']:,} features), 400 epochs, from {row['epochs timed']} timed"
        )
        rows.append([said, f"{row['seconds']:.0f}"])
    rows += [[f"start-up: {name}", f"{value:.2f}"] for name, value in found.get("start", {}).items()]
    table = to_markdown(Table(["", "seconds"], rows, f"Probes and start-up, {found['precision']}."))
    return f"## Probes and start-up\n\n{table}\n{surroundings(found)}"


def gpu(found: dict[str, Any] | None) -> str:
    if found is None or found.get("dry run"):
        return (
            "## GPU\n\nNo GPU could be had so far. `benchmarks/gpu.sh` measures all of it and is ready; its program was "
            "dry-run on a processor (`python -m benchmarks.gpu --dry-run`), without its graphs, which only a GPU makes.\n"
        )
    parts = found["parts"]
    rows: list[list[Any]] = [
        [
            name.removeprefix("cell "),
            f"{1e3 * row['seconds a step']:.2f}",
            row["steps"],
            f"{60 * row['hours of the whole run']:.1f}",
        ]
        for name, row in parts.items()
        if name.startswith("cell ")
    ]
    total = 60 * sum(row["hours of the whole run"] for name, row in parts.items() if name.startswith("cell "))
    caption = f"Table 1's cells, 400 epochs a layer: {total:.1f} minutes, summed from its cells, each timed over a few hundred steps."
    table = to_markdown(Table(["cell", "ms a step", "steps", "minutes"], rows, caption))
    return f"## GPU\n\n{table}\n{surroundings(found)}"


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def render(out: Path = ROOT) -> None:
    """RESULTS.md, the plots, and the part of docs/speed.md between its marks, under `out`."""
    here = ROOT / "benchmarks" / "results"
    parts = ["# Results\n\nRendered from the JSON files in `results/` by `python -m benchmarks.render`.\n"]
    shown = []
    for file, title in (
        ("two-cores", "A training step, two cores"),
        ("e2e", "A training step, one core"),
        ("plain-malloc", "The same where freed memory is not kept"),
        ("block", "With the gradient block and 5 negatives"),
        ("rules", "Rules, end to end"),
        ("schedules", "Layer-wise schedules"),
    ):
        if found := read(here / f"{file}.json"):
            parts.append(steps(found, title))
            shown.append(f"{to_markdown(train_step.speeds(found))}\n{surroundings(found)}")
    runs = [read(path) for path in sorted((ROOT / "results" / "bfloat16").glob("*.json"))]
    if len(paired(runs)) > 1:
        parts.append(precision(runs))
        shown.append(precision(runs).partition("\n\n")[2])
    plots: dict[str, str] = {}
    if found := read(here / "growth.json"):
        parts.append(growth(found))
        plots = growth_plots(found)
    if found := read(here / "probes.json"):
        parts.append(probes(found))
        shown.append(probes(found).partition("\n\n")[2])
    parts.append(gpu(read(here / "gpu.json")))
    (out / "benchmarks").mkdir(parents=True, exist_ok=True)
    (out / "benchmarks" / "RESULTS.md").write_text("\n".join(parts))
    (out / "docs").mkdir(exist_ok=True)
    for name, svg in plots.items():
        (out / "docs" / name).write_text(svg)
    page = ROOT / "docs" / "speed.md"
    before, mark, rest = page.read_text().partition(BEGIN)
    if mark:
        text = before + BEGIN + "\n" + "\n".join(shown) + END + rest.partition(END)[2]
        (out / "docs" / "speed.md").write_text(text)


if __name__ == "__main__":
    render()
