"""The benchmarks run, tiny, and count what they say that they count; no figure of time is looked at."""

import json

import pytest
import torch

from benchmarks import gpu, growth, machine, rivals, train_step
from benchmarks.ours import Ours
from benchmarks.render import render
from saccade.config.run import TrainConfig
from saccade.losses.hinge import contrastive_hinge

CPU = torch.device("cpu")
NET = "conv4 hardtanh | conv4 maxpool"
TINY = ["--network", NET, "--batch", "6", "--steps", "1", "--turns", "2", "--device", "cpu", "--precision", "float32"]


def test_the_plain_ways_loss_is_the_same_loss():
    z_a, z_b = torch.randn(2, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(rivals.repeated_hinge(z_a, z_b), contrastive_hinge(z_a, z_b))


def test_lightlys_views_are_torchvisions():
    of_lightly = {type(t).__name__: t for t in rivals.lightly_views(32).transforms[0].transform.transforms}
    plain = {type(t).__name__: t for t in rivals.torchvision_views(32).__closure__[0].cell_contents.transforms}
    assert [name for name in of_lightly if name in plain] == list(plain)
    idle = set(of_lightly) - set(plain)
    assert idle == {"RandomVerticalFlip", "RandomRotate", "GaussianBlur"}
    assert of_lightly["RandomVerticalFlip"].p == of_lightly["RandomRotate"].prob == of_lightly["GaussianBlur"].prob == 0
    crops, jitters = ([of[name] for of in (of_lightly, plain)] for name in ("RandomResizedCrop", "RandomApply"))
    assert crops[0].scale == crops[1].scale == (0.08, 1.0)
    assert jitters[0].p == jitters[1].p
    of_each = [jitter.transforms[0] for jitter in jitters]
    for strength in ("brightness", "contrast", "saturation", "hue"):
        assert list(getattr(of_each[0], strength)) == list(getattr(of_each[1], strength))


@pytest.fixture
def small_matrices(monkeypatch):
    monkeypatch.setattr(machine, "matrix_rate", lambda precision, device: 1e9)
    monkeypatch.setattr(machine, "bandwidth", lambda device, bytes=0: 1e9)


def test_a_table_of_rules_and_schedules_beside_the_rivals(small_matrices, tmp_path, capsys):
    out = tmp_path / "steps.json"
    options = [
        *TINY,
        "--rule",
        "rf",
        "dtp",
        "--schedule",
        "e2e",
        "rll",
        "--stages",
        "all",
        "--workers",
        "0",
        "--out",
        str(out),
    ]
    train_step.main(options)
    found = json.loads(out.read_text())
    assert list(found["turns"]) == [
        *("ours, e2e bp", "ours, e2e rf", "ours, e2e dtp", "ours, rll rf", "ours, rll dtp"),
        *("the plain way", "lightly's transform and loss"),
    ]
    assert all(len(turns) == 2 for turns in found["turns"].values())
    assert train_step.ratio(found, "ours, e2e bp") == 1
    # Two layers, the first of 32x32x4 outputs of 27 terms, the second of 36: forward and both backward products, but the
    # first's error is not sent down to the pixels.
    first, second = (2 * 6 * 2 * 32 * 32 * 4 * terms for terms in (27, 36))
    assert found["ours"]["ours, e2e bp"]["convolution flops"] == 2 * first + 3 * second
    assert set(found["ours"]["ours, e2e bp"]["stages"]) == {
        "views",
        "forward",
        "loss",
        "backward",
        "optimizer",
        "other",
    }
    shown = capsys.readouterr().out
    assert "| ours, rll dtp |" in shown


def test_layers_that_take_turns_have_them_equally_often():
    for schedule, sites in (("rll", {(0,), (1,)}), ("gll", {(0,), (1,)}), ("e2e", {(0,)}), ("simultaneous", {(0, 1)})):
        config = TrainConfig(network=NET, batch=4, schedule=schedule, epochs=10, device="cpu")
        ours = Ours(config, train_step.pictures(None, CPU, 40))
        turns = [ours.model.schedule.sites(0, step, 2, ours.model.steps_per_site) for step in ours.steps]
        assert len(turns) == len(sites) and set(turns) == sites


def test_peak_memory_counts_what_is_there_at_once():
    def work():
        for _ in range(3):
            a = torch.ones(1000)
            b = a + 1
            del a
            b.add_(1)

    assert machine.peak_memory(work, CPU) in range(8000, 12100)  # two at once; a third while the next round's is made


def test_the_few_negatives_loss_is_linear_in_memory_and_no_loss_makes_the_repeated_tensor():
    few, many = (
        [growth.loss_point(growth.LOSSES[name], n, CPU)["bytes"] for n in (128, 256)]
        for name in ("5 negatives", "all negatives")
    )
    assert few[1] < 2.2 * few[0]
    assert many[1] < 256 * 256 * 64 * 4


def test_the_gpu_figures_dry_run(tmp_path, monkeypatch, capsys, small_matrices):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["gpu", "--dry-run", "--seconds", "-1", "--out", str(out)])
    gpu.main()
    assert "call again" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "parts", lambda device, dry: {name: (lambda n=name: {"n": n}) for name in ("a", "b")})
    monkeypatch.setattr("sys.argv", ["gpu", "--dry-run", "--out", str(out)])
    gpu.main()
    assert json.loads(out.read_text())["parts"] == {"a": {"n": "a"}, "b": {"n": "b"}}
    monkeypatch.setattr(gpu, "parts", lambda device, dry: dict.fromkeys(("a", "b"), pytest.fail))
    gpu.main()
    assert "all done" in capsys.readouterr().out


def test_a_part_of_the_gpu_figures_that_fails_leaves_the_others_to_the_next_call(tmp_path, monkeypatch, capsys):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "parts", lambda device, dry: {"a": lambda: 1 / 0, "b": lambda: 2})
    monkeypatch.setattr("sys.argv", ["gpu", "--dry-run", "--out", str(out)])
    gpu.main()
    assert "a failed (ZeroDivisionError: division by zero): call again" in capsys.readouterr().out
    gpu.main()
    assert "all done" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["parts"], list(found["failed"])) == ({"b": 2}, ["a"])


def test_a_cell_that_may_be_captured_trains_as_ever():
    config = TrainConfig(network=NET, batch=4, schedule="rll", epochs=2, device="cpu", precision="float32")
    images = train_step.pictures(None, CPU, 20)
    found = gpu.same_as_eager(config, images, 4)
    assert found["difference"] == 0 and found["moved"] > 0
    assert gpu.seconds_a_step([gpu.Captured(config, images) for _ in range(2)], 2, CPU) > 0


def test_results_are_rendered_from_the_committed_figures(tmp_path):
    render(tmp_path)
    assert (tmp_path / "benchmarks" / "RESULTS.md").read_text().startswith("# ")
