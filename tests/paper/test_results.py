"""What is rendered of results: numbers beside published ones, comparisons, what is missing, the page and its links."""

import csv
import json
import re
from dataclasses import asdict

import pytest

from saccade.errors import InputError
from saccade.paper import TABLES, accuracies, merge, results, scaled
from saccade.paper.results import _agreement, _values, comparisons, corruptions, drawn, write
from saccade.paper.results import found as kept
from saccade.paper.scales import CIFAR, ROBUST
from saccade.report import figures
from saccade.report.paired import differences
from saccade.report.tables import Link, Spread, spread

TABLE, SCALE = TABLES["table1"], CIFAR["tiny"]
ABOUT = {
    "command": "saccade reproduce table1",
    "date": "2026-01-01T00:00:00+00:00",
    "versions": {"torch": "2"},
    "hardware": {"processor": "a processor", "threads": 1},
    "source": {"commit": "abc"},
    "run": {"seconds": 1.5, "steps": 250},
    "config": {"network": "cifar", "data": "cifar100:train"},
}


def put(out, cell, *accuracy, more=(), **changes):
    """Results of a cell, one a seed, with changes of their scale and of anything else."""
    for seed, value in enumerate(accuracy):
        path = out / "table1" / "tiny" / f"{cell}-seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        scale = asdict(SCALE) | changes
        about = {"table": "table1", "cell": cell, "seed": seed, "accuracy": value, "scale": scale}
        path.write_text(json.dumps(about | ABOUT | dict(more)))


def test_ours_published_and_their_difference(tmp_path):
    put(tmp_path, "hinge-e2e-bp-full", 70.0, 71.0, 72.0)
    table = results(TABLE, SCALE, kept(TABLE, SCALE, tmp_path))
    assert table.header[:6] == ["loss", "learning", "update", "all negatives", "published", "difference"]
    ours, published, difference = table.rows[0][3:6]
    assert (ours, published) == (Spread(71.0, 1.0, 3), 71.44)
    assert difference.shown() == "-0.44 [-2.92, +2.04]"  # t(2) = 4.303 times 1 / sqrt(3)
    assert table.rows[0][6:9] == [None, 70.35, None]
    assert accuracies(TABLE, SCALE, tmp_path) == {"hinge-e2e-bp-full": Spread(71.0, 1.0, 3)}
    simclr, sgd = (
        next(row for row in table.rows if row[0:3:2] == pair) for pair in (["SimCLR", "BP"], ["hinge", "BP by SGD"])
    )
    assert simclr[3:] == [None, 72.44, None, "", "", ""]  # no such cell in the second column: not missing, but nothing
    assert sgd[3:] == [None, "", "", None, "", ""]  # none of it was published
    assert table.numeric() == [*[False] * 3, *[True] * 3, False, True, False]
    assert "tiny scale: 25,000 pairs" in table.caption and table.legend()[1] == "—: missing, no result yet."


def test_the_caption_says_which_cells_another_arithmetic_was_used_for(tmp_path):
    def said():
        caption = results(TABLE, SCALE, kept(TABLE, SCALE, tmp_path)).caption
        return caption.partition("; arithmetic in ")[2].partition("; published")[0]

    put(tmp_path, "hinge-e2e-bp-full", 70.0, 71.0, 72.0, more={"run": {"precision": "bfloat16"}})
    assert said() == "bfloat16"
    put(tmp_path, "random", 60.0, 61.0, more={"run": {"precision": "float32"}})
    assert said() == "bfloat16, of random in float32"
    put(tmp_path, "simclr-e2e-bp", 60.0, 61.0, more={"run": {"precision": "bfloat16"}})
    for seed in (2, 3):
        path = tmp_path / "table1" / "tiny" / f"simclr-e2e-bp-seed{seed}.json"
        path.write_text((tmp_path / "table1/tiny/simclr-e2e-bp-seed0.json").read_text().replace("bfloat16", "float32"))
        path.write_text(path.read_text().replace('"seed": 0', f'"seed": {seed}'))
    assert said() == "bfloat16, of simclr-e2e-bp (seed 2, 3), random in float32"

    # Where it is the same seeds of every cell, it names no cell.
    for path in (tmp_path / "table1" / "tiny").glob("*.json"):
        path.unlink()
    for cell in ("hinge-e2e-bp-full", "simclr-e2e-bp"):
        put(tmp_path, cell, 70.0, 71.0, 72.0, more={"run": {"precision": "bfloat16"}})
        path = tmp_path / "table1" / "tiny" / f"{cell}-seed1.json"
        path.write_text(path.read_text().replace("bfloat16", "float32"))
    assert said() == "bfloat16, of seed 1 in float32"
    put(tmp_path, "clapp-e2e-bp", 60.0, more={"run": {"precision": "bfloat16"}})
    assert said() == "bfloat16, of hinge-e2e-bp-full (seed 1), simclr-e2e-bp (seed 1) in float32"


def test_test_images_that_differ_from_row_to_row_are_named(tmp_path):
    for cell, digest in (("hinge-e2e-bp-full", "a"), ("random", "b")):
        put(tmp_path, cell, 70.0, more={"images": {"plain": "same", "gaussian blur 3": digest}})
        said = " ".join(results(TABLE, SCALE, kept(TABLE, SCALE, tmp_path)).legend())
        assert ("in all rows, since processors or versions round otherwise: gaussian blur 3." in said) == (
            cell == "random"
        )


def test_results_of_another_definition_of_the_scale_are_refused(tmp_path):
    put(tmp_path, "random", 50.0, pairs=7)
    with pytest.raises(InputError, match="another scale .pairs: 7 there, 25000 now"):
        results(TABLE, SCALE, kept(TABLE, SCALE, tmp_path))
    [path] = (tmp_path / "table1" / "tiny").iterdir()
    path.write_text("{}")
    with pytest.raises(InputError, match="not what a cell writes"):
        results(TABLE, SCALE, kept(TABLE, SCALE, tmp_path))


def test_results_of_another_training_are_refused(tmp_path):
    put(tmp_path, "hinge-e2e-dtp-full", 50.0)
    [path] = (tmp_path / "table1" / "tiny").iterdir()
    row = json.loads(path.read_text())
    del row["scale"]["dtp_rate"]  # as one that was written before there was such a field
    path.write_text(json.dumps(row | {"config": {"rate": 3e-4, "rule": "dtp"}}))
    with pytest.raises(InputError, match="trained otherwise .rate: 0.0003 there, 0.0001 now"):
        results(TABLE, SCALE, kept(TABLE, SCALE, tmp_path))


def test_results_written_before_a_scale_had_more_fields_count(tmp_path):
    put(tmp_path, "random", 50.0)
    [path] = (tmp_path / "table1" / "tiny").iterdir()
    row = json.loads(path.read_text())
    row["scale"] = {name: row["scale"][name] for name in ("name", "pairs", "batch", "rate", "probe_epochs", "sets")}
    path.write_text(json.dumps(row))
    assert accuracies(TABLE, SCALE, tmp_path)["random"].mean == 50.0


def test_comparisons_are_paired_and_corrected(tmp_path):
    put(tmp_path, "hinge-e2e-bp-full", 70.0, 71.0, 72.0)
    put(tmp_path, "hinge-e2e-rf-full", 60.0, 60.5, 62.0)
    [table] = comparisons(TABLE, SCALE, kept(TABLE, SCALE, tmp_path))  # no other family has results
    assert len(table.rows) == 6 and "all negatives, against E2E BP" in table.caption
    [row] = [row for row in table.rows if row[2] is not None]
    assert row[:4] == ["hinge, E2E, RF", "hinge, E2E, BP", 3, row[3]]
    assert row[3].shown() == "-10.17 [-10.88, -9.45]"
    assert row[4:6] == [-9.74, "as published"]
    assert row[7] == pytest.approx(6 * row[6]) and row[8] == 0.25
    assert "cannot give less than 0.25" in table.notes[0]
    put(tmp_path, "hinge-e2e-rf-full", 60.0, 60.5, 67.0)  # p is below 0.05 / 6 no more
    [row] = [row for row in comparisons(TABLE, SCALE, kept(TABLE, SCALE, tmp_path))[0].rows if row[2] is not None]
    assert row[5] == "undecided" and row[6] < 0.05 < row[7]


def test_on_deformed_pictures_networks_without_labels_are_held_against_that_with_them(tmp_path):
    table, scale = TABLES["table3"], ROBUST["tiny"]
    few, many = (f"{size:,} pictures, deformed" for size in scale.sizes)
    have = {cell.name: [] for cell in table.cells} | {
        "hinge-gll-bp-full": [
            {"seed": seed, "scores": {few: value, many: 50.0}} for seed, value in enumerate((30, 34))
        ],
        "supervised": [
            {"seed": seed, "scores": {few: value, many: 60.0 + seed}} for seed, value in enumerate((29, 30, 50))
        ],
    }
    first, second = comparisons(table, scale, have)
    assert first.caption.startswith(f"Comparisons: {few}: all negatives, against the network with labels")
    assert second.caption.startswith(f"Comparisons: {many}: all negatives") and "published" not in first.header
    for made, shown in ((first, "+2.50 [-16.56, +21.56]"), (second, "-10.50 [-16.85, -4.15]")):  # t(1) = 12.706
        [row] = [row for row in made.rows if row[2] is not None]
        assert len(made.rows) == 7 and row[0] == "without labels, all negatives, GLL, BP"
        assert (row[2], row[3].shown()) == (2, shown)


def test_page_and_files(tmp_path):
    put(tmp_path, "hinge-e2e-bp-full", 70.0, 71.0)
    page = write(TABLE, SCALE, kept(TABLE, SCALE, tmp_path), tmp_path / "out")
    html = page.read_text()
    shown = [re.sub("<.*?>", " ", part) for part in html.split("accuracy (%)")[1:]]
    assert [part.split()[0] for part in shown[-2:]] == ["70.00", "71.00"]  # each seed's own
    assert '<a href="#cell-hinge-e2e-bp-full">70.50 ± 0.71</a>' in html and 'id="cell-hinge-e2e-bp-full"' in html
    assert "saccade reproduce table1" in html and "hinge-e2e-bp-full" in html
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"table1.md", "table1.csv", "table1.tex", "page.html"} <= made
    first, *_ = csv.DictReader((tmp_path / "out" / "table1.csv").open())
    assert first["all negatives mean"] == "70.5" and first["all negatives link"] == "page.html#cell-hinge-e2e-bp-full"
    assert first["all negatives, published"] == "71.44" and first["gradient block, 5 negatives, published"] == "70.35"
    assert float(first["all negatives, difference mean"]) == pytest.approx(-0.94)
    assert float(first["all negatives, difference low"]) == pytest.approx(-0.94 - 12.706 * 0.5, abs=1e-3)
    assert "[70.50 ± 0.71](<page.html#cell-hinge-e2e-bp-full>)" in (tmp_path / "out" / "table1.md").read_text()
    assert (
        r"\href{page.html\#cell-hinge-e2e-bp-full}{70.50 $\pm$ 0.71}" in (tmp_path / "out" / "table1.tex").read_text()
    )


def test_on_other_pictures_nothing_is_held_against_the_published_differences(tmp_path):
    put(tmp_path, "hinge-e2e-bp-full", 70.0, 71.0)
    put(tmp_path, "hinge-gll-bp-full", 72.0, 73.5)
    have = kept(TABLE, SCALE, tmp_path)
    for scale, same in ((SCALE, True), (CIFAR["digits"], False), (scaled(CIFAR, "tiny", test_views="flip"), False)):
        table = comparisons(TABLE, scale, have)[0]
        assert [name in table.header for name in ("published", "direction")] == [same, same]
        assert ("Direction" in table.notes[0]) == same and all(len(row) == len(table.header) for row in table.rows)


def test_comparisons_lead_to_what_they_compare(tmp_path):
    put(tmp_path, "hinge-e2e-bp-full", 70.0, 71.0)
    put(tmp_path, "hinge-e2e-rf-full", 60.0, 60.5)
    [table] = comparisons(TABLE, SCALE, kept(TABLE, SCALE, tmp_path), links=lambda cell: cell.name)
    row = next(row for row in table.rows if row[2] is not None)
    assert row[:2] == [Link("hinge, E2E, RF", "hinge-e2e-rf-full"), Link("hinge, E2E, BP", "hinge-e2e-bp-full")]
    assert table.rows[0][0] == "hinge, E2E, DTP"  # nothing to lead to


def test_a_second_machines_results_are_merged(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    put(ours, "random", 50.0)
    put(theirs, "random", 50.0, 51.0)
    assert merge(theirs, ours) == 1
    assert accuracies(TABLE, SCALE, ours)["random"].n == 2
    put(theirs, "random", 50.0, 55.0)
    put(theirs, "hinge-e2e-bp-full", 70.0)
    with pytest.raises(InputError, match="differ in table1/tiny/random-seed1.json; .* Nothing was copied"):
        merge(theirs, ours)
    assert accuracies(TABLE, SCALE, ours)["random"].mean == 50.5 and len(list(ours.rglob("*.json"))) == 2
    put(theirs, "random", 50.0, 51.0)
    for nothing in (tmp_path / "nothing", theirs / "table1"):
        with pytest.raises(InputError, match="holds no results"):
            merge(nothing, ours)
    (theirs / "exact" / "tiny").mkdir(parents=True)  # of another program
    (theirs / "exact" / "tiny" / "random-seed0.json").write_text("{}")
    assert merge(theirs, ours) == 1
    other = tmp_path / "other"
    put(other, "random", 52.0, pairs=7)
    with pytest.raises(InputError, match="made at another scale .pairs: 7 there, 25000 now"):
        merge(other, ours)
    put(other, "random", 52.0, pairs=7, name="tiny,pairs=7")
    (other / "table1" / "tiny").rename(other / "table1" / "tiny,pairs=7")
    assert merge(other, ours) == 1
    (theirs / "table1" / "tiny" / "x-seed0.json").write_text("{}")
    with pytest.raises(InputError, match="no result of a cell"):
        merge(theirs, ours)


def test_results_are_sorted_by_seed_and_paired_by_it(tmp_path):
    put(tmp_path, "hinge-e2e-bp-full", 70.0, 71.0, 73.0)
    put(tmp_path, "hinge-e2e-rf-full", 10.0, 61.0, 62.0, 63.5)
    (tmp_path / "table1" / "tiny" / "hinge-e2e-rf-full-seed0.json").unlink()
    have = kept(TABLE, SCALE, tmp_path)
    assert [row["seed"] for row in have["hinge-e2e-bp-full"]] == [0, 1, 2]
    [row] = [row for row in comparisons(TABLE, SCALE, have)[0].rows if row[2] is not None]
    assert row[2:4] == [2, differences([61.0 - 71.0, 62.0 - 73.0])]


@pytest.mark.parametrize(
    ("theirs", "p", "said"),
    [
        (-2.05, 0.01, "as published"),
        (-1.0, 0.01, "larger"),
        (-5.0, 0.01, "smaller"),
        (1.0, 0.01, "opposite"),
        (1.0, 0.06, "undecided"),
        (None, 0.01, ""),
    ],
)
def test_what_a_difference_says_of_the_published_one(theirs, p, said):
    assert _agreement(differences([-2.0, -2.1, -1.9]), p, theirs) == said  # -2.00 [-2.25, -1.75]


def test_a_score_that_is_not_there_is_missing():
    rows = [{"scores": {"layer 1": 30.0}, "accuracy": 90.0}, {"accuracy": 50.0}]
    assert [_values(rows, f"layer {k}", None) for k in (1, 2)] == [[30.0, 50.0], [50.0]]


def table_3_of(name):
    """Results of a cell of table 3 for two seeds, with scores for 200 and 1,297 pictures."""
    table, scale = TABLES["table3"], ROBUST["digits"]
    rows = []
    for seed in (0, 1):
        scores = {str(k): {"200": 1.0, "1297": 10.0 * k + 4 * seed} for k in range(1, 6)}
        curve = {at: {"200": float(at) + 2 * seed, "1297": float(at) + 10 * seed} for at in ("0.5", "1")}
        rows.append(ABOUT | {"seed": seed, "accuracy": 5.0, "corruptions": {"JPEG": scores}, "curve": curve})
    return table, scale, {cell.name: rows if cell.name == name else [] for cell in table.cells}


def test_corruptions_are_of_the_most_pictures_and_spread_over_seeds():
    [row] = corruptions(*table_3_of("random")).rows
    each = [spread([10.0 * k, 10.0 * k + 4]) for k in range(1, 6)]
    assert row == ["random encoder", "JPEG", *each, spread([30.0, 34.0])]


@pytest.fixture
def panels(monkeypatch):
    """What is given to be drawn as lines in panels, in order."""
    seen = []
    monkeypatch.setattr(figures, "panels", lambda groups, *names: seen.append(groups) or "<svg/>")
    return seen


def test_strengths_are_drawn_over_all_seeds(panels):
    drawn(*table_3_of("random"))
    assert panels == [
        {"": {"random encoder": [(at, spread([at, at + off])) for at in (0.5, 1.0)]}}  # of 200 pictures, and of 1,297
        for off in (2.0, 10.0)
    ]


def test_lines_of_each_kind_of_negatives_have_a_panel_with_all_that_has_none(panels):
    table, scale, have = table_3_of("random")
    names = ("hinge-gll-rf-full", "hinge-gll-rf-constrained", "hinge-e2e-bp-constrained", "random", "supervised")
    drawn(table, scale, have | dict.fromkeys(names, have["random"]))
    common = ["random encoder", "with labels, E2E, BP"]
    assert {title: list(lines) for title, lines in panels[0].items()} == {
        "all negatives": ["without labels, GLL, RF", *common],
        "gradient block, 5 negatives": ["without labels, E2E, BP", "without labels, GLL, RF", *common],
    }


def test_layers_are_drawn_from_the_first(panels):
    table, scale = TABLES["figure7"], TABLES["figure7"].scales["tiny"]
    scores = {f"layer {k}": 10.0 * k for k in range(1, 6)}
    have = {cell.name: [ABOUT | {"seed": 0, "scores": scores}] for cell in table.cells}
    drawn(table, scale, have)
    assert all(
        points == [(k, spread([10.0 * k])) for k in range(1, 6)]
        for series in panels[0].values()
        for points in series.values()
    )


def put_curve(out, **changes):
    """A result of a cell of Figure 6, whole but for the changes; None leaves a part out."""
    path = out / "figure6" / "tiny" / "hinge-e2e-bp-full-seed0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"table": "figure6", "cell": "hinge-e2e-bp-full", "seed": 0, "points": [[0.1, 2.0], [0.2, 1.0]]}
    about |= {"scores": {"first tenth": 2.0, "last tenth": 1.0}, "scale": asdict(TABLES["figure6"].scales["tiny"])}
    path.write_text(json.dumps({name: value for name, value in (about | ABOUT | changes).items() if value is not None}))


@pytest.mark.parametrize(
    "other", [{"scores": {"first tenth": 2.0, "last tenth": 0.5}}, {"points": [[0.1, 2.0], [0.2, 1.5]]}]
)
def test_results_whose_numbers_differ_are_not_merged(tmp_path, other):
    put_curve(tmp_path / "ours")
    put_curve(tmp_path / "theirs")
    assert merge(tmp_path / "theirs", tmp_path / "ours") == 0
    put_curve(tmp_path / "theirs", **other)
    with pytest.raises(InputError, match="differ in figure6/tiny/hinge-e2e-bp-full-seed0.json"):
        merge(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize(
    "changes",
    [
        *({part: value} for part in ("config", "run", "versions", "hardware", "source") for value in (None, "x")),
        *({part: None} for part in ("command", "date", "points", "scores")),
        {"hardware": {"processor": "a processor"}},
        {"scores": {"first tenth": 2.0}},
        {"accuracy": None, "scores": {"first tenth": 2.0, "last tenth": True}},
    ],
    ids=str,
)
def test_results_that_are_not_whole_are_refused_and_none_is_merged(tmp_path, changes):
    put_curve(tmp_path / "theirs", **changes)
    with pytest.raises(InputError, match="is not what a cell writes; remove it to run the cell anew"):
        merge(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_result_of_another_table_or_beyond_100_percent_is_refused(tmp_path):
    put_curve(tmp_path, table="table1")
    with pytest.raises(InputError, match="holds a cell of table1; it takes one of figure6"):
        kept(TABLES["figure6"], TABLES["figure6"].scales["tiny"], tmp_path)
    put(tmp_path, "random", 50.0, more={"scores": dict.fromkeys(TABLE.columns, 250.0)})
    with pytest.raises(InputError, match="is not what a cell writes"):
        kept(TABLE, SCALE, tmp_path)


def test_a_measure_that_no_picture_has_is_not_missing():
    table = TABLES["figure8"]
    scale = table.scales["digits"]
    layers = dict.fromkeys(table.columns_at(scale), 1.0)
    have = {cell.name: [] for cell in table.cells} | {"random": [ABOUT | {"seed": 0, "scores": {"kNN, class": layers}}]}
    assert {row[3] for row in results(table, scale, have).rows} == {"kNN, class"}
    nothing = {cell.name: [] for cell in table.cells}
    assert {row[3] for row in results(table, scale, nothing).rows} == {*table.rows}
