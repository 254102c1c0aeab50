"""Table 1's encoders under the exact probe: python results/exact.py --runs runs/table1/tiny

The probe of a scaled-down table has few epochs, and so scores how easily features are read as well as what is in them.
This one is brought to its optimum (`fit_exact`, features pooled to at most 4,096). Every finished run in the folder is
scored on the same pictures as in the table; of each seed also the encoder as it starts. Writes a file a score into
results/exact, named by the scale, and leaves out those that are there.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from saccade import api
from saccade.data import load
from saccade.paper import TABLES
from saccade.paper.scales import CIFAR
from saccade.report.paired import differences
from saccade.report.tables import Table, number_text, spread, to_markdown
from saccade.training.folder import configuration, read_json, settled, surroundings, write_json
from saccade.training.folder import differences as changes

HERE = Path(__file__).parent


def page(scale: str) -> str:
    """Beside the table's own probe, and each cell less the random encoder seed by seed, as Markdown."""
    rows = []
    found: dict[str, dict[int, float]] = {}
    trained: dict[tuple[str, int], dict[str, Any]] = {}  # the configurations of the encoders that were scored
    for path in (HERE / "exact" / scale).glob("*.json"):
        one = json.loads(path.read_text())
        found.setdefault(one["cell"], {})[one["seed"]] = one["probe"]["accuracy"]
        trained[one["cell"], one["seed"]] = one.get("config", {})
        said = (
            f"`python results/exact.py --runs runs/table1/{scale}`, {one['date'][:10]}, {one['hardware']['processor']}."
        )
    for cell in TABLES["table1"].cells:
        if not (seeds := found.get(cell.name)):
            continue
        paths = (HERE / "table1" / scale / f"{cell.name}-seed{seed}.json" for seed in seeds)
        table = [json.loads(path.read_text()) for path in paths if path.exists()]
        for one in table:
            if changed := changes(trained.get((cell.name, one["seed"]), {}), one["config"]):
                raise SystemExit(f"The exact probe of {cell.name}, seed {one['seed']}, saw another encoder: {changed}.")
        short = [one["accuracy"] for one in table]
        gain = differences([value - found["random"][seed] for seed, value in seeds.items()])
        low, high = gain.interval or (None, None)
        between = f" [{number_text(low, 2)}, {number_text(high, 2)}]" if low is not None and high is not None else ""
        rows.append(
            [
                " ".join(filter(None, (*cell.row, "" if cell.name == "random" else f"({cell.column})"))),
                spread(short) if short else None,
                spread(seeds.values()),
                f"{gain.mean:+.2f}{between}" if cell.trained else "",
            ]
        )
    header = ["encoder", "the table's probe", "exact probe", "exact, less the random encoder"]
    caption = (
        f"Test accuracy (%) of Table 1's encoders at {scale} scale under two probes: the table's, Adam for "
        f"{CIFAR[scale].probe_epochs} epochs, and one brought to its optimum on features pooled to at most 4,096; mean "
        "and standard deviation over seeds, difference with its 95 % interval, paired by seed"
    )
    return f"{to_markdown(Table(header, rows, caption, digits=2))}\n{said}\n" if rows else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/table1/tiny"))
    parser.add_argument("--cells", default="hinge-", help="cells whose names hold this")
    given = parser.parse_args()
    scale = CIFAR[given.runs.name]
    train, test = load(scale.sets[1]), load(scale.sets[2])
    out = HERE / "exact" / scale.name
    out.mkdir(parents=True, exist_ok=True)
    for run in sorted(given.runs.glob("*-seed*"), key=lambda path: path.name.rpartition("-seed")[::-1]):
        cell, _, seed = run.name.rpartition("-seed")
        finished = (run / "run.json").exists() and read_json(run / "run.json").get("finished")
        if not finished or not re.search(given.cells, cell):
            continue
        for name, initial in ((cell, False), ("random", True)):
            path = out / f"{name}-seed{seed}.json"
            if path.exists():
                continue
            [found] = api.probe(run, train, test, initial=initial, seed=int(seed))
            facts = {"cell": name, "scale": scale.name, "seed": int(seed), "probe": found.as_dict()}
            if not initial:
                facts["config"] = settled(configuration(run))
            write_json(path, facts | surroundings())
            print(path.name, found.accuracy, flush=True)
