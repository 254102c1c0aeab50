"""Render the README's figures and tables from the JSON files in this folder: `python results/render.py`."""

import json
from pathlib import Path
from typing import Any

from saccade.paper import SCALES, TABLES, results
from saccade.quickstart import as_bars, as_table
from saccade.report.tables import Table, spread, to_markdown

HERE = Path(__file__).parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def hardware(found: dict[str, Any]) -> str:
    machine = found["hardware"]
    return f"{machine['processor']}, {machine['threads']} thread(s), torch {found['versions']['torch']}"


def quickstart(found: dict[str, Any]) -> str:
    (HERE.parent / "docs" / "quickstart.svg").write_text(as_bars(found))
    took = f"{found['seeds']} seeds, {found['seconds']:.0f} s, {found['date'][:10]}"
    said = f"`{found['command']}`, {took}, {hardware(found)}."
    return f"### Quickstart\n\n{to_markdown(as_table(found))}\n{said}\n"


def cifar(found: list[dict[str, Any]]) -> str:
    """Test accuracy at every layer, and at the layer with the best mean held-out accuracy."""
    first = found[0]
    layers = [row["layer"] for row in first["trained"]]
    body: list[list[Any]] = []
    names = {"trained": "without labels (hinge, 5 negatives, block; E2E, BP)", "random": "random encoder"}
    for kind, name in names.items():
        tests, held = (
            [[run[kind][k][what] for run in found] for k in range(len(layers))] for what in ("accuracy", "held_out")
        )
        chosen = max(range(len(layers)), key=lambda k: sum(held[k]))
        body.append([name, *map(spread, tests), spread(tests[chosen]), str(layers[chosen])])
    header = ["encoder", *(f"layer {layer}" for layer in layers), "at the chosen layer", "chosen layer"]
    pairs = first["run"]["steps"] * first["config"]["batch"]
    caption = (
        f"Test accuracy (%) on CIFAR-10 of a probe on encoders that saw {pairs:,} pairs of views of CIFAR-100, a "
        "scaled-down run: the paper trains on 20 million. Probe: Adam, 30 epochs, 45,000 images, features pooled to at "
        "most 8,192 a layer."
    )
    said = f"`{first['command']}`, {first['date'][:10]}, {hardware(first)}. {first['choice']}"
    table = to_markdown(Table(header, body, caption, digits=2))
    return f"### CIFAR-100 without labels, probed on CIFAR-10\n\n{table}\n{said}\n"


def kills(found: dict[str, Any]) -> str:
    met = found["met"]
    seen = ", ".join(f"{len(met[part])} {part}s" for part in ("schedule", "rule"))
    return (
        f"**{found['exact']} of {found['kills']} kills exact**, in {found['runs']} runs over {seen} and {len(met['loss'])} "
        f"losses. `{found['command']}`, {found['date'][:10]}, {hardware(found)}.\n"
    )


def fuzz(found: dict[str, Any]) -> str:
    rows: list[list[Any]] = [[name, str(kind["cases"]), kind["longest"]] for name, kind in found["kinds"].items()]
    caption = (
        f"{found['cases']:,} cases, {len(found['failed'])} kinds failed; peak memory {found['peak_memory_mib']:,} MiB."
    )
    table = to_markdown(Table(["what is made up", "cases", "longest (s)"], rows, caption, digits=2))
    said = f"`{found['command']}`, {found['date'][:10]}, hypothesis {found['hypothesis']}, {hardware(found)}."
    return f"{table}\n{said}\n"


def put(path: Path, parts: list[str]) -> None:
    """The parts between a file's two marks."""
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(before + BEGIN + "\n" + "\n".join(parts) + END + rest.partition(END)[2])


def render() -> None:
    trust = [(kills, HERE / "trust" / "kills.json"), (fuzz, HERE / "trust" / "fuzz.json")]
    put(
        HERE.parent / "docs" / "trust.md",
        [write(json.loads(path.read_text())) for write, path in trust if path.exists()],
    )
    parts = []
    if (path := HERE / "quickstart.json").exists():
        parts.append(quickstart(json.loads(path.read_text())))
    if paths := sorted((HERE / "cifar").glob("seed*.json")):
        parts.append(cifar([json.loads(path.read_text()) for path in paths]))
    for name, table in TABLES.items():
        for scale in SCALES.values():
            if any((HERE / name / scale.name).glob("*.json")):
                shown = to_markdown(results(table, scale, HERE))
                parts.append(f"### {name.capitalize()}, {scale.name} scale\n\n{shown}")
    put(HERE.parent / "README.md", parts)


if __name__ == "__main__":
    render()
