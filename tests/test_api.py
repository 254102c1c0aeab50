"""The library's functions on tiny runs: train, load, probe, embed, page."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import saccade
from saccade import api
from saccade.config.run import read_recipe
from saccade.errors import InputError
from saccade.evaluation.knn import knn_accuracy
from saccade.evaluation.probe import probe as probe_encoder
from saccade.measures import pair_distances
from saccade.training import build, estimate
from saccade.training.model import make_batch


@pytest.fixture
def finished(tiny, tmp_path):
    return saccade.train(tiny, out=tmp_path / "run")


def test_a_finished_run_holds_everything(tiny, finished):
    assert read_recipe(finished / "config.yaml") == tiny
    facts = json.loads((finished / "run.json").read_text())
    assert facts["finished"] and facts["steps"] == 3 and facts["data"]["images"] == 60
    assert {"command", "versions", "hardware", "date", "seconds", "precision"} <= set(facts)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [3]
    assert set(load_file(finished / "weights.safetensors")) == {
        "encoder.0.linear.weight",
        "encoder.1.linear.weight",
        "heads.0.linear.weight",
    }
    assert not list(finished.glob("checkpoint-*"))


def test_load_encoder_gives_a_plain_module_with_the_trained_weights(tiny, finished):
    encoder = saccade.load_encoder(finished)
    assert type(encoder) is torch.nn.Sequential and not encoder.training
    assert_close(
        encoder[0].linear.weight.detach(), load_file(finished / "weights.safetensors")["encoder.0.linear.weight"]
    )
    initial = saccade.load_encoder(finished, initial=True)
    assert not torch.equal(initial[0].linear.weight, encoder[0].linear.weight)
    assert encoder(torch.zeros(2, 1, 28, 28)).shape == (2, 6, 7, 7)


def test_same_seed_same_bytes_other_seed_other_bytes(tiny, tmp_path):
    a, b, c = (
        saccade.train(config, out=tmp_path / name) / "weights.safetensors"
        for name, config in (("a", tiny), ("b", tiny), ("c", replace(tiny, seed=1)))
    )
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


def test_a_finished_run_is_kept_and_another_configuration_refused(tiny, finished):
    before = (finished / "weights.safetensors").stat().st_mtime_ns
    saccade.train(tiny, out=finished)
    assert (finished / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds another run .rate: 0.001 there, 0.5 now"):
        saccade.train(replace(tiny, rate=0.5), out=finished)


def test_a_folder_with_other_files_is_refused_and_left_alone(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds other files and no run"):
        saccade.train(tiny, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_refused_run_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(InputError):
        saccade.train(replace(tiny, batch=61), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipes_and_options(tmp_path, tiny):
    run = saccade.train("digits", out=tmp_path / "run", **{**asdict(tiny), "seed": 3})
    assert api.configuration(run) == replace(tiny, seed=3)
    with pytest.raises(InputError, match="no recipe 'digit'; it takes a YAML file or one of cifar, digits"):
        saccade.train("digit")
    with pytest.raises(InputError, match="unknown field 'lr'"):
        saccade.train("digits", lr=1)


def test_a_recipe_may_write_a_rate_with_an_exponent(tmp_path):
    """YAML reads 5e-4 as text."""
    path = tmp_path / "mine.yaml"
    path.write_text("rate: 5e-4\n")
    assert read_recipe(path).rate == 5e-4
    path.write_text("rate: fast\n")
    with pytest.raises(InputError, match="rate='fast'; it takes float"):
        read_recipe(path)


def test_init_from_starts_at_the_trained_encoder(tiny, finished, tmp_path):
    config = replace(tiny, init_from=str(finished), rate=1e-30)
    further = saccade.load_encoder(saccade.train(config, out=tmp_path / "further"))
    assert_close(further[1].linear.weight, saccade.load_encoder(finished)[1].linear.weight, atol=1e-9, rtol=0)
    with pytest.raises(InputError, match="holds an encoder of other layers"):
        saccade.train(replace(config, network="conv4 maxpool tanh"), out=tmp_path / "other")


def test_before_training_is_the_encoder_that_the_run_began_with(tiny, tmp_path):
    """What has no head of its own is compared: CLAPP's features."""
    config = replace(tiny, loss="clapp(negatives=3)")
    first = saccade.train(config, out=tmp_path / "first")
    further = saccade.train(replace(config, init_from=str(first)), out=tmp_path / "further")
    began, trained = saccade.load_encoder(further, initial=True), saccade.load_encoder(first)
    assert all(map(torch.equal, began.parameters(), trained.parameters()))
    assert_close(api.distances(further)["before"], api.distances(first)["after"], rtol=0, atol=0)
    [from_first], [random] = (saccade.margins(replace(tiny, init_from=init)) for init in (str(first), None))
    assert not torch.equal(from_first.positives, random.positives)
    (first / "weights.safetensors").write_bytes((further / "weights.safetensors").read_bytes())
    (first / "run.json").write_bytes((further / "run.json").read_bytes())
    for use in (lambda: saccade.load_encoder(further, initial=True), lambda: api.distances(further)):
        with pytest.raises(InputError, match="is not the one that .*further began with"):
            use()
    assert "is not the one that" in api.page(further).read_text()  # the rest of the page needs no such encoder
    with pytest.raises(InputError, match="cannot be read"):
        api.dry_run(replace(tiny, init_from=str(tmp_path / "nowhere")))


def test_an_audit_needs_no_encoder_to_begin_with(tiny):
    assert saccade.audit(replace(tiny, init_from="nowhere"), steps=1).configuration["init_from"] == "nowhere"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda run: saccade.train(images=torch.zeros(9, 1, 8, 8)),
            "The images are of type Tensor; it takes an ImageSet",
        ),
        (lambda run: saccade.train(images=["a.png"]), "The images are of type list; it takes an ImageSet"),
        (lambda run: saccade.audit(images=7), "The images are of type int; it takes an ImageSet"),
        (lambda run: saccade.train({"rate": 1.0}), "The recipe is {'rate': 1.0}; it takes a TrainConfig, or the name"),
        (lambda run: saccade.load_images("digits", device="gpu"), "The device 'gpu' cannot be used here"),
        (lambda run: saccade.probe(run, "digits:train", "digits:test", seed="a"), "seed is 'a'; it takes a whole"),
        (lambda run: saccade.embed(run, 5), "The images are of type int; it takes an ImageSet"),
        (lambda run: saccade.load_images(5), "The data is a int; it takes what names images"),
        (lambda run: saccade.embed(run, "digits", layer=1.0), "layer is 1.0; the run"),
        (lambda run: saccade.margins("digits", batches=1.5), "batches is 1.5; it takes a whole number"),
        (lambda run: saccade.audit("digits", steps="3"), "steps is '3'; it takes a whole number"),
        (lambda run: saccade.reproduce("table1", seeds=1.5), "seeds is 1.5; it takes a whole number"),
        (lambda run: saccade.reproduce("table1", cells="random"), "cells is 'random'; it takes a list"),
        (lambda run: saccade.reproduce("table1", pairs=1.5), "pairs is 1.5; it takes a whole number"),
        (lambda run: saccade.reproduce("table1", views=5), "views is 5; it takes a text"),
        (lambda run: saccade.reproduce("table1", m9=1), "A scale has no 'm9'; it takes pairs,"),
        (lambda run: saccade.compare(run, run), "The runs to compare are"),
        (
            lambda run: saccade.probe(run, "digits:train", "digits:test", epochs=3),
            "epochs goes with the protocol paper",
        ),
    ],
)
def test_what_is_of_another_kind_is_refused(finished, call, sentence):
    with pytest.raises(InputError) as error:
        call(finished)
    assert str(error.value).startswith(sentence)


def test_probe_is_kept_with_the_run_and_says_what_it_is(finished):
    plain, deformed = (
        saccade.probe(finished, "digits:train[:200]", "digits:test[:100]", layers=[1, 2], test_views=v)
        for v in (None, "digits")
    )
    assert [r.layer for r in plain] == [1, 2] and plain[1].train_size == 200
    assert plain[1].accuracy > 60 and deformed[1].accuracy < plain[1].accuracy
    rows = json.loads((finished / "probes.json").read_text())["probes"]
    assert [(r["layer"], r["test_views"]) for r in rows] == [(1, None), (2, None), (1, "digits"), (2, "digits")]


def test_a_probe_of_images_in_memory_keeps_their_name(finished):
    images = saccade.load_images("digits:train[:100]")
    saccade.probe(finished, images, images)
    [row] = json.loads((finished / "probes.json").read_text())["probes"]
    assert (row["train"], row["test"]) == ("digits:train[:100]",) * 2


def test_probe_refuses_what_does_not_fit(finished, tmp_path):
    colour = tmp_path / "colour.npz"
    np.savez(colour, images=np.zeros((4, 28, 28, 3), np.uint8), labels=np.zeros(4, np.int64))
    with pytest.raises(InputError, match="3 channels; the run .* takes 1"):
        saccade.probe(finished, str(colour), str(colour))


def test_embed_equals_the_encoder(finished):
    images = saccade.load_images("digits:test[:7]")
    x = images.batch(torch.arange(7)).float() / 255
    found = saccade.embed(finished, images, layer=1)
    assert_close(found, saccade.load_encoder(finished)[0](x).flatten(1).detach())
    untrained = saccade.embed(finished, images, layer=1, initial=True)
    assert_close(untrained, saccade.load_encoder(finished, initial=True)[0](x).flatten(1).detach())
    assert not torch.equal(untrained, found)
    with pytest.raises(InputError, match="layer is 3; the run"):
        saccade.embed(finished, images, layer=3)


def test_a_supervised_run_classifies(tiny, tmp_path):
    config = replace(tiny, data="digits:train[:400]", views="none", loss="cross-entropy", epochs=15, rate=1e-2)
    run = saccade.train(config, out=tmp_path / "supervised")
    assert saccade.evaluate(run, "digits:test") > 80
    assert saccade.evaluate(run, "digits:test") > saccade.evaluate(run, "digits:test", test_views="digits")
    test = saccade.load_images("digits:test")
    for changes in ({"classes": test.classes[::-1]}, {"labels": test.labels + 1, "classes": None}):
        with pytest.raises(InputError, match="digits:test has other classes than"):
            saccade.evaluate(run, replace(test, **changes))


def test_an_unsupervised_run_classifies_nothing(finished):
    with pytest.raises(InputError, match="trained without labels"):
        saccade.evaluate(finished, "digits:test")


def test_labels_are_needed_only_where_a_loss_reads_them(tiny, tmp_path):
    images = saccade.load_images("digits:train[:60]").without_labels()
    saccade.train(tiny, out=tmp_path / "a", images=images)
    with pytest.raises(InputError, match="learns from labels, and the images .* have none"):
        saccade.train(replace(tiny, loss="cross-entropy"), out=tmp_path / "b", images=images)


def test_poisoned_labels_change_nothing(tiny, tmp_path):
    """What the hinge loss learns is the same to the bit with shuffled labels."""
    images = saccade.load_images("digits:train[:60]")
    poisoned = replace(images, labels=images.labels.flip(0))
    a, b = (saccade.train(tiny, out=tmp_path / n, images=i) for n, i in (("a", images), ("b", poisoned)))
    assert (a / "weights.safetensors").read_bytes() == (b / "weights.safetensors").read_bytes()


def test_distances_before_and_after(tiny, finished):
    found = api.distances(finished)
    assert [len(d) for d in found["before"]] == [20, 20 * 19]
    assert not torch.equal(found["before"][0], found["after"][0])


def test_the_page_is_one_file_with_its_figures(finished):
    page = saccade.page(finished).read_text()
    assert "hinge(m2=1.5, negatives=5, block=true)" in page
    assert page.count("data:image/") >= 3  # loss curve, views, distances
    assert "<script" not in page and 'src="http' not in page


def test_a_page_draws_no_pictures_that_the_run_did_not_learn_from(tiny, tmp_path):
    path = tmp_path / "mine.npz"
    pictures = saccade.load_images("digits:train[:60]").images.numpy().transpose(0, 2, 3, 1)
    np.savez(path, images=pictures)
    run = saccade.train(replace(tiny, data=str(path)), out=tmp_path / "run")
    np.savez(path, images=255 - pictures)
    said = "are not those that .* learned from"
    assert re.search(said, saccade.page(run).read_text())
    for call in (api.distances, api.tensorboard):
        with pytest.raises(InputError, match=said):
            call(run)
    assert api.distances(run, "digits:train[:60]") and api.tensorboard(run, images="digits:train[:60]")


def test_numbers_may_be_numpys(tiny, tmp_path):
    run = saccade.train(tiny, rate=np.float64(1e-3), batch=np.int64(20), out=tmp_path / "run")
    assert api.configuration(run) == replace(tiny, rate=1e-3, batch=20)
    data, how = "digits:train[:60]", {"protocol": "paper", "epochs": np.int64(1), "rate": np.float64(1e-3)}
    saccade.probe(run, data, data, seed=np.int64(1), **how)
    assert '"seed": 1,' in (run / "probes.json").read_text()


def test_dry_run_says_what_a_run_takes(tiny):
    said = api.dry_run(tiny)
    assert said["encoder"] == "2 layers, 252 parameters" and said["steps"] == "3 of 20 pictures"  # 4*9 + 6*4*9 weights


def test_dry_run_asks_the_device_that_it_was_given(tiny, monkeypatch):
    asked, images = [], saccade.load_images(tiny.data)
    monkeypatch.setattr("saccade.training.estimate.pick_device", lambda name: torch.device("cuda:1"))
    monkeypatch.setattr("saccade.training.estimate.load", lambda *args, **options: images)
    monkeypatch.setattr("torch.cuda.synchronize", asked.append)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", asked.append)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: asked.append(device) or 0)
    api.dry_run(tiny)
    assert (
        asked == [torch.device("cuda:1")] * 4
    )  # at the start, before the clock starts, before it stops, for the memory


def test_dry_run_is_deterministic_from_the_first_product_on(tiny, monkeypatch):
    """cuBLAS looks at its workspace once, so that what is built must be built like that, too."""
    seen = []
    monkeypatch.setattr(
        estimate, "build", lambda *given: seen.append(torch.are_deterministic_algorithms_enabled()) or build(*given)
    )
    api.dry_run(replace(tiny, deterministic=True))
    assert seen == [True]


@pytest.mark.parametrize("rule", ["rf", "dtp"])
def test_diagnostics_are_lines_of_the_metrics(tiny, tmp_path, rule):
    run = saccade.train(replace(tiny, rule=rule, diagnostics=2), out=tmp_path / rule)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "angle_to_bp" in row]
    assert [row["step"] for row in measured] == [1, 3]
    assert measured[0]["angle_to_bp"]["head.linear.weight"] == pytest.approx(0, abs=1e-3)
    assert 45 < measured[0]["angle_to_bp"]["layers.0.linear.weight"] < 135
    assert {"embedding_std", "rank_me", "participation_ratio"} <= set(measured[0])
    assert ("reconstruction" in measured[0]) == (rule == "dtp")
    assert ("feedback_angle" in measured[0]) == (rule == "rf")
    unmeasured = saccade.train(replace(tiny, rule=rule), out=tmp_path / "unmeasured")
    assert (unmeasured / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


def test_pictures_are_read_at_the_size_that_the_run_learned_from(tiny, tmp_path):
    run = saccade.train(replace(tiny, size=16), out=tmp_path / "run")
    images = saccade.load_images("digits:train[:60]")
    x = saccade.load_encoder(run)(saccade.views.parse("none", 16)(images.images, torch.arange(60))).flatten(1)
    assert x.shape[1] == 6 * 4 * 4
    assert_close(saccade.embed(run, images), x, rtol=1e-4, atol=1e-5)
    [found] = saccade.probe(run, images, images, protocol="knn", precision="float32")
    assert (found.features, found.accuracy) == ("6x4x4 = 96", knn_accuracy(x, images.labels, x, images.labels, k=20))


def test_what_training_did_to_every_picture_is_done_to_those_that_are_read(tiny, tmp_path):
    run = saccade.train(replace(tiny, views="digits standardize(mean=0.3, std=0.2)"), out=tmp_path / "run")
    images = saccade.load_images("digits:train[:60]")
    encoder = saccade.load_encoder(run)
    x = encoder(((images.batch(torch.arange(60)).float() / 255) - 0.3) / 0.2).flatten(1)
    assert_close(saccade.embed(run, images), x, rtol=1e-4, atol=1e-5)
    [found] = saccade.probe(run, images, images, protocol="knn", precision="float32")
    assert found.accuracy == knn_accuracy(x, images.labels, x, images.labels, k=20)
    for refused in (lambda: saccade.export(run, tmp_path / "e"), lambda: saccade.brainscore_model(run)):
        with pytest.raises(InputError, match=r"standardize\(mean=0.3, std=0.2\), which other programs would leave out"):
            refused()
    assert not (tmp_path / "e").exists()


def test_every_option_of_a_probe_reaches_it(tiny, tmp_path):
    run = saccade.train(replace(tiny, rate=0.1), out=tmp_path / "run")
    train, test = saccade.load_images("digits:train[:200]"), saccade.load_images("digits:test[:100]")
    how = {"protocol": "paper", "epochs": 3, "rate": 0.05, "batch": 30, "seed": 4, "precision": "float32"}
    found = []
    for initial in (False, True):
        [row] = saccade.probe(run, train, test, layers=[1], initial=initial, **how)
        [expected] = probe_encoder(saccade.load_encoder(run, initial=initial), train, test, layers=[1], **how)
        assert row == expected
        found.append(row.accuracy)
    assert found[0] != found[1]


def test_distances_after_training_are_those_of_the_trained_embeddings(tiny, tmp_path):
    run = saccade.train(replace(tiny, rate=0.1), out=tmp_path / "run")
    images, weights = saccade.load_images(tiny.data), load_file(run / "weights.safetensors")
    x = make_batch(build(tiny, images), images, 0)[0].x
    z = saccade.load_encoder(run)(x).flatten(1).detach() @ weights["heads.0.linear.weight"].T
    for found, expected in zip(api.distances(run)["after"], pair_distances(*z.chunk(2)), strict=True):
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_summary_tells_the_first_and_the_last_loss(tiny, tmp_path):
    run = saccade.train(replace(tiny, epochs=3), out=tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3 and api.summary(run)["loss"] == f"{losses[0]:.4g} to {losses[2]:.4g}"


def test_a_probe_by_neighbours_takes_no_seed(tiny, tmp_path):
    run = saccade.train(tiny, out=tmp_path / "run")
    with pytest.raises(InputError, match="the protocol knn draws nothing"):
        saccade.probe(run, "digits:train[:60]", "digits:test[:20]", protocol="knn", seed=5)


@pytest.mark.parametrize("layer", [True, 1.5, "2"])
def test_layers_are_whole_numbers(tiny, tmp_path, layer):
    run = saccade.train(tiny, out=tmp_path / "run")
    with pytest.raises(InputError, match="layer is"):
        saccade.embed(run, "digits:test[:9]", layer=layer)
    with pytest.raises(InputError, match="layer is"):
        saccade.export(run, tmp_path / "model.pt2", to="pt2", layer=layer)
