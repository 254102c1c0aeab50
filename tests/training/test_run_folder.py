"""A run's folder: one writer, full disks, metrics' lines, what is recorded about where a run came from."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
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


def test_a_folder_that_is_refused_keeps_its_files(tiny, tmp_path):
    for name in (".lock", "notes.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        saccade.train(tiny, out=tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {".lock": "mine", "notes.txt": "mine"}


def test_a_tilde_is_the_home(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert saccade.train(tiny, out="~/run") == tmp_path / "run"
    assert saccade.train(tiny, init_from=tmp_path / "run", out=tmp_path / "next") == tmp_path / "next"


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


def test_a_run_is_settled_by_all_but_where_it_is_computed_and_how_it_is_watched(tiny):
    watched = {"device", "data_root", "download", "checkpoint_seconds", "divide"}
    assert vars(tiny).keys() - folder.settled(tiny).keys() == watched


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
    with pytest.raises(InputError, match="are not those that .* learned from"):
        saccade.train(endless, out=run, images=others)


def test_a_finished_run_is_not_given_for_other_images_or_another_start(tiny, images, tmp_path):
    others = saccade.load_images("digits:train[60:120]")
    first, second = (saccade.train(replace(tiny, seed=s), out=tmp_path / str(s), images=images) for s in (0, 1))
    with pytest.raises(InputError, match="are not those that .* learned from"):
        saccade.train(tiny, out=first, images=others)
    config = replace(tiny, init_from=str(first))
    run = saccade.train(config, out=tmp_path / "run", images=images)
    for name in ("weights.safetensors", "run.json"):
        (first / name).write_bytes((second / name).read_bytes())
    with pytest.raises(InputError, match="is not the one that .* began with"):
        saccade.train(config, out=run, images=images)


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


def interrupted(config, run, said) -> None:
    """A run that was killed once it had a checkpoint."""
    child = start(said, train_here, replace(config, checkpoint_seconds=0.01), run)
    wait_for(lambda: list(run.glob("checkpoint-*")))
    child.kill()
    child.join()


def test_a_configuration_that_was_edited_after_the_run_began_is_refused(endless, tiny, images, tmp_path):
    run = tmp_path / "run"
    interrupted(endless, run, tmp_path / "said")
    recipe = run / "config.yaml"
    recipe.write_text(recipe.read_text().replace("rate: 0.001", "rate: 0.002"))
    for config in (endless, replace(endless, rate=0.002)):
        with pytest.raises(InputError, match=r"is not what the run began with \(rate: 0.001 there, 0.002 now\)"):
            saccade.train(config, out=run, images=images)
    done = saccade.train(tiny, out=tmp_path / "done", images=images)
    recipe = done / "config.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 0", "seed: 1"))
    for use in (lambda: saccade.load_encoder(done, initial=True), lambda: saccade.verify(done)):
        with pytest.raises(InputError, match=r"seed: 0 there, 1 now"):
            use()


def test_other_conditions_on_going_on_are_said(endless, images, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    interrupted(endless, run, tmp_path / "said")
    facts = json.loads((run / "run.json").read_text())
    facts["versions"]["torch"], facts["hardware"]["threads"] = "1.0", 99
    folder.write_json(run / "run.json", facts)

    def enough(step, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saccade.train(endless, out=run, images=images, progress=enough)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "may end in other bits" in said
    assert "torch: 1.0 there" in said and "threads: 99 there, 1 now" in said and "device" not in said
    earlier = json.loads((run / "run.json").read_text())["earlier"]
    assert [part["versions"]["torch"] for part in earlier] == ["1.0"]
    (run / "run.json").unlink()  # the parts before are forgotten; the run goes on
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            saccade.train(endless, out=run, images=images, progress=enough)
    assert len(folder.read_facts(run)["earlier"]) == 1


def test_the_command_is_kept_as_a_shell_takes_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/saccade", "sweep", "digits", "rule=[bp, rf]", "--seeds", "3"])
    assert folder.surroundings()["command"] == "saccade sweep digits 'rule=[bp, rf]' --seeds 3"


def add_twenty(run: Path, number: int) -> None:
    for seed in [*range(20), 0]:  # the last of which is there already
        folder.add_probes(run, [ROW | {"layer": number, "seed": seed}])


ROW = {"layer": 1, "seed": 0, "accuracy": 50.0, "train_size": 1, "test_size": 1, "details": {}}
ROW |= {"protocol": "knn", "features": "9"}


def test_probes_of_two_processes_are_all_kept(tmp_path):
    children = [start(tmp_path / f"said{n}", add_twenty, tmp_path, n) for n in (1, 2)]
    for child in children:
        child.join()
    rows = folder.read_probes(tmp_path)
    assert sorted((row["layer"], row["seed"]) for row in rows) == list(product((1, 2), range(20)))


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "weights.safetensors", "probes.json"])
@pytest.mark.parametrize("kind", ["pipe", "sparse"])
def test_a_file_that_would_never_end_or_fill_the_memory_is_refused(tiny, images, tmp_path, name, kind):
    """A pipe, or a file of a terabyte that takes no room on the disk."""
    run = saccade.train(tiny, out=tmp_path / "run", images=images)
    (run / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(run / name)
    else:
        with (run / name).open("wb") as stream:
            stream.truncate(1 << 40)
    with pytest.raises(InputError, match=f"{name} cannot be read"):
        saccade.verify(run) if name == "metrics.jsonl" else saccade.probe(run, images, images, protocol="knn")


# ------------------------------------------------------------------------------------- what is killed leaves nothing half


class Deadly:
    """Kill this process at the n-th call that touches a disk: before a flush, before a renaming, before a removal."""

    def __init__(self, patch, moment: int):
        self.left = moment
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, self.before(getattr(owner, name)))

    def before(self, real):
        def call(*args, **options):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            return real(*args, **options)

        return call


def killed_at(moment: int, argv: list[str], work: Path) -> int:
    os.chdir(work)
    with pytest.MonkeyPatch.context() as patch:
        Deadly(patch, moment)
        return main(argv)


def killed_at_every_moment(argv: list[str], work: Path, check) -> int:
    """Kill the command at its first, second, ... touch of the disk, `check` what is there, until it ends in peace."""
    for moment in range(100):
        child = start(work / "said", killed_at, moment, argv, work)
        child.join()
        check()
        if child.exitcode != -signal.SIGKILL:
            assert child.exitcode == 0, (work / "said").read_text()
            return moment
    raise AssertionError("it never ended")


def test_a_run_killed_at_each_of_its_writes_ends_as_one_untouched(tiny, images, tmp_path):
    config = replace(tiny, checkpoint_seconds=1e-9)
    untouched = saccade.train(config, out=tmp_path / "untouched", images=images)
    (tmp_path / "mine.yaml").write_text(saccade.config.run.to_yaml(config))

    def check() -> None:
        for path in (tmp_path / "run").glob("*.json"):
            json.loads(path.read_text())
        assert all(checkpoint._read(path) for path in checkpoint.found(tmp_path / "run"))

    moments = killed_at_every_moment(["train", "mine.yaml", "--out", "run", "--quiet"], tmp_path, check)
    assert moments > 3
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (untouched / name).read_bytes()
    assert not checkpoint.found(tmp_path / "run") and not list((tmp_path / "run").glob(".*.part"))


@pytest.mark.parametrize(
    ("argv", "made"),
    [
        ("probe run --train digits:train[:60] --test digits:test[:30] --protocol knn --quiet", "run/probes.json"),
        ("embed run digits:test[:9] -o x.npz", "x.npz"),
        ("page run", "run/page.html"),
        ("views digits:test[:4] --views digits --rows 2 --count 2 -o sheet.png", "sheet.png"),
    ],
)
def test_a_command_killed_at_each_of_its_writes_leaves_the_file_before_or_the_file_after(
    tiny, images, tmp_path, argv, made
):
    saccade.train(tiny, out=tmp_path / "run", images=images)
    path = tmp_path / made
    contents = []

    def check() -> None:
        contents.append(path.read_bytes() if path.exists() else None)

    assert killed_at_every_moment(argv.split(), tmp_path, check) > 1
    assert contents[-1] is not None and set(contents) == {None, contents[-1]}
    assert not list(path.parent.glob(".*.part"))


@pytest.mark.parametrize("damage", ["gone", "empty", "torn", "altered"])
def test_a_finished_run_whose_weights_are_not_what_it_wrote_is_not_taken_as_done(tiny, images, tmp_path, damage):
    run = saccade.train(tiny, out=tmp_path / "run", images=images)
    weights = run / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes({"empty": b"", "torn": content[:-9], "altered": content}.get(damage, b""))
    if damage == "gone":
        weights.unlink()
    with pytest.raises(InputError, match="weights.safetensors (cannot be read|is not what the run wrote)"):
        saccade.train(tiny, out=run, images=images)


def test_a_probe_made_again_is_kept_once(tiny, tmp_path):
    run = saccade.train(tiny, out=tmp_path / "run")
    for _ in range(2):
        saccade.probe(run, "digits:train[:100]", "digits:test[:50]")
    [row] = folder.read_probes(run)
    assert row["details"]["held_out"]  # whose keys are numbers, and texts when they come back


def test_probes_say_where_their_images_were(tiny, tmp_path):
    run = saccade.train(tiny, out=tmp_path / "run")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        digits = saccade.load_images("digits:train[:60]")
        np.savez(tmp_path / name / "set.npz", images=digits.images.numpy()[:, 0], labels=digits.labels.numpy())
    saccade.probe(run, tmp_path / "a" / "set.npz", tmp_path / "b" / "set.npz", protocol="knn")
    [row] = folder.read_probes(run)
    assert [row["train"], row["test"]] == [str(tmp_path / name / "set.npz") for name in ("a", "b")]


@pytest.mark.parametrize("loss", [str(10**400), "1e308", "true"])
def test_lines_of_numbers_that_cannot_be_drawn_are_passed_over(tmp_path, loss):
    line = '{"step": 1, "site": 0, "epoch": 1, "loss": %s}\n'
    (tmp_path / "metrics.jsonl").write_text(line % "2.5" + line % loss)
    assert [row["loss"] for row in folder.read_metrics(tmp_path)] == [2.5]


def test_probes_without_features_are_refused(tmp_path):
    (tmp_path / "probes.json").write_text(json.dumps({"probes": [{k: v for k, v in ROW.items() if k != "features"}]}))
    with pytest.raises(InputError, match="is not what a probe writes"):
        folder.read_probes(tmp_path)
