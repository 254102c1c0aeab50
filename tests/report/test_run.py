"""A run's sections, from a run that was really made and from lines written by hand."""

import json

import pytest

from saccade.config.run import TrainConfig, to_yaml
from saccade.data import load
from saccade.errors import InputError
from saccade.report import run as report
from saccade.report.page import Code, Facts, Svg, Text, render
from saccade.report.tables import Spread, Table
from saccade.training import run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(TrainConfig(data="digits:train", rule="rf")))
    (tmp_path / "run.json").write_text(
        json.dumps({"command": "saccade train", "data": {"sha256": "abc"}, "seconds": 2.5})
    )
    return tmp_path


@pytest.fixture
def curves(monkeypatch):
    """What is given to be drawn, in order."""
    seen = []
    real = report.loss_curve
    monkeypatch.setattr(report, "loss_curve", lambda *a: seen.append(a) or real(*a))
    return seen


def written(folder, *rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def named(sections):
    return {section.title: section.blocks for section in sections}


def test_a_real_run(tmp_path):
    config = TrainConfig(
        data="digits:train[:100]", views="digits", network="flatten linear8 relu | linear8 relu", head="linear4",
        loss="hinge(m2=1.5)", rule="urf", epochs=2, batch=50, diagnostics=2, precision="float32",
    )  # fmt: skip
    run(config, tmp_path / "run", images=load(config.data))
    sections = report.run_sections(tmp_path / "run")
    blocks = named(sections)
    assert list(blocks) == ["What was run", "Loss", "Diagnostics"]
    facts = next(block for block in blocks["What was run"] if isinstance(block, Facts)).facts
    assert facts["finished"] is True
    assert len(facts["data"]["sha256"]) == 64
    assert Code(to_yaml(config)) in blocks["What was run"]
    captions = [block.caption for block in blocks["Diagnostics"] if isinstance(block, Svg)]
    assert [caption.split()[0] for caption in captions] == ["Angle", "Angle", "Norm", "Standard", "Effective", "Number"]
    assert facts["data"]["sha256"] in render("run", "", sections)


def test_without_measurements_there_is_only_what_was_run(folder):
    assert list(named(report.run_sections(folder))) == ["What was run"]


def test_a_loss_curve_for_each_site(folder, curves):
    lines = [(12, 1.0, 0, 3.0), (24, 2.0, 0, 2.0), (36, 3.0, 1, 5.0)]
    rows = [{"step": step, "epoch": epoch, "site": site, "loss": loss} for step, epoch, site, loss in lines]
    written(folder, *rows, {"step": 36, "site": 1, "warning": "collapse"})
    blocks = named(report.run_sections(folder))["Loss"]
    assert curves == [({"site 1": [(1.0, 3.0), (2.0, 2.0)], "site 2": [(3.0, 5.0)]}, "epoch", "loss")]
    assert blocks[1:] == [Text("Warning at step 36, site 2: collapse.")]


def test_diagnostics_by_layer(folder, curves):
    angles = {"head.linear.weight": 0.0, **{f"layers.{k}.linear.weight": 10.0 * k for k in (10, 1, 0)}}
    written(folder, *({"step": s, "site": 0, "angle_to_bp": angles, "reconstruction": [0.5, s]} for s in (1, 4)))
    report.run_sections(folder)
    (angle, _, ylabel), (reconstruction, _, _) = curves
    assert ylabel == "angle (degrees)"
    assert list(angle.items()) == [
        ("layer 1", [(1, 0.0), (4, 0.0)]),
        ("layer 2", [(1, 10.0), (4, 10.0)]),
        ("layer 11", [(1, 100.0), (4, 100.0)]),
        ("head", [(1, 0.0), (4, 0.0)]),
    ]
    assert reconstruction == {"layer 2": [(1, 0.5), (4, 0.5)], "layer 3": [(1, 1), (4, 4)]}


def test_a_measurement_that_never_changes_is_a_sentence(folder, curves):
    written(folder, *({"step": s, "site": 0, "angle_to_bp": {"layers.0.linear.weight": 0.0}} for s in (1, 4)))
    (block,) = named(report.run_sections(folder))["Diagnostics"]
    assert curves == []
    assert block.text.endswith("It is 0.00 at every measurement.")


def probe_row(layer, seed, accuracy, **changes):
    row = {"layer": layer, "features": "8", "protocol": "exact", "train_size": 1297, "test_size": 500}
    row |= {"accuracy": accuracy, "seed": seed, "details": {"strength": seed, "held_out": {}, "precision": "float32"}}
    return row | {"train": "digits:train", "test": "digits:test", "test_views": None, "initial": False} | changes


def test_probes_by_layer_over_seeds(folder):
    rows = [probe_row(layer, seed, 90.0 + layer + seed) for layer in (2, 1) for seed in (0, 2)]
    again = probe_row(2, 2, 96.0)  # the same measurement, made again
    (folder / "probes.json").write_text(json.dumps({"probes": [*rows, again]}))
    table, figure = named(report.run_sections(folder))["Probes"]
    assert isinstance(table, Table)
    assert isinstance(figure, Svg)
    assert table.header == ["layer", "accuracy (%)", "seeds", "features"]
    assert table.rows == [
        ["1", Spread(92.0, 2**0.5, 2), "0, 2", "8"],
        ["2", Spread(94.0, 8**0.5, 2), "0, 2", "8"],
    ]
    shared = "protocol exact precision=float32; fitted on digits:train (1,297); tested on digits:test (500)"
    assert table.notes[0] == f"All: {shared}; encoder trained."


def test_other_measurements_are_kept_apart(folder):
    kinds = [{}, {"initial": True}, {"test_views": "digits"}, {"protocol": "knn", "details": {"k": 20}}, {"test": "x"}]
    rows = [probe_row(1, 0, 90.0 + k, **changes) for k, changes in enumerate(kinds)]
    (folder / "probes.json").write_text(json.dumps({"probes": rows}))
    (table,) = named(report.run_sections(folder))["Probes"]  # one layer: nothing to draw
    assert table.header == ["layer", "protocol", "tested on", "encoder", "accuracy (%)", "seeds", "features"]
    assert [row[4].mean for row in table.rows] == [90.0, 91.0, 92.0, 93.0, 94.0]
    assert table.rows[2][2] == "digits:test (500, deformed by digits)"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.yaml"):
        report.run_sections(tmp_path)
