"""The loop: numbers watched, nothing learned from what is not to be learned from, a run replayed."""

import html
import json
import re
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import saccade
from saccade.cli import main
from saccade.config.names import LOSSES
from saccade.errors import InputError, RunError
from saccade.training import build, checkpoint, loop
from saccade.training.folder import read_facts, read_metrics
from saccade.training.model import make_batch


@pytest.fixture(scope="module")
def images():
    return saccade.load_images("digits:train[:60]")


def stops(config, run, images) -> str:
    with pytest.raises(RunError) as stop:
        saccade.train(config, out=run, images=images)
    return str(stop.value)


@pytest.mark.parametrize("diagnostics", [0, 1])
def test_a_run_that_diverges_stops_at_that_step(tiny, images, tmp_path, diagnostics):
    config = replace(tiny, network="conv4 leakyrelu | conv6 leakyrelu", optimizer="sgd", rate=1e5, epochs=100)
    config = replace(config, checkpoint_seconds=1e-9, diagnostics=diagnostics)
    said = stops(config, tmp_path, images)
    newest = checkpoint.found(tmp_path)[0]
    step = int(newest.name.split("-")[1]) + 1
    assert "of site 1 (layers 1 to 2)" in said and f"not finite at step {step};" in said
    assert f"last good checkpoint: {newest.name}" in said
    assert all(t.isfinite().all() for t in load_file(newest).values())
    assert all(row["step"] < step for row in read_metrics(tmp_path))


def test_a_weight_is_looked_at_before_it_is_saved(tiny, images, tmp_path):
    config = replace(tiny, loss="own.gradient_of_nan", schedule="gll", checkpoint_seconds=1e-9)
    said = stops(config, tmp_path, images)
    assert said == (
        "The weights of site 1 (layers 1 to 1) (layers.0.linear.weight, head.linear.weight) are not finite at step 1; "
        "last good checkpoint: none. A lower rate may help."
    )
    assert not checkpoint.found(tmp_path)


def test_the_command_line_exits_with_1(tiny, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(saccade.config.run.to_yaml(replace(tiny, loss="own.gradient_of_nan")))
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("saccade: The weights of site 1")


@pytest.mark.parametrize(
    ("changes", "warning", "sentence"),
    [
        ({"loss": "own.collapsing", "head": "flatten linear8 hardtanh"}, "collapse", "nearly all alike"),
        ({"loss": "own.Killing", "network": "conv4 relu"}, "dead units", "% of the units of site 1 have one value"),
    ],
)
def test_a_collapse_is_warned_of_once(tiny, images, tmp_path, capsys, changes, warning, sentence):
    saccade.train(replace(tiny, rate=0.1, epochs=20, **changes), out=tmp_path, images=images)
    rows = [row for row in read_metrics(tmp_path) if row.get("warning") == warning]
    assert len(rows) == 1 and rows[0]["site"] == 0 and rows[0]["step"] < 60
    assert capsys.readouterr().err.count(sentence) == 1


def test_a_healthy_run_is_warned_of_nothing(tiny, images, tmp_path, capsys):
    saccade.train(replace(tiny, epochs=5, schedule="simultaneous"), out=tmp_path, images=images)
    assert not [row for row in read_metrics(tmp_path) if "warning" in row] and capsys.readouterr().err == ""


@pytest.mark.parametrize(("loss", "images_seen"), [("hinge(m2=1.5, negatives=5)", 20), ("cross-entropy", 1)])
def test_the_logged_loss_is_an_images_mean_since_the_last_time(tiny, images, tmp_path, loss, images_seen):
    """Of a network that stays as it is: a sum over 20 images, and a mean."""
    config = replace(tiny, loss=loss, rate=1e-30, epochs=7 / 3)
    rows = read_metrics(saccade.train(config, out=tmp_path, images=images))
    model = build(config, images)
    [site] = model.sites
    losses = []
    for step in range(7):
        made, labels = make_batch(model, images, step)
        z = site(made.x)[1]
        value = site.loss(*z.chunk(2)) if labels is None else site.loss(z, labels)
        losses.append(float(value.detach()) / images_seen)
    expected = [(3, 1.0, losses[:3]), (6, 2.0, losses[3:6]), (7, 2.3333, losses[6:])]
    assert [(row["step"], row["epoch"]) for row in rows] == [at[:2] for at in expected]
    assert [row["loss"] for row in rows] == pytest.approx([sum(some) / len(some) for *_, some in expected], rel=1e-5)


def test_weights_to_start_from_that_are_not_finite_are_refused(tiny, images, tmp_path):
    from safetensors.torch import save_file

    source = saccade.train(tiny, out=tmp_path / "a", images=images)
    tensors = load_file(source / "weights.safetensors")
    tensors["encoder.1.linear.weight"][0] = torch.nan
    save_file(tensors, source / "weights.safetensors")
    with pytest.raises(InputError, match="holds weights that are not finite"):
        saccade.train(replace(tiny, init_from=str(source)), out=tmp_path / "b", images=images)
    assert not (tmp_path / "b").exists()


# ------------------------------------------------------------------------------------------------ nothing is confused


@pytest.mark.parametrize("loss", [name for name, entry in LOSSES.items() if "labels" not in entry.facts])
def test_labels_touch_no_training_without_them(tiny, images, tmp_path, loss):
    from combinations import config_of

    config = config_of("e2e", "bp", loss, epochs=2 / 3)
    poisoned = replace(images, labels=images.labels.roll(7))
    a, b = (saccade.train(config, out=tmp_path / n, images=i) for n, i in (("a", images), ("b", poisoned)))
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_test_images_touch_neither_the_run_nor_the_probes_choice(tiny, images, tmp_path):
    run = saccade.train(tiny, out=tmp_path / "run", images=images)
    before = (run / "weights.safetensors").read_bytes()
    test = saccade.load_images("digits:test[:100]")
    poisoned = replace(test, images=255 - test.images, labels=test.labels.roll(3))
    [plain], [other] = (saccade.probe(run, "digits:train[:200]", t) for t in (test, poisoned))
    [deformed] = saccade.probe(run, "digits:train[:200]", test, test_views="digits")
    assert plain.details == other.details == deformed.details and plain.accuracy > other.accuracy + 20
    assert (run / "weights.safetensors").read_bytes() == before


# ----------------------------------------------------------------------------------------------------------- replayed


def test_verify_finds_a_run_reproduced_and_the_first_line_that_is_not(tiny, tmp_path, capsys):
    run = saccade.train(replace(tiny, epochs=4, diagnostics=2), out=tmp_path / "run")
    assert main(["verify", str(run), "--rows", "2"]) == 0
    assert capsys.readouterr().out == f"{run} is reproduced exactly here: 5 lines, to step 6.\n"
    assert saccade.verify(run, rows=99).exact
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    place = next(k for k, row in enumerate(rows) if row["step"] == 6 and "loss" in row)
    rows[place]["loss"] *= 1 + 1e-15
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["verify", str(run), "--rows", "1"]) == 0
    assert main(["verify", str(run)]) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"{json.dumps(rows[place])} in the run, {lines[place]} here; versions, hardware" in said


def test_verify_finds_a_line_too_many(tiny, images, tmp_path):
    run = saccade.train(tiny, out=tmp_path / "run", images=images)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines, lines[-1]]))
    verdict = saccade.verify(run, images=images)
    assert not verdict.exact and "null here" in verdict.said


def test_verify_takes_as_many_threads_as_the_run_had(tiny, images, tmp_path, monkeypatch):
    """What two threads sum up may differ in its last bits from what one does."""
    used, step = set(), loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: (used.add(torch.get_num_threads()), step(*args)))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        run = saccade.train(tiny, out=tmp_path / "run", images=images)
    finally:
        torch.set_num_threads(before)
    assert used == {before + 1}
    assert saccade.verify(run, images=images).exact and used == {before + 1} and torch.get_num_threads() == before


def test_verify_refuses_what_it_cannot_replay(tiny, images, tmp_path):
    run = saccade.train(tiny, out=tmp_path / "run", images=images)
    with pytest.raises(InputError, match="rows is 0"):
        saccade.verify(run, rows=0)
    with pytest.raises(InputError, match="are not those that .* learned from"):
        saccade.verify(run, images=saccade.load_images("digits:train[60:120]"))
    (run / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match="has logged no losses yet"):
        saccade.verify(run)


def in_two_parts(config, out, images, monkeypatch, second=None):
    """A run that is interrupted after step 5 of 12 and goes on, in the precision `second`."""

    def stop(step, steps, loss):
        if step == 6:
            raise KeyboardInterrupt

    config = replace(config, epochs=4, checkpoint_seconds=1e-9, precision="auto")
    for precision, progress in (("float32", stop), (second or "float32", None)):
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr("saccade.training.model.pick_precision", lambda *names, kept=precision: kept)
            saccade.train(config, out=out, images=images, progress=progress)
    facts = read_facts(out)
    assert facts["finished"] and facts["resumed_at"] == 5
    assert facts["pairs_per_second"] * facts["seconds"] == pytest.approx(7 * config.batch, rel=0.3)  # of this part
    return out


def test_verify_replays_a_run_that_went_on_up_to_where_its_conditions_changed(tiny, images, tmp_path, monkeypatch):
    run = in_two_parts(tiny, tmp_path / "alike", images, monkeypatch)
    assert saccade.verify(run, rows=99, images=images).said.endswith("4 lines, to step 12.")
    run = in_two_parts(tiny, tmp_path / "other", images, monkeypatch, "bfloat16")
    assert saccade.verify(run, rows=99, images=images).said.endswith("1 lines, to step 3.")
    facts = json.loads((run / "run.json").read_text())
    facts["earlier"][0]["versions"]["torch"] = "1.0"
    (run / "run.json").write_text(json.dumps(facts))
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines.replace('"loss": ', '"loss": 1', 1))
    assert saccade.verify(run, images=images).said.endswith("what differs here: versions.")
    facts["resumed_at"] = 2
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="logged no losses yet before step 2, from which it went on under other cond"):
        saccade.verify(run, images=images)


@pytest.mark.parametrize("earlier", [["x"], [{"resumed_at": "soon"}]])
def test_parts_of_a_run_that_none_writes_are_refused(tiny, images, tmp_path, earlier):
    run = saccade.train(tiny, out=tmp_path / "run", images=images)
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"earlier": earlier}))
    with pytest.raises(InputError, match="is not what a run writes"):
        saccade.verify(run, images=images)


@pytest.mark.parametrize("network", ["own.dropping", "own.normalizing"])
def test_diagnostics_change_no_draw_and_no_running_statistic(tiny, images, tmp_path, network):
    config = replace(tiny, network=network, rule="dtp", schedule="simultaneous(block=2)")
    kept = [
        saccade.train(replace(config, diagnostics=d), out=tmp_path / str(d), images=images) / "weights.safetensors"
        for d in (0, 1)
    ]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_a_weight_of_ones_own_that_is_called_feedback_is_kept(tiny, images, tmp_path):
    run = saccade.train(replace(tiny, network="own.recurrent", schedule="e2e"), out=tmp_path / "run", images=images)
    learned = dict(saccade.load_encoder(run).named_parameters())
    [name] = [name for name in learned if name.endswith("feedback")]
    assert not torch.equal(learned[name], torch.eye(4))
    converted = saccade.train(replace(tiny, rule="rf", schedule="e2e"), out=tmp_path / "rf", images=images)
    assert not any("feedback" in name for name in load_file(converted / "weights.safetensors"))


@pytest.mark.parametrize("schedule", ["e2e", "gll"])
def test_what_a_rule_of_ones_own_adds_to_the_network_is_not_among_its_weights(tiny, images, tmp_path, schedule):
    bp, own = (
        saccade.train(replace(tiny, rule=rule, schedule=schedule), out=tmp_path / rule, images=images)
        for rule in ("bp", "own.Adding")
    )
    learned = [load_file(run / "weights.safetensors") for run in (bp, own)]
    assert learned[0].keys() == learned[1].keys()
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])
    assert torch.equal(saccade.embed(own, images), saccade.embed(bp, images))


def test_a_rule_that_gives_weights_other_names_is_refused(tiny, images, tmp_path):
    with pytest.raises(InputError, match=r"own.Renaming takes encoder.0.* away or gives it another name"):
        saccade.train(replace(tiny, rule="own.Renaming"), out=tmp_path / "run", images=images)
    assert not (tmp_path / "run").exists()


def test_a_network_of_ones_own_that_takes_patches_alone_trains_on_them(tiny, images, tmp_path):
    config = replace(tiny, loss="hinge-patches", views="crop", size=32, network="own.of_patches")
    run = saccade.train(config, out=tmp_path / "run", images=images)
    assert json.loads((run / "run.json").read_text())["picture"] == [1, 16, 16]


@pytest.mark.parametrize("loss", ["byol", "moco"])
def test_the_slow_copy_starts_at_the_encoder_that_the_run_begins_with(tiny, images, tmp_path, loss):
    source = saccade.train(tiny, out=tmp_path / "source", images=images)
    [site] = build(replace(tiny, loss=loss, init_from=str(source)), images).sites
    began = saccade.load_encoder(source)
    for layers in (site.layers, site.slow[0]):
        assert all(map(torch.equal, layers.parameters(), began.parameters()))


def test_weights_that_are_not_what_the_run_wrote_are_refused(tiny, images, tmp_path):
    from safetensors.torch import save_file

    run = saccade.train(tiny, out=tmp_path / "run", images=images)
    tensors = load_file(run / "weights.safetensors")
    tensors["encoder.1.linear.weight"][0] += 1e-6
    save_file(tensors, run / "weights.safetensors")
    said = "is not what the run wrote (its hash differs)"
    reads = (
        lambda: saccade.load_encoder(run),
        lambda: saccade.probe(run, images, images),
        lambda: saccade.embed(run, images),
        lambda: saccade.export(run, tmp_path / "model"),
    )
    for read in reads:
        with pytest.raises(InputError, match=re.escape(said)):
            read()
    assert said in html.unescape(saccade.page(run).read_text())


def test_a_run_goes_on_from_the_encoder_that_it_began_with(tiny, images, tmp_path):
    first, second = (saccade.train(replace(tiny, seed=s), out=tmp_path / str(s), images=images) for s in (0, 1))
    config = replace(tiny, init_from=str(first), epochs=2)
    run = tmp_path / "run"

    def stop(step, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saccade.train(config, out=run, images=images, progress=stop)
    for name in ("weights.safetensors", "run.json"):
        (first / name).write_bytes((second / name).read_bytes())
    with pytest.raises(InputError, match="is not the one that .* began with"):
        saccade.train(config, out=run, images=images)
    with pytest.raises(InputError, match="is not the one that .* began with"):
        saccade.verify(run, images=images)


@pytest.mark.parametrize("case", [("gll", "dtp", "hinge"), ("e2e", "urf", "moco"), ("rll", "dfa", "hinge-patches")])
def test_deterministic_changes_nothing_on_a_processor(images, tmp_path, case):
    from combinations import config_of

    config = config_of(*case)
    a, b = (
        saccade.train(replace(config, deterministic=d), out=tmp_path / str(d), images=images) for d in (False, True)
    )
    assert not torch.are_deterministic_algorithms_enabled()  # as before
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
