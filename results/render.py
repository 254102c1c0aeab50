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


def cifar(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    layers = [p["layer"] for p in first["trained"]]
    body: list[list[Any]] = []
    for kind in ("trained", "random"):
        scores = [[next(p["accuracy"] for p in row[kind] if p["layer"] == layer) for row in rows] for layer in layers]
        body.append([first["names"][kind], *map(spread, scores)])
    table = Table(["encoder", *(f"layer {layer}" for layer in layers)], body, first["caption"], digits=2)
    said = f"`{first['command']}`, {first['date'][:10]}, {hardware(first)}. {first['choice']}"
    return f"### CIFAR-100 without labels, probed on CIFAR-10\n\n{to_markdown(table)}\n{said}\n"


def render() -> None:
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
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(before + BEGIN + "\n" + "\n".join(parts) + END + after)


if __name__ == "__main__":
    render()
