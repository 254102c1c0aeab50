"""Small runs side by side."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import saccade
from processes import start, wait_for
from saccade.errors import Held, InputError, RunError, Stopped
from saccade.parallel import side_by_side
from saccade.signals import asking_to_stop
from saccade.training import checkpoint


def squared(task, report):
    if task < 0:
        raise InputError(f"{task} is below 0.")
    report(1.0)
    return task * task, torch.get_num_threads()


def test_results_come_by_name_in_order_each_from_one_thread():
    told: list[float] = []
    found = side_by_side(squared, {"c": 3, "a": 1, "b": 2}, workers=2, progress=told.append)
    assert list(found.items()) == [("c", (9, 1)), ("a", (1, 1)), ("b", (4, 1))]
    assert told[-1] == 1.0


def test_a_task_that_fails_ends_all():
    with pytest.raises(InputError, match="-1 is below 0"):
        side_by_side(squared, {"a": 1, "b": -1}, workers=1)


def talking(task, report):
    for number in range(task):
        report(number / task)
    return task


def test_reports_that_outrun_the_listener_hold_nobody_up():
    assert side_by_side(talking, {"a": 20_000}, workers=1) == {"a": 20_000}


def test_what_progress_raises_is_raised_when_the_tasks_are_done():
    def fails(share):
        raise ZeroDivisionError("of the caller's")

    with pytest.raises(ZeroDivisionError, match="of the caller's"):
        side_by_side(talking, {"a": 5_000}, workers=1, progress=fails)


def held(task, report):
    report(1.0)
    if task < 0:
        raise Held(f"{task} is being written by another process.")


def test_a_task_that_another_process_is_at_is_left_out_and_the_others_are_done(tmp_path):
    done = []
    with pytest.raises(RunError, match="^1 of 3 were left out.* The first: -1 is being written"):
        side_by_side(held, {"a": -1, "b": 1, "c": 2}, workers=1, progress=done.append)
    assert done[-1] == 1.0


def test_a_script_is_not_run_again_by_the_workers(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path}\nprint('once', flush=True)\nfrom saccade.parallel import side_by_side\n"
        "from test_parallel import squared\nprint(side_by_side(squared, {'a': 3}, workers=1)['a'][0], __file__)"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (ran.stdout.split(), ran.stderr) == (["once", "9", str(script)], "")


def waiting(task, report):
    """Fails once the other has begun, or goes on for half a minute and says so."""
    folder, fails = task
    if fails:
        wait_for(lambda: (folder / "began").exists())
        raise InputError("No.")
    (folder / "began").touch()
    time.sleep(30)
    (folder / "ended").touch()


def test_a_task_that_fails_does_not_wait_for_the_others_to_end(tmp_path):
    with pytest.raises(InputError, match="No."):
        side_by_side(waiting, {"a": (tmp_path, True), "b": (tmp_path, False)}, workers=2)
    assert not (tmp_path / "ended").exists()


def killed(task, report):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_said_in_one_sentence():
    with pytest.raises(RunError, match="^A worker was killed, .* the same command continues.$"):
        side_by_side(killed, {"a": 1}, workers=1)


def train_forever(task, report):
    folder, config = task
    (folder.parent / "worker").write_text(str(os.getpid()))
    saccade.train(config, out=folder)


def parent(folder, config):
    try:
        side_by_side(train_forever, {"a": (folder, config)}, workers=1)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 130


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_a_signal_to_the_parent_alone_saves_the_runs_and_ends_in_one_sentence(tiny, tmp_path, numbers):
    config, run = replace(tiny, epochs=1e6, checkpoint_seconds=1e6), tmp_path / "run"
    child = start(tmp_path / "said", parent, run, config)
    wait_for(lambda: (run / "metrics.jsonl").exists())
    for number in numbers:
        os.kill(child.pid, number)
        time.sleep(0.05)
    child.join()
    assert child.exitcode == 130
    assert (tmp_path / "said").read_text() == "Stopped; what was trained is saved, and the same command continues.\n"
    assert len(checkpoint.found(run)) == 1


def stops_slowly(task, report):
    """Takes a second from the signal to its end, as a long step does."""
    task.touch()
    asked = []
    with asking_to_stop(lambda: asked.append(True)):
        for _ in range(200):
            time.sleep(0.1 if not asked else 1)
            if asked:
                raise Stopped("Stopped.")


def test_a_worker_that_was_stopped_begins_no_other_task(tmp_path):
    """The pool hands out a task ahead, and cannot take it back."""

    def stopped():
        try:
            side_by_side(stops_slowly, {name: tmp_path / name for name in "abc"}, workers=1)
        except Stopped:
            return 130

    child = start(tmp_path / "said", stopped)
    wait_for(lambda: (tmp_path / "a").exists())
    time.sleep(0.5)
    os.kill(child.pid, signal.SIGTERM)
    child.join()
    assert child.exitcode == 130 and not (tmp_path / "b").exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_worker_whose_parent_is_killed_saves_its_run_and_ends(tiny, tmp_path):
    """It would hold the run's folder for ever, and the same command could not go on."""
    config, run = replace(tiny, epochs=1e6, checkpoint_seconds=1e6), tmp_path / "run"
    child = start(tmp_path / "said", parent, run, config)
    wait_for(lambda: (run / "metrics.jsonl").exists())
    child.kill()
    child.join()
    worker = (tmp_path / "worker").read_text()
    wait_for(lambda: not alive(worker))
    assert len(checkpoint.found(run)) == 1  # which only a signal makes it write
