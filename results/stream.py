"""Libraries that read pictures from shards, beside what is built here on one of them; writes results/ranks/stream.json.

pip install webdataset datasets torchdata; saccade shards cifar100:train SHARDS --per 5000; python results/stream.py SHARDS

Each reads shards of PNG files, shuffles 4,096 pictures at a time and decodes, in one process with one thread, and gives
the first pictures of an epoch; then what it saves after 4,000 pictures is given to a new reader, which should go on with
the same ones.
"""

import glob
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

PICTURES, BUFFER, SAVED = 10_000, 4096, 4000


class WebDataset:
    """Keeps no state: a reader begins anew and passes over what was read."""

    def __init__(self, files: list[str]):
        import random

        import webdataset

        pipeline = webdataset.WebDataset(files, shardshuffle=False)
        self.data = pipeline.shuffle(BUFFER, rng=random.Random(0)).decode("rgb8").to_tuple("png")
        self.passed = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for (picture,) in islice(self.data, self.passed, None):
            yield picture

    def save(self) -> Any:
        return SAVED

    def restore(self, state: Any) -> None:
        self.passed = state


class Datasets:
    """Hugging Face datasets' stream of WebDataset's shards, with its own state."""

    def __init__(self, files: list[str]):
        from datasets import load_dataset

        stream: Any = load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
        self.data = stream.shuffle(seed=0, buffer_size=BUFFER)

    def __iter__(self) -> Iterator[np.ndarray]:
        for sample in self.data:
            yield np.asarray(sample["png"])

    def save(self) -> Any:
        return self.data.state_dict()

    def restore(self, state: Any) -> None:
        self.data.load_state_dict(state)


class TorchData:
    """torchdata reads no shards itself: its loader, which keeps the state, around WebDataset's reader."""

    def __init__(self, files: list[str]):
        from torchdata.stateful_dataloader import StatefulDataLoader

        self.data = StatefulDataLoader(_Iterable(files), batch_size=None)

    def __iter__(self) -> Iterator[np.ndarray]:
        for picture in self.data:
            yield np.asarray(picture)

    def save(self) -> Any:
        return self.data.state_dict()

    def restore(self, state: Any) -> None:
        self.data.load_state_dict(state)


class _Iterable(torch.utils.data.IterableDataset):
    def __init__(self, files: list[str]):
        self.files = files

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(WebDataset(self.files))


class Saccade:
    """WebDataset's reader under the keyed order of `saccade.data.shards`; the state is the step."""

    def __init__(self, files: list[str]):
        from saccade.data import load

        self.data = load(f"shards:{Path(files[0]).parent}?buffer={BUFFER}")
        self.step = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for step in range(self.step, len(self.data) // 500):
            yield from self.data.batch(self.data.drawn(0, step, 500)).numpy()

    def save(self) -> Any:
        return SAVED // 500

    def restore(self, state: Any) -> None:
        self.step = state


READERS = {"webdataset": WebDataset, "datasets": Datasets, "torchdata": TorchData, "saccade": Saccade}


def digest(pictures: Iterator[np.ndarray]) -> list[str]:
    return [hashlib.md5(picture.tobytes()).hexdigest() for picture in islice(pictures, 500)]


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(name: str, folder: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    files = sorted(glob.glob(f"{folder}/*.tar"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; getrusage's would be the parent's
    before = peak()
    started = time.perf_counter()
    count = sum(1 for _ in islice(READERS[name](files), PICTURES))
    seconds = time.perf_counter() - started
    memory = peak() - before
    reader = READERS[name](files)
    pictures = iter(reader)
    for _ in range(SAVED):
        next(pictures)
    state = reader.save()
    wanted = digest(pictures)
    again = READERS[name](files)
    again.restore(state)
    started = time.perf_counter()
    exact = digest(iter(again)) == wanted
    return {
        "reader": name,
        "pictures_per_second": round(count / seconds),
        "memory_mib": round(memory),
        "exact_resume": exact,
        "resume_seconds": round(time.perf_counter() - started, 1),
    }


def main(argv: list[str]) -> int:
    if len(argv) == 2:
        print(json.dumps(measure(*argv)))
        return 0
    from saccade.training.folder import surroundings, write_json

    command = [sys.executable, __file__]
    rows = [json.loads(subprocess.check_output([*command, name, argv[0]]).splitlines()[-1]) for name in READERS]
    from importlib.metadata import version

    versions = {name: version(name) for name in ("webdataset", "datasets", "torchdata")}
    facts = surroundings() | {"command": "python results/stream.py SHARDS"}
    write_json(
        Path(__file__).parent / "ranks" / "stream.json",
        {"pictures": PICTURES, "readers": versions, "rows": rows} | facts,
    )
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
