"""Render the figures and tables of the README and docs/paper.md from the JSON files in this folder: `python results/render.py`."""

import json
import re
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import alignment
import exact
import moved
import ranks

from saccade.data import load
from saccade.paper import FIGURES, TABLES, Cell, PaperTable, Scale, results
from saccade.paper.audits import audited
from saccade.paper.results import Found, comparisons, corruptions, drawn
from saccade.paper.results import found as kept
from saccade.paper.scales import CIFAR, scaled
from saccade.paper.tables import CONSTRAINED
from saccade.plausibility.verdict import Report
from saccade.quickstart import as_bars, as_table
from saccade.report.audit import circuit_section, matrix, plausibility_against_performance
from saccade.report.page import Svg
from saccade.report.paired import differences
from saccade.report.tables import Link, Table, spread, to_markdown
from saccade.sweep import Probe
from saccade.sweep import table as sweep_table

HERE = Path(__file__).parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"

FIGURE = """\
`saccade audit --all` runs each configuration of the paper's Tables 1 and 2 and finds which of the paper's four conditions of
biological plausibility it violates ([how, and the verdicts](docs/audit.md)).

![Accuracy over the number of violated conditions](docs/plausibility.svg)

Bars at our accuracies: one standard deviation over seeds.
"""


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
        f"Test accuracy (%) on CIFAR-10 of a probe on encoders that saw {pairs:,} pairs of views ({first['config']['views']}) "
        "of CIFAR-100, a scaled-down run: the paper trains on 20 million. Probe: Adam, 30 epochs, 45,000 images, features pooled to at "
        "most 8,192 a layer."
    )
    commands = " and ".join(dict.fromkeys(f"`{run['command']}`" for run in found))
    said = f"{commands}, {first['date'][:10]}, {hardware(first)}. {first['choice']}"
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


def put(path: Path, parts: list[str], begin: str = BEGIN, end: str = END) -> None:
    """The parts between a file's two marks."""
    before, _, rest = path.read_text().partition(begin)
    path.write_text(before + begin + "\n" + "\n".join(parts) + end + rest.partition(end)[2])


def rules(found: dict[str, Any]) -> str:
    """What `saccade sweep` told of its runs."""
    made = list(found["runs"].values())
    text = to_markdown(sweep_table(found["varied"], made, Probe(*made[0]["probe"])))
    return f"{text}\n`{found['command']}`, {found['date'][:10]}, {hardware(found)}.\n"


def circuit(found: list[dict[str, Any]]) -> str:
    """The circuit against the batch loss, and their differences seed by seed."""
    first = found[0]
    rows: list[list[Any]] = []
    for way, scores in first["accuracy"].items():
        rows.append([way, *(spread(run["accuracy"][way][what] for run in found) for what in scores)])
    both = [[run["accuracy"][way] for run in found] for way in ("batch loss", "circuit, image after image")]
    less = [spread(c[what] - b[what] for b, c in zip(*both, strict=True)) for what in ("embedding", "features")]
    rows.append(["circuit less batch loss, seed by seed", *less])
    caption = (
        "Test accuracy (%) on 500 deformed handwritten digits of probes fitted on 1,297 plain ones: of the embedding that the "
        "output layer gives, and of the features below it"
    )
    config = first["config"]
    shown = ", ".join(f"{name} {config[name]}" for name in ("schedule", "rule", "optimizer", "rate", "epochs", "batch"))
    table = to_markdown(Table(["", "embedding", "features"], rows, caption))
    return (
        f"{table}\n`{first['command']}`, {first['date'][:10]}, {hardware(first)}. Network `{config['network']}`, head "
        f"`{config['head']}`, `{config['loss']}`; {shown}.\n"
    )


def audits(made: dict[str, Any]) -> str:
    """Verdicts beside the accuracies that there are now, the figure of both, and the circuit's."""
    reports = {key: Report.from_dict(one["audit"]) for key, one in made["audits"].items() if one["audit"]}
    found = audited(HERE, reports)
    docs = HERE.parent / "docs"
    (docs / "plausibility.svg").write_text(plausibility_against_performance(found))
    for name, block in zip(("circuit", "circuit-activity"), circuit_section().blocks, strict=True):
        (docs / f"{name}.svg").write_text(block.svg)
    said = f"`{made['command']}`, {made['date'][:10]}, {hardware(made)}; accuracies: the JSON files under `results/`."
    return f"{to_markdown(matrix(found, 'What each configuration of the tables meets'))}\n{said}\n"


def table1() -> str:
    """Table 1 at the largest scale that has results; its numbers lead there."""
    table = TABLES["table1"]
    scale, have = next((one, have) for one in table.scales.values() if any((have := kept(table, one, HERE)).values()))
    longer = kept(table, scaled(table.scales, scale.name, probe_epochs=400), HERE)
    gained, longer_gained = (
        [
            fmean(row["accuracy"] for row in rows) - fmean(row["accuracy"] for row in made["random"])
            for rows in made.values()
            if rows
        ]
        for made in (have, longer)
    )
    more = (
        f"These are no ranking to cite: {sum(gain < 0 for gain in gained)} of the {len(gained) - 1} trained encoders are below the "
        f"random one in the mean, and under the paper's own probe, of 400 epochs, none of the {len(longer_gained) - 1} that "
        f"have been given it is more than {max(longer_gained):.1f} points above it. "
        "[docs/paper.md](docs/paper.md) has all tables and figures, at other scales too, and what can be said of them."
    )
    # By way of docs: the documentation's site takes the README in, and finds what is there.
    links = partial(_result, table, scale, have, home="docs/../results")
    ours = results(table.at(scale), scale, have, links=links)
    return f"### Table 1, {scale.name} scale\n\n{to_markdown(ours)}\n{more}\n"


def paper() -> str:
    """All that there are results of, table by table and scale by scale, and the figures, which go to docs/paper."""
    folder = HERE.parent / "docs" / "paper"
    folder.mkdir(exist_ok=True)
    parts = []
    for whole in TABLES.values():
        for scale in scales_of(whole):
            table = whole.at(scale)
            if scale in changed(whole):
                continue
            have = kept(table, scale, HERE)
            if not any(have.values()):
                continue
            parts.append(f"## {spaced(table.name)}, {scale.name} scale\n")
            links = partial(_result, table, scale, have)
            more = [*comparisons(table, scale, have, links=links), corruptions(table, scale, have, links=links)]
            parts += [to_markdown(one) for one in (results(table, scale, have, links=links), *more) if one is not None]
            for name, figure in drawn(table, scale, have).items():
                parts.append(_figure(folder, f"{name}-{scale.name}", figure))
    for name in ("figure3", "figure4"):
        parts.append(f"## {spaced(name)}\n")
        drawings = FIGURES[name].make(CIFAR["tiny"], load)
        parts += [_figure(folder, each, figure) for each, figure in drawings.items() if isinstance(figure, Svg)]
    text = "\n".join(parts)
    for drawing in folder.glob("*.svg"):
        if f"](paper/{drawing.name})" not in text:  # of results that are gone
            drawing.unlink()
    return text


def changed(table: PaperTable) -> list[Scale]:
    """The scales of Table 1 with other views, pairs, rate, batch or pictures of the probe, which have a table of their own: `readings`."""
    if table.name != "table1":
        return []
    own = {"views", "pairs", "rate", "batch", "probe_batch", "probe_set"}
    return [scale for scale in scales_of(table) if _options(scale) <= _READ and _options(scale) & own]


# What tells the rows of `readings` apart.
_READ = {"small", "views", "pairs", "rate", "batch", "probe_epochs", "probe_batch", "probe_set"}


def _options(scale: Scale) -> set[str]:
    return {part.partition("=")[0] for part in scale.name.split(",")}


def readings() -> str:
    """Table 1's cells, as the views, the inputs, the number of pairs, the rate, the batch and the probe change, and the table as it is."""
    table, plain = TABLES["table1"], CIFAR["small"]
    few = [cell for cell in table.cells if cell.column == CONSTRAINED]
    cells = [cell for cell in table.cells if cell.name == "random"] + few
    scales = [one for one in scales_of(table) if _options(one) <= _READ]
    have = {scale.name: kept(table, scale, HERE) for scale in scales}
    cells = [cell for cell in cells if any(have[scale.name][cell.name] for scale in changed(table))]
    rows = []
    for scale in sorted(scales, key=lambda one: (one.probe_epochs, one.pairs, -one.rate, one.views, one.probe_batch)):
        found = have[scale.name]
        rate = f"{scale.rate:g}, batch {scale.batch}" if scale.batch != plain.batch else f"{scale.rate:g}"
        batch = f", batch {scale.probe_batch}" if scale.probe_batch != plain.probe_batch else ""
        fitted = f", on {scale.sets[1]}" if scale.sets != plain.sets else ""
        row: list[Any] = [scale.views, scale.pairs, rate, f"{scale.probe_epochs} epochs{batch}{fitted}"]
        for cell in cells:
            scores = [one["accuracy"] for one in found[cell.name]]
            row.append(Link(spread(scores), _result(table, scale, found, cell)) if scores else None)
        rows.append(row)
    header = ["views", "pairs", "rate", "probe", *(" ".join(filter(None, cell.row)) for cell in cells)]
    caption = (
        "Test accuracy (%) of Table 1's cells (hinge: gradient block, 5 negatives) at small scale under other views, with inputs "
        "standardized, for more pairs, at another rate or batch, and under other probes"
    )
    note = (
        f"The probe learns from {plain.sets[1]} in batches of {plain.probe_batch} unless the row says otherwise. An encoder that sees "
        "standardized pictures is probed on such, a random one too."
    )
    return f"{to_markdown(Table(header, rows, caption, [note], digits=2))}\n"


def gains() -> str:
    """What the hinge's cells of Table 1 add to the random encoder: published and ours, by the probe and the views."""
    table = TABLES["table1"]
    scales = {scale.name: scale for scale in scales_of(table)}
    titles = {
        "small": "probe of 30 epochs",
        "small,probe_epochs=400": "the paper's probe",
        "small,views=affine-hsv,probe_epochs=400": "the paper's probe, the authors' views",
    }
    have = {name: kept(table, scales[name], HERE) for name in titles if name in scales}
    [least] = [cell.published for cell in table.cells if cell.name == "random"]
    made = []
    for kind in table.columns:
        cells = [cell for cell in table.cells if cell.published and cell.negatives == kind and cell.row[2] != "URF"]
        used = [name for name, found in have.items() if any(found[cell.name] for cell in cells)]
        rows: list[list[Any]] = []
        for cell in cells:
            row: list[Any] = [" ".join(cell.row[1:]), round(cell.published - least, 2)]
            for name in used:
                start = {one["seed"]: one["accuracy"] for one in have[name]["random"]}
                more = [one["accuracy"] - start[one["seed"]] for one in have[name][cell.name] if one["seed"] in start]
                row.append(Link(differences(more), _result(table, scales[name], have[name], cell)) if more else None)
            rows.append(row)
        caption = (
            f"Points that learning adds to the random encoder; hinge, {kind}. Ours at small scale, a 200th of the paper's pairs: "
            "paired by seed, with the 95 % interval where there are several seeds"
        )
        header = ["learning", "published", *(titles[name] for name in used)]
        made.append(to_markdown(Table(header, rows, caption, digits=2)))
    return "\n".join(made)


def cost() -> str:
    """How long Table 1 at small took, one seed by one command: the whole, the hinge's cells, and each cell's training."""
    table, span = TABLES["table1"], json.loads((HERE / "timed" / "span.json").read_text())
    made = {name: rows[0] for name, rows in kept(table, table.scales["small"], HERE / "timed").items() if rows}
    began = datetime.fromisoformat(span["started"])
    hinge = [datetime.fromisoformat(row["date"]) for name, row in made.items() if name.startswith("hinge")]
    minutes = {name: row["run"]["seconds"] / 60 for name, row in made.items() if "seconds" in row["run"]}
    rows: list[list[Any]] = []
    for row in dict.fromkeys(cell.row for cell in table.cells):
        cells = {cell.column: cell.name for cell in table.cells if cell.row == row}
        if any(name in minutes for name in cells.values()):
            rows.append([*row, *(minutes.get(cells.get(column, ""), "") for column in table.columns)])
    first = next(iter(made.values()))
    caption = (
        f"Table 1 at small scale by one command, one seed: {len(hinge)} cells of the hinge, with their probes, were done after "
        f"{(max(hinge) - began).total_seconds() / 60:.0f} minutes, all {len(made)} after {span['seconds'] / 60:.0f}. In the table: "
        "minutes that each cell's training took, of one core, with another cell on the other"
    )
    said = f"`{span['command']}`, {span['ended'][:10]}, {hardware(first)}, in {first['run']['precision']}."
    return f"{to_markdown(Table([*table.names, *table.columns], rows, f'{caption}.', digits=1))}\n{said}\n"


def _result(table: PaperTable, scale: Scale, have: Found, cell: Cell, home: str = "../results") -> str:
    """The path, from docs or from where the results are at `home`, of a cell's first result: it holds its configuration."""
    return f"{home}/{table.name}/{scale.name}/{cell.name}-seed{have[cell.name][0]['seed']}.json"


def spaced(name: str) -> str:
    """table1 as Table 1, supplement-c as Supplement C."""
    return re.sub(r"(?<=[a-z])(?=[0-9])", " ", name).replace("-", " ").title()


def scales_of(table: PaperTable) -> list[Scale]:
    """A table's scales, and those with changes that have a folder of results."""
    folders = sorted(path.name for path in (HERE / table.name).glob("*") if path.name not in table.scales)
    changed = []
    for name in folders:
        first = next((HERE / table.name / name).glob("*.json"), None)
        if first is None:  # of a command that was stopped before its first cell was done
            continue
        facts = json.loads(first.read_text())["scale"]
        changed.append(
            Scale(**{key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()})
        )
    return [*table.scales.values(), *changed]


def _figure(folder: Path, name: str, figure: Svg) -> str:
    (folder / f"{name}.svg").write_text(figure.svg)
    return f"![{figure.caption}](paper/{name}.svg)\n\n{figure.caption}\n"


def render() -> None:
    trust = [(kills, HERE / "trust" / "kills.json"), (fuzz, HERE / "trust" / "fuzz.json")]
    put(
        HERE.parent / "docs" / "trust.md",
        [write(json.loads(path.read_text())) for write, path in trust if path.exists()],
    )
    put(HERE.parent / "docs" / "distributed.md", [ranks.page()])
    parts = []
    if (path := HERE / "quickstart.json").exists():
        parts.append(quickstart(json.loads(path.read_text())))
    if paths := sorted((HERE / "cifar").glob("seed*.json")):
        parts.append(cifar([json.loads(path.read_text()) for path in paths]))
    parts.append(table1())
    about = HERE.parent / "docs" / "audit.md"
    if (path := HERE / "audit.json").exists():
        put(about, [audits(json.loads(path.read_text()))], "<!-- audits -->", "<!-- end of audits -->")
        parts.append("### Plausibility against performance\n\n" + FIGURE)
    if paths := sorted((HERE / "circuit").glob("seed*.json")):
        text = circuit([json.loads(path.read_text()) for path in paths])
        put(about, [text], "<!-- circuit -->", "<!-- end of circuit -->")
    put(HERE.parent / "README.md", parts)
    about = HERE.parent / "docs" / "paper.md"
    put(about, [alignment.page()], "<!-- alignment -->", "<!-- end of alignment -->")
    put(about, [moved.page("small")], "<!-- moved -->", "<!-- end of moved -->")
    put(about, [exact.page("small")], "<!-- exact -->", "<!-- end of exact -->")
    put(about, [gains()], "<!-- gains -->", "<!-- end of gains -->")
    put(about, [readings()], "<!-- readings -->", "<!-- end of readings -->")
    if (path := HERE / "rules.json").exists():
        text = rules(json.loads(path.read_text()))
        put(HERE.parent / "docs" / "guide" / "rules.md", [text], "<!-- rules -->", "<!-- end of rules -->")
    put(HERE.parent / "docs" / "guide" / "reproducing.md", [cost()], "<!-- cost -->", "<!-- end of cost -->")
    put(about, [paper()])


if __name__ == "__main__":
    render()
