"""What a folder of results holds of a table: beside the published numbers, compared, drawn, and as a page."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import yaml

from ..files import make_folder, write_whole
from ..report import figures
from ..report.page import Block, Code, Facts, Section, Svg, Text, write_page
from ..report.paired import Paired, differences, holm
from ..report.tables import Cell as Entry
from ..report.tables import Link, Spread, Table, plain, spread, to_csv, to_latex, to_markdown
from ..training.folder import timed
from .run import checked
from .scales import Scale
from .scores import MANY, VEHICLES, config_of
from .tables import Cell, PaperTable

Found = dict[str, list[dict[str, Any]]]  # the results of each cell, seed by seed
Points = list[tuple[float, Spread]]  # of a line of a figure
Series = dict[str, Points]
Links = Callable[[Cell], str]  # the relative path that a cell's numbers lead to: the configuration of its runs


def found(table: PaperTable, scale: Scale, out: Path) -> Found:
    """The results that `out` holds of a table at a scale. Raises InputError for one that is of another scale, or none."""
    by_cell: Found = {}
    for cell in table.cells:
        paths = (out / table.name / scale.name).glob(f"{cell.name}-seed*.json")
        rows = [
            checked(path, table, cell, scale)
            for path in paths
            if path.stem.removeprefix(f"{cell.name}-seed").isdecimal()
        ]
        by_cell[cell.name] = sorted(rows, key=lambda row: row["seed"])
    return by_cell


def results(table: PaperTable, scale: Scale, have: Found, *, links: Links | None = None) -> Table:
    """Ours beside the published numbers; what is missing is shown as missing, what neither has is left blank.

    `links` says where a cell's numbers lead to.
    """
    columns = table.columns_at(scale)
    same = _same_pictures(table, scale)
    published = {cell.column for cell in table.cells if cell.published is not None}
    # A measure that no cell's pictures can have, such as of vehicles among digits, is not missing.
    measured = {name for rows in have.values() for row in rows for name in row.get("scores", {})}
    inners = [name for name in table.rows if name in measured] or table.rows or (None,)
    header = [*table.names]
    for column in columns:
        header += [column, *(["published", *(["difference"] if same else [])] if column in published else [])]
    rows = []
    for row in dict.fromkeys(cell.row for cell in table.cells):
        cells = [cell for cell in table.cells if cell.row == row]
        for inner in inners:
            line: list[Entry] = [*row] if inner is None else [*row, inner]
            for column in columns:
                cell = next((c for c in cells if c.column in (column, "")), None)
                values = [] if cell is None else _values(have[cell.name], column, inner)
                ours = spread(values) if values else None
                line.append("" if cell is None else _linked(ours, cell, links))
                if column in published:
                    mark = cell.published if cell else None
                    line.append("" if mark is None else mark)
                    if same:
                        off = [] if mark is None else [value - mark for value in values]
                        line.append("" if mark is None else _linked(differences(off) if off else None, cell, links))
            rows.append(line)
    caption = f"{table.caption}. Ours at {scale.said(table.measure)}{_with_labels(table, scale)}{_precision(have)}"
    if published:
        caption += "; published: at the paper's scale"
        caption += (
            ". Difference: ours minus published, with its 95 % interval over seeds" if same else ", on its pictures"
        )
    return Table(header, rows, f"{caption}.", [*table.notes, *_unlike(have)], digits=table.digits)


def _same_pictures(table: PaperTable, scale: Scale) -> bool:
    """Whether a scale scores on the paper's pictures: accuracies on others, or on some classes of them, have no published
    ones to be held against. A slice of them is taken for all."""
    theirs = table.scales["paper"]
    ours, published = (one.sets[2].partition("[")[0] for one in (scale, theirs))
    return (ours, scale.test_views) == (published, theirs.test_views)


def _unlike(have: Found) -> list[str]:
    """A note that names the test images of which the results' hashes differ, if there are any."""
    hashes: dict[str, set[str]] = {}
    for row in chain.from_iterable(have.values()):
        made = row.get("images")  # of a map of embeddings it is their number
        for name, digest in made.items() if isinstance(made, dict) else ():
            hashes.setdefault(name, set()).add(digest)
    if names := [name for name, found in hashes.items() if len(found) > 1]:
        return [
            f"Not the same images to the bit in all rows, since processors or versions round otherwise: {', '.join(names)}."
        ]
    return []


def _precision(have: Found) -> str:
    """The arithmetic of the runs that there are, in a caption: of most, then of which cells or seeds of them another."""
    used: dict[str, dict[str, list[str]]] = {}
    for name, rows in have.items():
        for row in rows:
            if kind := row["run"].get("precision"):
                used.setdefault(kind, {}).setdefault(name, []).append(str(row["seed"]))
    most, *others = sorted(used, key=lambda kind: -sum(map(len, used[kind].values()))) or [""]
    trained = {name for cells in used.values() for name in cells}
    exceptions = ""
    for kind in others:
        names = [
            name if len(seeds) == len(have[name]) else f"{name} (seed {', '.join(seeds)})"
            for name, seeds in used[kind].items()
        ]
        if used[kind].keys() == trained and len(alike := set(map(tuple, used[kind].values()))) == 1:
            names = [f"seed {', '.join(*alike)}"]
        exceptions += f", of {', '.join(names)} in {kind}"
    return f"; arithmetic in {most}{exceptions}" if used else ""


def _with_labels(table: PaperTable, scale: Scale) -> str:
    """How the table's networks with labels are trained, which the paper does not say, in its caption."""
    cells = [cell for cell in table.cells if cell.supervised]
    if not cells:
        return ""
    rate = config_of(cells[0], scale, 0, MANY).rate
    fewer = ", as many steps on fewer pictures" if scale.sizes else ""
    return (
        f"; networks with labels: {scale.supervised_epochs:g} epochs of {scale.sets[1]}{fewer}, batch {scale.batch}, rate "
        f"{rate:g}, plain pictures unless the row says otherwise"
    )


def _linked(entry: Spread | Paired | str | None, cell: Cell | None, links: Links | None) -> Entry:
    return entry if entry is None or cell is None or links is None else Link(entry, links(cell))


def _values(rows: list[dict[str, Any]], column: str, inner: str | None) -> list[float]:
    """One number a seed: of a cell's own column its accuracy, else the score of that name."""
    values = (_value(row, column, inner) for row in rows)
    return [value for value in values if value is not None]


def _value(row: dict[str, Any], column: str, inner: str | None = None) -> float | None:
    scores = row.get("scores")
    if scores is not None and inner is not None:
        scores = scores.get(inner, {})
    value = row.get("accuracy") if scores is None else scores.get(column)
    return None if value is None else float(value)


def accuracies(table: PaperTable, scale: Scale, out: Path) -> dict[str, Spread]:
    """Mean and deviation of each cell's accuracy, for those that have results."""
    have = found(table, scale, out)
    return {name: spread([row["accuracy"] for row in rows]) for name, rows in have.items() if rows}


def comparisons(table: PaperTable, scale: Scale, have: Found, *, links: Links | None = None) -> list[Table]:
    """The comparisons that the table lists, one table a family that has any results: paired tests over seeds."""
    cells = {cell.name: cell for cell in table.cells}
    made = []
    for column, (family, pairs) in product(table.compared_in(scale), table.compared.items()):
        tests = []
        for names in pairs:
            this, that = (
                {row["seed"]: value for row in have[name] if (value := _value(row, column)) is not None}
                for name in names
            )
            seeds = sorted(this.keys() & that.keys())
            tests.append(differences([this[s] - that[s] for s in seeds]) if seeds else None)
        if not any(tests):
            continue
        same = _same_pictures(table, scale) and any(cells[one].published for one, _ in pairs)
        adjusted = holm([test.p if test else None for test in tests])
        rows = []
        for (one, other), test, corrected in zip(pairs, tests, adjusted, strict=True):
            row = [_linked(_label(cells[name]), cells[name], links if have[name] else None) for name in (one, other)]
            theirs = _published_difference(cells[one], cells[other])
            against: list[Entry] = []
            if same:
                against = [
                    "" if theirs is None else theirs,
                    None if test is None else _agreement(test, corrected, theirs),
                ]
            if test is None:
                row += [None, None, *against, None, None, None]
            else:
                p_values = ("" if p is None else p for p in (test.p, corrected, test.exact))  # one seed gives none
                row += [test.n, _linked(test, cells[one], links), *against, *p_values]
            rows.append(row)
        notes = [
            f"A fixed list of {len(pairs)} comparisons, paired by seed. p: Student's t on the differences, which it takes to "
            f"be normal; Holm's correction is for all {len(pairs)} of this family, run or not."
        ]
        if exact := [2 / 2**test.n for test in tests if test and test.exact is not None]:
            notes[0] += (
                f" Sign flips take them to be symmetric about 0 and no more, and with so few seeds cannot give less than {min(exact):g}."
            )
        if same:
            notes[0] += (
                " Direction: decided where p after Holm's correction is at most 0.05; as published where the published "
                "difference lies in the interval, too, else larger or smaller on the same side, or opposite."
            )
        header = [
            "this",
            "against",
            "seeds",
            "difference (points)",
            *(["published", "direction"] if same else []),
            "p",
            "p, Holm",
            "p, sign flips",
        ]
        what = f"{column}: {family}" if column else family
        made.append(Table(header, rows, f"Comparisons: {what}, {scale.name} scale.", notes, digits=2))
    return made


def _published_difference(one: Cell, other: Cell) -> float | None:
    if one.published is None or other.published is None:
        return None
    return round(one.published - other.published, 2)


def _agreement(test: Paired, p: float | None, theirs: float | None) -> str:
    """How ours stands to the published difference, if the corrected `p` decides on which side of 0 it lies."""
    if theirs is None or test.n < 2:
        return ""
    if p is None or p > 0.05 or test.interval is None:
        return "undecided"
    if test.mean * theirs < 0:
        return "opposite"
    if test.interval[0] <= theirs <= test.interval[1]:
        return "as published"
    return "larger" if abs(test.mean) > abs(theirs) else "smaller"


def drawn(table: PaperTable, scale: Scale, have: Found) -> dict[str, Svg]:
    """The table's figures, by file name, from its results."""
    cells = [cell for cell in table.cells if have[cell.name]]
    if not cells:
        return {}
    draw = {"margins": _margins, "curve": _curves, "layers": _layers, "separation": _maps, "tested": _strengths}
    return draw[table.measure](table, scale, cells, have) if table.measure in draw else {}


def _label(cell: Cell, known: str = "") -> str:
    """What the cell's row says, but for what is `known`."""
    return ", ".join(part.removesuffix(f", {known}") for part in cell.row if part not in ("", known))


def _by_negatives(every: Iterable[tuple[Cell, Points]]) -> dict[str, Series]:
    """The cells' lines, in a panel for each kind of negatives where there are several; what has none, such as the random
    encoder, is in all of them."""
    lines = [(cell, points) for cell, points in every if points]
    titles = dict.fromkeys(cell.negatives for cell, _ in lines if cell.negatives)
    if len(titles) < 2:
        return {"": {_label(cell): points for cell, points in lines}}
    return {
        title: {_label(cell, title): points for cell, points in lines if cell.negatives in (title, "")}
        for title in titles
    }


def _margins(table: PaperTable, scale: Scale, cells: Sequence[Cell], have: Found) -> dict[str, Svg]:
    first = {cell.row[0]: have[cell.name][0] for cell in cells}
    panels = {
        f"views: {name}": (row["quantiles"]["positives"], row["quantiles"]["negatives"]) for name, row in first.items()
    }
    margins = next(iter(first.values()))
    caption = f"{table.caption}: seed {margins['seed']}, batches of {margins['config']['batch']}; {scale.name} scale."
    return {table.name: Svg(figures.pair_histograms(panels, margins["m1"], margins["m2"]), caption)}


def _curves(table: PaperTable, scale: Scale, cells: Sequence[Cell], have: Found) -> dict[str, Svg]:
    made: dict[str, Svg] = {}
    for loss in dict.fromkeys(cell.row[-1] for cell in cells):
        series = {
            ", ".join(cell.row[:2]): [(at, value) for at, value in have[cell.name][0]["points"]]
            for cell in cells
            if cell.row[-1] == loss
        }
        caption = f"Training loss an image against epochs; hinge, {loss}; first seed; {scale.said(table.measure)}."
        name = table.name if not made else f"{table.name}-{len(made) + 1}"
        made[name] = Svg(figures.loss_curve(series, "epoch", "loss"), caption)
    return made


def _layers(table: PaperTable, scale: Scale, cells: Sequence[Cell], have: Found) -> dict[str, Svg]:
    columns = table.columns_at(scale)
    panels = _by_negatives(
        (cell, [(float(k), spread(_values(have[cell.name], name, None))) for k, name in enumerate(columns, 1)])
        for cell in cells
    )
    caption = f"{table.caption}; {scale.said(table.measure)}.{_bands(panels)}"
    return {table.name: Svg(figures.panels(panels, "layer", "test accuracy (%)"), caption)}


def _maps(table: PaperTable, scale: Scale, cells: Sequence[Cell], have: Found) -> dict[str, Svg]:
    made = {}
    for cell in cells:
        row = have[cell.name][0]
        if row.get("map"):
            svg = figures.maps(row["map"], row["labels"], row["classes"], VEHICLES)
            caption = (
                f"t-SNE of the embeddings of {row['images']:,} test images at every layer: {_label(cell)}, seed {row['seed']}; "
                f"squares in cold colours are vehicles; {scale.name} scale."
            )
            made[f"{table.name}-{cell.name}"] = Svg(svg, caption)
    for measure in table.rows:
        panels = _by_negatives(
            (
                cell,
                [
                    (float(k), spread(values))
                    for k, name in enumerate(table.columns_at(scale), 1)
                    if (values := _values(have[cell.name], name, measure))
                ],
            )
            for cell in cells
        )
        if any(panels.values()):
            name = f"{table.name}-{measure.lower().replace(', ', '-').replace(' ', '-')}"
            made[name] = Svg(
                figures.panels(panels, "layer", measure),
                f"{measure} against layer; {scale.name} scale.{_bands(panels)}",
            )
    return made


def _strengths(table: PaperTable, scale: Scale, cells: Sequence[Cell], have: Found) -> dict[str, Svg]:
    made = {}
    for size in _sizes(have, cells):
        panels = _by_negatives(
            (
                cell,
                [
                    (float(at), spread([row["curve"][at][size] for row in have[cell.name]]))
                    for at in have[cell.name][0]["curve"]
                ],
            )
            for cell in cells
        )
        if any(panels.values()):
            caption = (
                f"Test accuracy against the strength of the test images' deformation, classifiers fitted on {int(size):,} "
                f"pictures, plain unless the row says otherwise; {scale.name} scale.{_bands(panels)}"
            )
            made[f"{table.name}-strength-{size}"] = Svg(
                figures.panels(panels, "strength", "test accuracy (%)"), caption
            )
    return made


def _bands(panels: dict[str, Series]) -> str:
    several = any(value.n > 1 for series in panels.values() for points in series.values() for _, value in points)
    return " Bands: one standard deviation over seeds." if several else ""


def _sizes(have: Found, cells: Sequence[Cell]) -> list[str]:
    """The sizes of the training set that the results have scores for."""
    return list(next(iter(have[cells[0].name][0]["curve"].values()), {}))


def corruptions(table: PaperTable, scale: Scale, have: Found, *, links: Links | None = None) -> Table | None:
    """Accuracy under each common corruption at each severity, for classifiers fitted on the most pictures, if there is any."""
    rows: list[list[Entry]] = []
    for cell in table.cells:
        for name in have[cell.name][0].get("corruptions", {}) if have[cell.name] else ():
            by_severity: dict[str, list[float]] = {}
            for row in have[cell.name]:
                for severity, scores in row["corruptions"][name].items():
                    by_severity.setdefault(severity, []).append(scores[max(scores, key=int)])
            means = [sum(values) / len(values) for values in zip(*by_severity.values(), strict=True)]
            numbers = (_linked(spread(values), cell, links) for values in (*by_severity.values(), means))
            rows.append([_linked(_label(cell), cell, links), name, *numbers])
    if not rows:
        return None
    size = scale.sizes[-1]
    images = {row.get("corrupted", scale.corrupted) for cell in table.cells for row in have[cell.name]}
    caption = (
        f"Test accuracy (%) under common corruptions, by severity, of classifiers fitted on {size:,} pictures, plain "
        f"unless the row says otherwise; {max(images):,} test images; {scale.name} scale."
    )
    notes = ["Corruptions after Hendrycks and Dietterich (2019), those that torchvision can make."]
    return Table(["network", "corruption", *(f"severity {s}" for s in range(1, 6)), "mean"], rows, caption, notes)


def _configurations(table: PaperTable, have: Found) -> list[Section]:
    """Each cell that has results: its seeds, and the configuration of the first, or those of several training sets' sizes."""
    sections = []
    for cell in table.cells:
        if not (rows := have[cell.name]):
            continue
        seeds: dict[str, Any] = {}
        for row in rows:
            machine = row["hardware"]
            about = {
                "accuracy (%)": row.get("accuracy"),
                "command": row["command"],
                "date": row["date"],
                "machine": machine.get("gpu") or f"{machine['processor']}, {machine['threads']} thread(s)",
                "torch": row["versions"]["torch"],
                "source": row["source"].get("commit", "unknown") + ", changed" * bool(row["source"].get("changed")),
                **_training(row["run"]),
            }
            for size, one in row.get("by_size", {}).items():
                about |= {f"{name}, {int(size):,} pictures": value for name, value in _training(one["run"]).items()}
            seeds[f"seed {row['seed']}"] = {name: value for name, value in about.items() if value is not None}
        trained = rows[0].get("by_size") or {"": rows[0]}
        settings = [Code(yaml.safe_dump(one["config"], sort_keys=False)) for one in trained.values()]
        title = f"{_label(cell)}{', ' + cell.column if cell.column else ''} ({cell.name})"
        sections.append(Section(title, [Facts(seeds), *settings], f"cell-{cell.name}"))
    return sections


def _training(run: dict[str, Any]) -> dict[str, Any]:
    return {f"training, {timed(run)}": run.get("seconds"), "steps": run.get("steps")}


def write(table: PaperTable, scale: Scale, have: Found, folder: Path) -> Path:
    """Render a table into `folder`: its Markdown, CSV, LaTeX, its figures as SVG, and one HTML page, whose path is returned."""
    make_folder(folder)
    pictures = drawn(table, scale, have)

    def tables(page: str) -> dict[str, Table]:
        """Those with results, by file name; their links lead to a part of `page`."""

        def links(cell: Cell) -> str:
            return f"{page}#cell-{cell.name}"

        made = {table.name: results(table, scale, have, links=links)}
        for number, one in enumerate(comparisons(table, scale, have, links=links), 1):
            made[f"{table.name}-comparisons-{number}"] = one
        under = corruptions(table, scale, have, links=links)
        return made if under is None else made | {f"{table.name}-corruptions": under}

    for name, one in tables("page.html").items():
        for ending, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
            write_whole(folder / f"{name}.{ending}", render(one).encode())
    for name, svg in pictures.items():
        write_whole(folder / f"{name}.svg", svg.svg.encode())
    main, *more = tables("").values()
    blocks: list[Block] = [main]
    if any(have.values()):
        blocks.append(Text("A number leads to the configuration of its runs, below."))
    sections = [Section("Result", blocks)]
    if pictures:
        sections.append(Section("Figures", [*pictures.values()]))
    if more:
        sections.append(Section("Beyond the table", [*more]))
    sections += _configurations(table, have)
    page = folder / "page.html"
    return write_page(page, f"saccade reproduce {table.name}", f"{plain(table.caption)}; {scale.name} scale", sections)
