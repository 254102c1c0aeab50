"""Training on shards: continued bit for bit, equal on several processes that read different files, in little memory."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

import saccade
from one_and_two import compare, together
from processes import start
from saccade.data import load, shards, write_shards
from saccade.errors import InputError, Stopped
from saccade.ranks import joined
from saccade.training import build, loop, train_step
from saccade.training.folder import read_facts, read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(saccade.load_images("digits:train[:60]"), tmp_path_factory.mktemp("shards") / "set", 15)


@pytest.fixture
def config(tiny, folder):
    return replace(
        tiny, data=f"shards:{folder}?buffer=40?files=3", epochs=3
    )  # a block is two of an epoch's three steps


def interrupted(config, out, number):
    """Train, and send this process a signal in the fifth step, which is in the middle of an epoch and of a block."""

    def step(model, images, at, watch, real=loop.train_step):
        if at == 4:
            os.kill(os.getpid(), number)
        real(model, images, at, watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        saccade.train(config, out=out)


@pytest.mark.parametrize(
    ("schedule", "rule"), [("e2e", "bp"), ("e2e", "dtp"), ("rll", "rf"), ("gll", "urf"), ("simultaneous", "dtp")]
)
def test_a_run_that_was_stopped_ends_in_the_same_bytes(config, tmp_path, schedule, rule):
    config = replace(config, schedule=schedule, rule=rule)
    whole = saccade.train(config, out=tmp_path / "whole")
    with pytest.raises(Stopped, match="Stopped at step 5"):
        interrupted(config, tmp_path / "run", signal.SIGTERM)
    run = saccade.train(config, out=tmp_path / "run")
    assert read_facts(run)["resumed_at"] == 5
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert read_metrics(run) == read_metrics(whole)


def test_a_run_that_was_killed_ends_in_the_same_bytes(config, tmp_path):
    config = replace(config, checkpoint_seconds=1e-9)
    whole = saccade.train(config, out=tmp_path / "whole")
    child = start(tmp_path / "said", interrupted, config, tmp_path / "run", signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    run = saccade.train(config, out=tmp_path / "run")
    assert read_facts(run)["resumed_at"] == 4
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_the_stream_is_not_what_the_run_began_with(config, tmp_path, folder):
    with pytest.raises(Stopped):
        interrupted(config, tmp_path / "run", signal.SIGTERM)
    other = replace(config, data=f"shards:{folder}?buffer=20?files=3")
    with pytest.raises(InputError, match="holds another run"):
        saccade.train(other, out=tmp_path / "run")


def test_two_ranks_end_where_one_process_ends(config):
    cases = [("e2e", "bp"), ("rll", "rf"), ("simultaneous", "dtp")]
    configs = [replace(config, schedule=s, rule=r, precision="float64") for s, r in cases]
    assert max(compare(configs, load(config.data))) < 1e-10


def read_by_rank(config):
    """The files that this rank reads in an epoch, and the pictures that it takes from them."""
    files, pictures = set(), []
    loaded, read = shards.Shards._loaded, shards.Shards._read
    shards.Shards._loaded = lambda self, shard, numbers: files.add(shard) or loaded(self, shard, numbers)
    shards.Shards._read = lambda self, index: pictures.extend(index.tolist()) or read(self, index)
    with joined(torch.device("cpu"), config.batch) as ranks:
        images = load(config.data)
        model = build(config, images, ranks)
        files.clear(), pictures.clear()  # of the picture that shows the views' shape
        images.images._kept.clear()
        for step in range(3):
            train_step(model, images, step)
    return files, pictures


def test_ranks_read_different_files(config, folder):
    config = replace(config, data=f"shards:{folder}?buffer=40?files=4", epochs=1)
    (files_a, pictures_a), (files_b, pictures_b) = together(2, read_by_rank, config)
    assert files_a | files_b == {0, 1, 2, 3} and len(files_a) == len(files_b) == 2
    assert sorted(pictures_a + pictures_b) == list(range(60))


LITTLE = """
import resource, sys, threading, saccade, torch
torch.set_num_threads(1)
threading.stack_size(1 << 20)  # or each thread asks for 8 MiB
here, more = sys.argv[1], int(sys.argv[2])
options = dict(views="crop", size=16, network="conv4 maxpool tanh", head="flatten linear8", loss="hinge(negatives=5)",
               epochs=1, precision="float32")
saccade.train(data="digits:train[:60]", out=f"{here}/small", batch=20, **options)  # what torch takes once
taken = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + more, taken + more))
saccade.train(data=f"shards:{here}/set/*.tar?buffer=32?files=2", out=f"{here}/run", batch=25, **options)
try:
    saccade.load_images(f"shards:{here}/set/*.tar[:]")
except MemoryError:
    print("too large")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit on memory is Linux's")
def test_a_set_that_is_larger_than_the_memory_is_learned_from(tmp_path):
    (tmp_path / "set").mkdir()
    picture = np.random.default_rng(0).integers(256, size=128 * 128 * 3, dtype=np.uint8).tobytes()
    for number in range(4):
        with webdataset.TarWriter(str(tmp_path / "set" / f"{number}.tar")) as shard:
            for k in range(750):
                shard.write({"__key__": f"{k:03d}", "ppm": b"P6 128 128 255\n" + picture[k:] + picture[:k]})
    size = sum(path.stat().st_size for path in (tmp_path / "set").iterdir())
    limit = size * 2 // 3
    done = subprocess.run(
        [sys.executable, "-c", LITTLE, str(tmp_path), str(limit)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "too large\n"), done.stderr[-2000:]
    assert read_facts(tmp_path / "run")["finished"] and read_facts(tmp_path / "run")["data"]["images"] == 3000
