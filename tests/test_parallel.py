"""Small runs side by side."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from saccade.errors import InputError
from saccade.parallel import side_by_side


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


def waits(folder, report):
    (Path(folder) / "began").write_text(str(os.getpid()))
    time.sleep(600)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    # Run as a script, so that the worker finds `waits` where it was defined.
    script = tmp_path / "waiting.py"
    source = Path(__file__).read_text()
    script.write_text(source + f"\n\nif __name__ == '__main__':\n    side_by_side(waits, {{'a': {str(tmp_path)!r}}})\n")
    parent = subprocess.Popen([sys.executable, script])
    began = tmp_path / "began"
    deadline = time.monotonic() + 120
    while not (began.exists() and began.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(began.read_text())
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
