"""Cells that run: every measure on digits in a few steps, kept, found again, and the same as the probe's own function."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from saccade import api, engines, networks
from saccade.cli import main
from saccade.config.run import TrainConfig
from saccade.data import load
from saccade.data.named import CIFAR10_CLASSES
from saccade.errors import InputError, RunError
from saccade.evaluation.features import features
from saccade.evaluation.probe import deformation, seen
from saccade.evaluation.probe import probe as probe_encoder
from saccade.evaluation.separation import nearest_agreement, silhouette
from saccade.paper import TABLES, results, scores
from saccade.paper import run as running
from saccade.paper.results import corruptions, drawn, write
from saccade.paper.results import found as kept
from saccade.paper.scales import CIFAR, Scale, runs_of, scaled
from saccade.report.schematic import LEARNS
from saccade.training.folder import read_json

FEW = replace(
    CIFAR["digits"],
    pairs=100,
    probe_epochs=2,
    supervised_epochs=0.3,
    sets=("digits:train[:300]", "digits:train[200:500]", "digits:test[:60]"),
    corrupted=10,
    shown=40,
)


def ran(tmp_path, table, cells, scale=FEW, seed=0):
    """The results of a table's cells, run here in this process."""
    found = {}
    for cell in running.chosen(TABLES[table], cells):
        path = running.result_path(tmp_path / "results", TABLES[table], scale, cell, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        runs = tmp_path / "runs" / runs_of(table, scale)
        running._run_cell((TABLES[table], cell, scale, seed, None, runs, path), lambda share: None)
        found[cell.name] = read_json(path)
    return found


@pytest.mark.parametrize("batch", [500, 100])
def test_an_untrained_cell_is_the_probes_own_number(tmp_path, batch):
    row = ran(tmp_path, "table1", ["random"], replace(FEW, probe_batch=batch), seed=1)["random"]
    train, test = load(FEW.sets[1]), load(FEW.sets[2])
    encoder = networks.build("emnist", train.shape, 1)
    how = {"protocol": "paper", "epochs": 2, "batch": batch, "precision": row["probe"]["details"]["precision"]}
    [expected] = probe_encoder(encoder, train, test, layers=[3], deform_test=deformation("digits"), seed=1, **how)
    assert row["accuracy"] == expected.accuracy
    assert row["probe"]["features"] == expected.features == "128x3x3 = 1152"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_arithmetic_can_be_chosen(tmp_path, precision):
    row = ran(tmp_path, "table1", ["hinge-e2e-bp-constrained"], replace(FEW, precision=precision))
    [found] = row.values()
    assert (
        found["config"]["precision"] == found["run"]["precision"] == found["probe"]["details"]["precision"] == precision
    )


def test_a_finished_cell_is_not_run_again(tmp_path, monkeypatch):
    scales = {**CIFAR, "digits": FEW}
    monkeypatch.setattr(
        engines, "run", lambda function, tasks, *rest: {name: function(t, print) for name, t in tasks.items()}
    )
    table = replace(TABLES["table1"], scales=scales)
    cells = ["random", "hinge-gll-rf-constrained"]
    for _ in range(2):
        running.run_cells(table, FEW, [0], tmp_path / "results", cells=cells, work=tmp_path / "runs")
        monkeypatch.setattr(engines, "run", None)  # the second time nothing is left to do
    rows = results(table, FEW, kept(table, FEW, tmp_path / "results")).rows
    [row] = [row for row in rows if row[:3] == ["hinge", "GLL", "RF"]]
    assert row[5].n == 1 and row[3] is None  # no difference: digits are not the paper's pictures
    result = read_json(tmp_path / "results" / "table1" / "digits" / "hinge-gll-rf-constrained-seed0.json")
    assert str(tmp_path) not in str({**result, "command": ""})
    assert result["run"]["steps"] == 3 * 2 and result["config"]["loss"].startswith("hinge(m2=1.5, negatives=5")


def test_a_cell_that_fails_leaves_the_others_be(tmp_path, monkeypatch):
    monkeypatch.setattr(
        engines, "run", lambda function, tasks, *rest: {name: function(t, print) for name, t in tasks.items()}
    )
    cells = ["hinge-e2e-bp-full", "random"]

    real = running.MEASURES["probe"]

    def diverges(job):
        if job.cell.trained:
            raise RunError("The loss is not finite.")
        return real.of(job)

    monkeypatch.setitem(running.MEASURES, "probe", real._replace(of=diverges))
    with pytest.raises(
        RunError, match="1 of 2 cells failed, and the others are kept; .*bp-full-seed0: The loss is not"
    ):
        running.run_cells(TABLES["table1"], FEW, [0], tmp_path, cells=cells, work=tmp_path / "runs")
    assert [path.name for path in (tmp_path / "table1" / "digits").iterdir()] == ["random-seed0.json"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 301}, "batch is 301, and digits:train.* has 300 pictures"),
        ({"sizes": (20, 300)}, "batch is 50, and digits:train.* has 20 pictures"),
        ({"margins": {"m1": 9.0}}, "m1|m2"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_runs(changes, said, tmp_path):
    cells = ["random", "hinge-e2e-bp-constrained", "supervised"]
    with pytest.raises(InputError, match=said):
        running.run_cells(TABLES["table3"], replace(FEW, **changes), [0], tmp_path, cells=cells, work=tmp_path / "runs")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("figure6", {"probe_epochs": 3}, "No number of figure6 depends on probe_epochs"),
        ("figure8", {"probe_batch": 100}, "No number of figure8 depends on probe_batch"),
        ("table3", {"probe_views": "flip"}, "No number of table3 depends on probe_views"),
        ("table4", {"corrupted": 5}, "No number of table4 depends on corrupted"),
        ("figure5", {"views": "affine-hsv"}, "No number of figure5 depends on views"),
        ("supplement-c", {"negatives": "authors"}, "No number of supplement-c depends on negatives"),
        ("figure5", {"precision": "float32"}, "No number of figure5 depends on precision"),
        ("table1", {"precision": "float64"}, "precision is 'float64'; it takes auto, float32 or bfloat16"),
        ("figure9", {"pairs": 10}, "Nothing of figure9 depends on pairs; it takes test_set, test_views, strength"),
        ("table3", {"strength": 0.4, "test_views": "flip"}, "strength and test_views both"),
        ("table1", {"workers": 0, "cells": ["random"]}, "workers=0"),
        ("table1", {"cells": []}, "Unknown cell ''"),
        ("table1", {"render": True, "cells": ["random"]}, "goes without cells"),
        ("table1", {"render": True, "m1": 3.0, "m2": 1.0}, "m1|m2"),
        ("table1", {"readings": "dtp(order=backwards)", "render": True}, "order='backwards'"),
        ("table1", {"readings": "moco(queue=3)"}, r"No number of table1 depends on the reading moco\(queue=3\)"),
        ("table1", {"readings": "dtp(order=targets) moco(queue=3)"}, "No number of table1 depends on the reading moco"),
        ("table1", {"probe_set": "digits:train?classes=0,1"}, "label 9|other classes"),
        ("figure2", {"views": "none"}, "figure2 takes a list of deformations"),
    ],
)
def test_options_that_change_nothing_are_refused(name, changes, said, tmp_path):
    results = {"results": tmp_path} if name in TABLES else {}
    with pytest.raises(InputError, match=said):
        api.reproduce(name, scale="digits", **results, out=tmp_path / "out", **changes)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("table1", {"probe_rate": 0.01}),
        ("table2", {"pool_to": 64}),
        ("table3", {"corrupted": 50}),
        ("figure8", {"shown": 50}),
        ("figure5", {"network": "emnist"}),
        ("figure5", {"size": 20}),
        ("table1", {"m1": 0.24, "m2": 0.49}),  # each needs the other: m2 is to be above m1
    ],
)
def test_options_that_change_something_are_taken(name, changes):
    running.refuse_idle(TABLES[name], next(iter(TABLES[name].scales)), changes)


def test_sets_that_do_not_fit_each_other_are_refused(tmp_path):
    path = tmp_path / "large.npz"
    np.savez(path, images=np.zeros((60, 12, 12, 1), np.uint8), labels=np.zeros(60, np.int64))
    for option, cells in (("encoder_set", None), ("test_set", ["random"])):
        with pytest.raises(InputError, match="it takes sets of one shape"):
            api.reproduce("table1", scale="digits", results=tmp_path, cells=cells, **{option: str(path)})
    assert not list(tmp_path.rglob("*.json"))


def test_networks_trained_on_other_deformations_are_other_runs(tmp_path):
    scale = replace(FEW, sizes=(100, 300), runs="table1", corrupted=2)
    for views in ("digits", "digits(shift=0.1)"):
        ran(
            tmp_path,
            "table3",
            ["supervised-deformed"],
            replace(scale, name=f"digits,test_views={views}", test_views=views),
        )
    made = sorted(path.name for path in (tmp_path / "runs" / "table1" / "digits").iterdir())
    assert len(made) == 4 and made[0] == "supervised-deformed-100-digits-seed0"


def test_tested_with_labels_and_without(tmp_path):
    scale = replace(FEW, sizes=(100, 300), runs="table1")
    cells = ["random", "supervised"]
    found = ran(tmp_path, "table3", cells, scale)
    for row in found.values():
        assert list(row["scores"]) == [f"{n} pictures, {kind}" for kind in ("deformed", "plain") for n in (100, 300)]
        assert row["accuracy"] == row["scores"]["300 pictures, deformed"] == row["curve"]["1"]["300"]
        assert len(row["corruptions"]) == 7 and set(row["corruptions"]["JPEG"]) == set("12345")
        assert row["images"] == found["random"]["images"]
        assert len({*row["images"].values()}) == 6 + 7 * 5  # no two strengths, and no two severities, are the same
    by_size = found["supervised"]["by_size"]
    assert {size: one["run"]["steps"] for size, one in by_size.items()} == {"100": 2, "300": 2}  # as many on fewer
    assert [one["run"]["data"]["images"] for one in by_size.values()] == [100, 300]
    train, test = load(FEW.sets[1]), load(FEW.sets[2])
    how = {"protocol": "paper", "epochs": 2, "precision": "float32"}
    encoder = networks.build("emnist", train.shape, 0)
    plain = ran(tmp_path / "plain", "table3", ["random"], replace(scale, precision="float32"))["random"]["scores"]
    for size in scale.sizes:
        [expected] = probe_encoder(encoder, train.take(0, size), test, layers=[3], **how)
        assert plain[f"{size} pictures, plain"] == expected.accuracy
    table = TABLES["table3"]
    have = kept(table, scale, tmp_path / "results")
    assert "labels: 0.3 epochs of digits:train[200:500], as many steps on fewer pictures, batch 50, rate 0.001" in (
        results(table, scale, have).caption
    )
    assert corruptions(table, scale, have).rows[0][:2] == ["random encoder", "gaussian noise"]
    assert list(drawn(table, scale, have)) == ["table3-strength-100", "table3-strength-300"]
    # a supervised network's classifier, read off its run, is the one that `evaluate` finds
    run = tmp_path / "runs" / "table1" / "digits" / "supervised-300-seed0"
    plain = found["supervised"]["scores"]["300 pictures, plain"]
    assert api.evaluate(run, FEW.sets[2]) == pytest.approx(plain, abs=2)  # in float32 there, perhaps bfloat16 here


def test_figures_look_into_the_same_runs(tmp_path):
    inside = replace(FEW, runs="table1", pool_to=100)
    cell = "hinge-gll-bp-constrained"
    for name in ("figure6", "figure7", "figure8"):
        row = ran(tmp_path, name, [cell], inside)[cell]
        page = write(TABLES[name], inside, kept(TABLES[name], inside, tmp_path / "results"), tmp_path / name)
        assert page.exists() and list((tmp_path / name).glob("*.svg"))
        if name == "figure6":
            assert row["points"][-1][0] > 0 and set(row["scores"]) == {"first tenth", "last tenth"}
        elif name == "figure7":
            assert list(row["scores"]) == ["layer 1", "layer 2", "layer 3"]
        else:
            assert set(row["scores"]) == {"kNN, class", "silhouette, class"}  # digits are neither animals nor vehicles
            assert len(row["map"]["layer 3"]) == 40
    assert [path.name for path in (tmp_path / "runs" / "table1" / "digits").iterdir()] == [f"{cell}-seed0"]


def test_margins_under_both_views_and_standardized(tmp_path):
    found = ran(tmp_path, "figure5", None)
    assert list(found) == ["paper", "affine-hsv", "paper-standardized", "affine-hsv-standardized"]
    medians = [row["scores"]["median of negatives"] for row in found.values()]
    assert min(medians[2:]) > 2 * max(medians[:2])  # pixels brought to variance 1 lie farther apart
    for row in found.values():
        far = 100 * np.mean(np.array(row["quantiles"]["positives"]) > row["m1"])
        near = 100 * np.mean(np.array(row["quantiles"]["negatives"]) < row["m2"])
        assert row["scores"]["positives beyond m1 (%)"] == pytest.approx(far, abs=1)
        assert row["scores"]["negatives within m2 (%)"] == pytest.approx(near, abs=1)
    assert len(found["paper"]["quantiles"]["negatives"]) == 501 and found["paper"]["m2"] == 1.5
    [svg] = drawn(TABLES["figure5"], FEW, kept(TABLES["figure5"], FEW, tmp_path / "results")).values()
    assert svg.svg.startswith("<svg")


def test_strided_and_patches(tmp_path):
    row = ran(tmp_path, "pooling", ["supervised-dtp-strided"])["supervised-dtp-strided"]
    assert row["config"]["network"] == "emnist-strided" and row["probe"]["protocol"] == "the network's own classifier"
    upsampled = {"size": 64, "pool_to": 64, "probe_views": "flip", "patch_views": "flip"}
    scale = Scale("few", 16, 16, 1e-4, 1, FEW.sets, network="conv4 hardtanh maxpool | conv4 maxpool", **upsampled)
    row = ran(tmp_path, "table2", ["clapp-patches-gll-bp"], scale)["clapp-patches-gll-bp"]
    assert row["probe"]["features"] == "4x16x16, average-pooled to 4x4x4 = 64"
    assert row["config"]["size"] == 64 and row["config"]["views"] == "flip"


def test_probes_see_new_views_at_each_epoch_and_patches_colours(tmp_path, monkeypatch):
    scale = replace(
        FEW,
        size=28,
        network="conv4 hardtanh maxpool",
        views="none",
        probe_views="flip",
        test_views="window(centre=true)",
        patch_views="flip grey(p=1) standardize(mean=0.4, std=0.3)",
    )
    asked = []
    monkeypatch.setattr(scores, "deformation", lambda *given: asked.append(given) or deformation(*given))
    ran(tmp_path, "table2", ["random"], scale)
    assert [views for views, _, _ in asked] == ["flip", "flip", "window(centre=true)"]  # two epochs, then the test
    assert len({seed for _, seed, _ in asked}) == 3
    asked.clear()
    patches = replace(scale, name="patches", size=64, pool_to=64, pairs=16, test_views=None)
    ran(tmp_path, "table2", ["clapp-patches-e2e-bp"], patches)
    seen = "grey(p=1) standardize(mean=0.4, std=0.3)"
    assert [views for views, _, _ in asked] == [f"flip {seen}", f"flip {seen}", f"none {seen}"]


@pytest.mark.parametrize(
    ("name", "moving", "ways"),
    [
        ("figure3", 6, {"figure3": ["Wᵀ", "Wᵀ₂", "Wᵀ₃", "Wᵀ₄", "Wᵀ₅"], "figure3-pairs": ["B", "B", "no error"]}),
        ("figure4", 2, {"figure4-gll": ["Wᵀ"], "figure4-rll": ["B, fixed"]}),
    ],
)
def test_schematics_need_no_data(name, moving, ways, tmp_path, capsys):
    assert main(["reproduce", name, "--scale=smoke", f"--out={tmp_path / 'out'}"]) == 0
    assert f"page      {tmp_path}" in capsys.readouterr().out
    drawn = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.svg")}
    assert drawn.keys() == ways.keys()
    for figure, carriers in ways.items():
        texts = ["".join(e.itertext()) for e in ET.fromstring(drawn[figure]).iter("{http://www.w3.org/2000/svg}text")]
        assert sorted(t for t in texts if t.startswith(("W", "B", "no "))) == carriers
        if not figure.endswith("-pairs"):
            assert drawn[figure].count(LEARNS) == moving + 1  # and one in the legend


def test_sheets(tmp_path):
    for name, made in (("figure1", 1), ("figure2", 1), ("figure9", 1), ("supplement-b", 3)):
        assert main(["reproduce", name, "--scale=digits", f"--out={tmp_path / name}"]) == 0
        assert len(list((tmp_path / name).glob("*.png"))) == made
        assert "data:image/png" in (tmp_path / name / "page.html").read_text()


def test_table_4_has_emnists_letters_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("SACCADE_DATA", str(tmp_path))

    def caption(**names):
        table, _ = api.reproduce("table4", scale="mini", render=True, results=tmp_path, out=tmp_path / "out", **names)
        return table.caption

    for name in ("mnist-train", "mnist-test"):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((80, 28, 28, 1), np.uint8), labels=np.arange(80) % 10)
    np.savez(tmp_path / "cifar100-train.npz", images=np.zeros((8, 32, 32, 3), np.uint8), labels=np.zeros(8, np.int64))
    split = {"encoder_set": "mnist:train?classes=0,1,2,3,4"}
    assert caption() == caption(**split)
    assert "trained on mnist:train?classes=0,1,2,3,4, " in caption()
    np.savez(
        tmp_path / "emnist-letters-train.npz", images=np.zeros((52, 28, 28, 1), np.uint8), labels=np.arange(52) // 2
    )
    said = caption()
    for part in ("trained on emnist-letters:train, ", "fitted on mnist:train[:5000], ", "scored on mnist:test, "):
        assert part in said
    named = {"encoder_set": "emnist-letters:train", "probe_set": "mnist:train[:5000]", "test_set": "mnist:test"}
    assert caption(**named) == said  # so that results are shared
    assert "trained on mnist:train?classes=0,1,2,3,4, " in caption(**split)
    api.reproduce("supplement-b", scale="mini", out=tmp_path / "sheets")
    page = (tmp_path / "sheets" / "page.html").read_text()
    assert "Pictures of emnist-letters:train, " in page and "Pictures of mnist:test, " in page
    (tmp_path / "emnist-letters-train.npz").write_bytes(b"damaged")
    with pytest.raises(InputError, match="emnist-letters-train.npz"):
        caption()


def test_cells_run_on_any_engine(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(engines, "run", lambda run, tasks, engine, progress: asked.append((list(tasks), engine)) or {})
    table, scale = TABLES["table1"], FEW
    name = table.cells[0].name
    for options, engine in (
        ({"engine": "ray(gpus=0.5)"}, "ray(gpus=0.5)"),
        ({"workers": 3}, "local(workers=3)"),
        ({}, "local"),
    ):
        running.run_cells(table, scale, [0], tmp_path, cells=[name], **options)
        assert asked.pop() == ([f"{name}-seed0"], engine)
    with pytest.raises(InputError, match="workers goes with the engine local"):
        running.run_cells(table, scale, [0], tmp_path, cells=[name], workers=2, engine="ray")


def test_standardized_views_are_seen_standardized_by_every_probe(tmp_path):
    plain = ran(tmp_path / "plain", "table1", ["random"])["random"]
    views = "digits standardize(mean=0.5, std=0.1)"
    changed = ran(tmp_path / "changed", "table1", ["random"], replace(FEW, name="digits,views=x", views=views))[
        "random"
    ]
    train, test = load(FEW.sets[1]), load(FEW.sets[2])
    how = {"protocol": "paper", "epochs": 2, "precision": plain["probe"]["details"]["precision"]}
    config = TrainConfig(views=views)
    deform = {"deform_train": seen(config), "deform_test": seen(config, "digits")}
    [expected] = probe_encoder(networks.build("emnist", train.shape, 0), train, test, layers=[3], **deform, **how)
    assert changed["accuracy"] == expected.accuracy != plain["accuracy"]


def test_a_trained_cell_is_the_probes_own_numbers_at_every_layer(tmp_path):
    """On the encoder that its run left, for another seed than the first."""
    cell, scale = "hinge-gll-bp-constrained", replace(FEW, runs="table1", rate=1e-2, precision="float32")
    last, each = (ran(tmp_path, table, [cell], scale, seed=1)[cell] for table in ("table1", "figure7"))
    run = tmp_path / "runs" / "table1" / "digits" / f"{cell}-seed1"
    assert api.configuration(run).seed == last["config"]["seed"] == 1
    how = {"protocol": "paper", "epochs": 2, "seed": 1, "deform_test": deformation("digits")}
    sets, encoder = [load(name) for name in FEW.sets[1:]], api.load_encoder(run)
    expected = [row.accuracy for row in probe_encoder(encoder, *sets, layers=[1, 2, 3], **how)]
    assert [*each["scores"].values()] == expected and last["accuracy"] == expected[-1]


def test_a_network_with_labels_is_judged_by_its_own_classifier(tmp_path):
    cell, scale = "supervised-dtp-strided", replace(FEW, supervised_epochs=3, precision="float32")
    row = ran(tmp_path, "pooling", [cell], scale)[cell]
    [run] = (tmp_path / "runs").rglob(f"{cell}-seed0")
    assert row["accuracy"] == pytest.approx(api.evaluate(run, FEW.sets[2], test_views="digits"))


def test_a_curves_tenths_and_points(tmp_path, monkeypatch):
    rows = [
        {"step": k, "epoch": k / 10, "site": site, "loss": 1000.0 - k + 2 * site} for k in range(400) for site in (0, 1)
    ]
    monkeypatch.setattr(scores, "learn", lambda job: scores.Learned(None, None, {}, {}))
    monkeypatch.setattr(scores, "read_metrics", lambda folder: rows)
    found = scores.curve(SimpleNamespace(runs=tmp_path, cell=SimpleNamespace(name="one"), seed=0))
    assert found["scores"] == {"first tenth": 1001 - 19.5, "last tenth": 1001 - 379.5}  # means over sites and steps
    assert len(found["points"]) == 200 and found["points"][:2] == [(0.1, 1000.5), (0.3, 998.5)]


def test_separation_is_of_the_first_test_images_averaged_over_places(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "VEHICLES", ("0", "1"))
    cell, scale = "hinge-gll-bp-constrained", replace(FEW, runs="table1", precision="float32")
    row = ran(tmp_path, "figure8", [cell], scale)[cell]
    test = load(FEW.sets[2]).take(0, 40)
    encoder = api.load_encoder(tmp_path / "runs" / "table1" / "digits" / f"{cell}-seed0")
    found = features(encoder, test, [1, 2, 3], pool_to=1, deform=deformation("digits"))
    for kind, labels in (("class", test.labels), ("animal or vehicle", (test.labels < 2).long())):
        for layer, x in found.items():
            assert row["scores"][f"kNN, {kind}"][f"layer {layer}"] == nearest_agreement(x, labels)
            assert row["scores"][f"silhouette, {kind}"][f"layer {layer}"] == pytest.approx(silhouette(x, labels))


def test_cifars_vehicles():
    assert set(scores.VEHICLES) & {*CIFAR10_CLASSES} == {"airplane", "automobile", "ship", "truck"}


@pytest.mark.parametrize("accuracy", ["NaN", "1e6", "true", "null", '"x"'])
def test_results_that_are_no_scores_are_not_merged(tmp_path, accuracy):
    ran(tmp_path, "table1", ["random"])
    [path] = (tmp_path / "results").glob("table1/*/*.json")
    row = read_json(path)
    row["accuracy"] = "HERE"
    row.pop("scores", None)
    path.write_text(json.dumps(row).replace('"HERE"', accuracy))
    with pytest.raises(InputError, match="is not what a cell writes"):
        running.checked(path, TABLES["table1"], *running.chosen(TABLES["table1"], ["random"]), FEW)


def test_cells_that_the_paper_has_a_number_of():
    found = [cell.name for cell in running.chosen(TABLES["table1"], ["published"])]
    assert len(found) == 22 and "random" in found and not any("sgd" in name or "same" in name for name in found)
    with pytest.raises(InputError, match="Unknown cell 'published'"):
        running.chosen(TABLES["figure7"], ["published"])


def test_figure_8_says_how_many_test_images_it_is_of():
    said = CIFAR["small"].said("separation")
    assert said.endswith("scored on the first 1,000 of cifar10:test")


def test_notes_on_views_stand_where_these_are():
    changed = {"views": "paper(strength=0.5)", "test_views": "deformed-cifar(p=0.2, shared=1)"}
    for table, scale, changes, shown in (
        ("table1", "small", {}, 1),
        ("table3", "small", {}, 2),
        ("table3", "digits", {}, 0),
        ("table3", "small", changed, 0),
        ("table4", "small", {}, 1),
        ("table4", "small", {"strength": 0.5}, 0),
    ):
        at = TABLES[table].at(scaled(TABLES[table].scales, scale, **changes))
        notes = ("strengths of the views paper", "one saturation", "rotation up to 30")
        assert sum(any(words in note for words in notes) for note in at.notes) == shown
