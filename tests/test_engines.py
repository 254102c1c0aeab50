"""Ray and Slurm: a real cluster whose node is killed, a queue whose job is warned. Slow: each starts processes of its own."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import own_slurm
from combinations import config_of
from saccade import sweep


@pytest.mark.slow
def test_a_node_that_is_killed_loses_no_run(tmp_path, capsys):
    pytest.importorskip("ray")
    import killed_node

    assert killed_node.main(["--out", str(tmp_path / "found.json")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("warning", [signal.SIGUSR2, signal.SIGTERM])  # before its time is up; and of a run's own kind
def test_a_job_that_is_warned_is_queued_again_and_continues(tmp_path, monkeypatch, warning):
    submitit = pytest.importorskip("submitit")
    queued = []
    submit = submitit.AutoExecutor.submit_array
    monkeypatch.setattr(
        submitit.AutoExecutor, "submit_array", lambda self, tasks: queued.extend(submit(self, tasks)) or queued
    )

    def warn():
        while not list(out.glob("*/checkpoint-*")):
            time.sleep(0.01)
        controller = queued[0]._process.pid
        [child] = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
        os.kill(int(child), warning)

    base = config_of("e2e", "bp", "hinge", epochs=100, checkpoint_seconds=0.05)
    out = tmp_path / "queue"
    warner = threading.Thread(target=warn)
    warner.start()
    sweep.run(base, {"rule": ["bp"]}, out, engine=f"slurm(cluster=local, folder='{tmp_path / 'slurm'}')")
    warner.join()
    sweep.run(base, {"rule": ["bp"]}, tmp_path / "here", engine="own.in_turn")
    told = [json.loads((place / "sweep.json").read_text())["runs"] for place in (out, tmp_path / "here")]
    assert told[0] == told[1]
    [facts] = [json.loads(path.read_text()) for path in out.glob("*/run.json")]
    assert facts["resumed_at"] > 0


@pytest.mark.slow
@pytest.mark.skipif(bool(own_slurm.missing()), reason=own_slurm.missing())
def test_a_real_slurm_queues_a_warned_job_again_and_it_continues(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    base = config_of("e2e", "bp", "hinge", epochs=100, checkpoint_seconds=0.05)
    out, variations = tmp_path / "queue", {"rule": ["bp", "rf"]}
    with own_slurm.cluster(tmp_path / "cluster") as env:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, env[name])

        def warn():  # as Slurm does before a job's time is up, the first job that has something to continue from
            while not list(out.glob("*/checkpoint-*")):
                time.sleep(0.01)
            subprocess.run(["scancel", "--signal=USR2", "--state=RUNNING", "--user=root"], env=env, check=True)

        warner = threading.Thread(target=warn)
        warner.start()
        sweep.run(base, variations, out, engine=f"slurm(hours=1, folder='{tmp_path / 'slurm'}')")
        warner.join()
        log = (tmp_path / "cluster" / "slurmctld.log").read_text()
    assert "_slurm_rpc_requeue" in log or "Requeu" in log
    sweep.run(base, variations, tmp_path / "here", engine="own.in_turn")
    told = [json.loads((place / "sweep.json").read_text())["runs"] for place in (out, tmp_path / "here")]
    assert told[0] == told[1] and len(told[0]) == 2
    facts = [json.loads(path.read_text()) for path in out.glob("*/run.json")]
    assert max(run["resumed_at"] for run in facts) > 0
