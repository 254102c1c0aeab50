"""Seconds of the probes on the CIFAR network's features of 60,000 pictures, and of starting up.

    python -m benchmarks.probes --train cifar10:train --test cifar10:test --out benchmarks/results/probes.json

The exact probe is made in full, at every layer. Of the paper's protocol on the flattened last layer, 45,000 pictures, a few
epochs are timed and multiplied to 400. The encoder is one at its random start, which takes the probes as long as another.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from saccade import networks
from saccade.data import ImageSet, load
from saccade.evaluation.features import features
from saccade.evaluation.linear import fit_adam
from saccade.evaluation.probe import probe
from saccade.training import pick_device, pick_precision
from saccade.training.folder import surroundings

PAPER_EPOCHS = 400


def exact(train: ImageSet, test: ImageSet, precision: str) -> dict[str, Any]:
    encoder = networks.build("cifar", train.shape, 0).eval()
    layers = list(range(1, len(encoder) + 1))
    started = time.perf_counter()
    results = probe(encoder, train, test, layers=layers, precision=precision)
    accuracy = {str(result.layer): result.accuracy for result in results}
    return {
        "seconds": time.perf_counter() - started,
        "pictures": len(train) + len(test),
        "features": {str(result.layer): result.features for result in results},
        "accuracy at the random start": accuracy,
    }


def paper(train: ImageSet, precision: str, epochs: int) -> dict[str, Any]:
    encoder = networks.build("cifar", train.shape, 0).eval()
    last = len(encoder)
    started = time.perf_counter()
    x = features(encoder, train, [last], precision=precision)[last]
    making = time.perf_counter() - started
    assert train.labels is not None
    times = [time.perf_counter()]
    fit_adam(
        x,
        train.labels,
        10,
        epochs=epochs + 1,
        precision=precision,
        progress=lambda *_: times.append(time.perf_counter()),
    )
    # The first epoch's time holds what is done once, such as rounding the features.
    each = (times[-1] - times[1]) / epochs
    first = times[1] - times[0]
    return {
        "pictures": len(train),
        "features": x.shape[1],
        "epochs timed": epochs,
        "seconds an epoch": each,
        "seconds": making + first + (PAPER_EPOCHS - 1) * each,
    }


def start_up(repeats: int = 5) -> dict[str, float]:
    """Seconds from the shell's view, medians of processes one after another."""
    commands = {
        "saccade --help": ["-m", "saccade", "--help"],
        "import torch": ["-c", "import torch"],
        "import saccade": ["-c", "import saccade; saccade.train"],
        "nothing": ["-c", ""],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", default="cifar10:train")
    parser.add_argument("--test", default="cifar10:test")
    parser.add_argument("--epochs", type=int, default=8, help="timed epochs of the paper's protocol")
    parser.add_argument("--parts", nargs="+", default=["start", "paper", "exact"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    precision = pick_precision("auto", pick_device("auto"))
    train, test = load(args.train), load(args.test)
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    measures = {
        "start": start_up,
        "paper": lambda: paper(train.take(0, len(train) * 9 // 10), precision, args.epochs),
        "exact": lambda: exact(train, test, precision),
    }
    for name in args.parts:
        found[name] = measures[name]()
        print(name, json.dumps(found[name]), flush=True)
        found |= {"precision": precision, "threads": torch.get_num_threads(), **surroundings()}
        found["command"] = " ".join(["python -m benchmarks.probes", *sys.argv[1:]])
        if args.out:
            args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
