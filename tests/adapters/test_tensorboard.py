"""What TensorBoard reads back of a run's event files is what the run wrote."""

import json
import sys

import pytest
import torch

import saccade
from saccade.adapters.tensorboard import few_features, scalars
from saccade.errors import InputError

EventAccumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator


def read(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0, "histograms": 0})
    return found.Reload()


def test_curves_views_histograms_and_embeddings(run, tmp_path):
    out = saccade.tensorboard(run, tmp_path / "events", images="digits:test[:30]")
    events = read(out)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for site in (0, 1):
        expected = [(row["step"], row["loss"]) for row in rows if row["site"] == site and "loss" in row]
        found = [(event.step, event.value) for event in events.Scalars(f"loss/site {site + 1}")]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    assert "angle_to_bp/site 1/layers.0.linear.weight" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["views"] and events.Images("views")[0].width > 8 * 28
    before, after = events.Histograms("weights/0.linear.weight")
    assert (before.step, after.step) == (0, 6) and before.histogram_value != after.histogram_value
    [features] = out.rglob("tensors.tsv")
    assert [len(line.split("\t")) for line in features.read_text().splitlines()] == [256] * 30
    [labels] = out.rglob("metadata.tsv")
    images = saccade.load_images("digits:test[:30]")
    assert labels.read_text().split() == [images.classes[k] for k in images.labels.tolist()]
    assert list(out.rglob("sprite.png"))


def test_written_again_it_replaces_itself(run, tmp_path):
    out = saccade.tensorboard(run, tmp_path / "events", images="digits:test[:9]")
    saccade.tensorboard(run, out, images="digits:test[:9]")
    assert len(list(out.glob("events*"))) == 1
    (out / "000000.png").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        saccade.tensorboard(run, out)
    assert (out / "000000.png").read_text() == "mine"


def test_a_run_under_way_is_written_as_far_as_it_is(run, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    facts = json.loads((run / "run.json").read_text()) | {"finished": False}
    (half / "run.json").write_text(json.dumps(facts))
    for name in ("config.yaml", "metrics.jsonl"):
        (half / name).write_bytes((run / name).read_bytes())
    events = read(saccade.tensorboard(half))
    assert events.Scalars("loss/site 1") and len(events.Histograms("weights/0.linear.weight")) == 1


def test_without_the_package_it_is_one_sentence(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"it takes pip install .saccade.tensorboard."):
        saccade.tensorboard(run)


def test_of_many_features_those_that_vary_most_are_kept_in_their_order():
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 9.0, 0.1, 5.0, 0.0, 7.0]
    )
    assert few_features(features, 3).equal(features[:, [1, 3, 5]]) and few_features(features, 6) is features


def test_inverses_are_numbered_as_on_the_page():
    assert scalars({"step": 5, "site": 0, "reconstruction": [0.5, 0.25]}) == {
        "reconstruction/site 1/layer 2": 0.5,
        "reconstruction/site 1/layer 3": 0.25,
    }
