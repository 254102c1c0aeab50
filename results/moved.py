"""How far learning moved the weights of Table 1's encoders: python results/moved.py --runs runs/table1/small

Of every finished run in the folder, layer by layer: |W - W0| / |W0|, of the weights at the end and at the start. Writes a
file a run into results/moved, named by the scale, and leaves out those that are there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from saccade import api
from saccade.paper import TABLES, Cell
from saccade.report.tables import Link, Table, spread, to_markdown
from saccade.training.folder import configuration, read_facts, settled, surroundings, write_json

HERE = Path(__file__).parent


def page(scale: str) -> str:
    """Mean over seeds of each cell's layers, as Markdown."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((HERE / "moved" / scale).glob("*.json")):
        one = json.loads(path.read_text())
        found.setdefault(one["cell"], []).append(one)
    cells: list[Cell] = [cell for cell in TABLES["table1"].cells if cell.name in found]
    rows = []
    for cell in cells:
        layers = zip(*(one["moved"] for one in found[cell.name]), strict=True)
        link = f"../results/moved/{scale}/{cell.name}-seed{found[cell.name][0]['seed']}.json"
        rows.append([*cell.row[1:], *(Link(spread(values), link) for values in layers)])
    header = ["learning", "update", *(f"layer {k}" for k in range(1, len(rows[0]) - 1))]
    kinds = ", ".join(dict.fromkeys(cell.column for cell in cells))
    caption = (
        f"How far learning moved the layers of Table 1's encoders ({kinds}, {scale} scale): distance of a layer's weights at the "
        "end from those at the start, in units of the latter's norm"
    )
    last = found[cells[-1].name][-1]
    said = (
        f"`python results/moved.py --runs runs/table1/{scale}`, {last['date'][:10]}, {last['hardware']['processor']}."
    )
    return f"{to_markdown(Table(header, rows, caption, digits=2))}\n{said}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/table1/small"))
    given = parser.parse_args()
    for run in sorted(given.runs.glob("hinge-*-seed*")):
        path = HERE / "moved" / given.runs.name / f"{run.name}.json"
        if path.exists() or not (run / "run.json").exists() or not read_facts(run).get("finished"):
            continue
        start, end = (api.load_encoder(run, initial=initial).state_dict() for initial in (True, False))
        moved = [float((end[name] - start[name]).norm() / start[name].norm()) for name in start]
        cell, _, seed = run.name.rpartition("-seed")
        facts = {"cell": cell, "seed": int(seed), "moved": moved, "config": settled(configuration(run))}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts | surroundings())
