"""A run's folder: one writer, full disks, metrics' lines, what is recorded about where a run came from."""

import json
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import saccade
from processes import mount_small, start, wait_for
from saccade.cli import main
from saccade.errors import InputError
from saccade.training import checkpoint, folder


@pytest.fixture(scope="module")
def images():
    return saccade.load_images("digits:train[:60]")


@pytest.fixture
def endless(tiny):
    return replace(tiny, epochs=1e6)


def test_a_second_process_is_refused_at_once_and_a_dead_ones_lock_taken_over(endless, images, tmp_path):
    run = tmp_path / "run"
    first = start(tmp_path / "said", train_here, replace(endless, checkpoint_seconds=0.01), run)
    wait_for(lambda: list(run.glob("checkpoint-*")))
    with pytest.raises(InputError, match="is being written by another process; it takes one at a time"):
        saccade.train(endless, out=run, images=images)
    first.kill()
    first.join()
    assert (run / ".lock").exists()
    second = start(tmp_path / "said", train_here, endless, run)
    wait_for(lambda: json.loads((run / "run.json").read_text()).get("resumed_at"))
    second.kill()
    second.join()


def train_here(config, run: Path) -> int:
    (run.parent / "mine.yaml").write_text(saccade.config.run.to_yaml(config))
    return main(["train", str(run.parent / "mine.yaml"), "--out", str(run), "--quiet"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=str)
def test_a_signal_saves_first_and_the_same_command_goes_on(endless, tmp_path, number):
    """Ctrl-C, an end that is asked for, and a batch system's warning."""
    run, said = tmp_path / "run", tmp_path / "said"
    child = start(said, train_here, endless, run)
    wait_for(lambda: (run / "metrics.jsonl").exists())
    child._popen._send_signal(number)
    child.join()
    [saved] = checkpoint.found(run)
    step = int(saved.name.split("-")[1])
    assert child.exitcode == 130
    assert (
        said.read_text() == f"saccade: Stopped at step {step} of 3000000, which is saved; the same command continues.\n"
    )
    child = start(said, train_here, endless, run)
    wait_for(lambda: json.loads((run / "run.json").read_text())["resumed_at"] == step)
    child.kill()
    child.join()


def on_a_small_disk(small: Path, config, fills: bool, copy: Path) -> int:
    """Train on 8 MB until they are full; exit code 75 where that cannot be tried."""
    if not mount_small(small, 8):
        return 75

    def fill(step, steps, loss):
        if fills:
            with suppress(OSError), (small / "filler").open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))

    from saccade import api

    real, api.run_training = api.run_training, lambda *a, **k: real(*a, **k | {"progress": fill})
    code = train_here(config, small / "run")
    shutil.copytree(small / "run", copy)  # nobody else sees the mount
    return code


@pytest.mark.parametrize("what", ["checkpoint", "metrics.jsonl"])
def test_a_full_disk_ends_the_run_in_a_sentence_and_leaves_what_was_written(tiny, images, tmp_path, what):
    small, said, copy = tmp_path / "small", tmp_path / "said", tmp_path / "copy"
    small.mkdir()
    config = replace(tiny, data="digits:train[:60]", head="flatten linear850")  # 3 MB a checkpoint
    changes = (
        {"epochs": 4, "checkpoint_seconds": 1e-9} if what == "checkpoint" else {"epochs": 80, "checkpoint_seconds": 1e6}
    )
    config = replace(config, **changes)
    child = start(said, on_a_small_disk, small, config, what == "metrics.jsonl", copy)
    child.join()
    if child.exitcode == 75:
        pytest.skip("mounting a file system is forbidden here")
    assert child.exitcode == 1, said.read_text()
    assert said.read_text().count("\n") == 1
    assert said.read_text().startswith(f"saccade: {what}")
    assert "could not be written" in said.read_text() and "No space left on device" in said.read_text()
    assert len(checkpoint.found(copy)) == (2 if what == "checkpoint" else 0)
    assert all(checkpoint._read(path) for path in checkpoint.found(copy))
    on, untouched = (saccade.train(config, out=out, images=images) for out in (copy, tmp_path / "untouched"))
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (on / name).read_bytes() == (untouched / name).read_bytes()


def test_a_folder_where_a_process_died_before_its_first_file_is_taken(tiny, images, tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.part").write_text("rate: 0.")
    assert saccade.train(tiny, out=tmp_path, images=images) == tmp_path


def test_other_images_on_going_on_are_refused(endless, images, tmp_path):
    run = tmp_path / "run"
    child = start(tmp_path / "said", train_here, replace(endless, checkpoint_seconds=0.01), run)
    wait_for(lambda: list(run.glob("checkpoint-*")))
    child.kill()
    child.join()
    others = saccade.load_images("digits:train[60:120]")
    with pytest.raises(InputError, match="are not those that the run in .* began with"):
        saccade.train(endless, out=run, images=others)


@pytest.mark.parametrize("end", ['{"step": 4, "si', "[1]\n", '{"site": 1}\n', "\n", "\x00\x00"])
def test_lines_after_a_broken_one_are_passed_over(tmp_path, end):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "site": 0}\n' + end)
    assert folder.read_metrics(tmp_path) == [{"step": 3, "site": 0}]
    assert folder.Metrics(tmp_path, 2).path.read_text() == ""


def test_a_warning_is_given_once_a_run(tmp_path, capsys):
    for step in (1, 2):
        folder.Metrics(tmp_path, 9).warn(0, step, "collapse", "alike.")
    assert [row["step"] for row in folder.read_metrics(tmp_path)] == [1]
    assert capsys.readouterr().err == "Step 1: alike.\n"


def test_a_changed_source_tree_is_recorded(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    module = tmp_path / "src" / "saccade" / "training" / "folder.py"
    module.parent.mkdir(parents=True)
    module.write_text("1")
    monkeypatch.setattr(folder, "__file__", str(module))
    assert folder.source_tree() == {}
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    found = folder.source_tree()
    assert len(found["commit"]) == 40 and not found["changed"]
    (tmp_path / "notes").write_text("outside the package")
    assert folder.source_tree() == found
    module.write_text("2")
    assert folder.source_tree() == found | {"changed": True}
