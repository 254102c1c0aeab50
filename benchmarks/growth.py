"""Speed and memory of a step as it grows: with the batch, the width, the depth, the side of the images; and of the losses.

    python -m benchmarks.growth --out benchmarks/results/growth.json

Memory is the most bytes of tensors allocated at once during a step, beyond weights, data and optimizer state: views,
activations, gradients. The networks are chains like the CIFAR network's: `depth` takes convolutions of 32 channels
without pools, so that every layer's features have one size. Each point is the fastest of a few steps.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.config.run import TrainConfig
from saccade.losses.hinge import contrastive_hinge
from saccade.training import pick_device
from saccade.training.folder import surroundings

from . import machine, rivals
from .ours import Ours
from .train_step import pictures

SCHEDULES = ("e2e", "rll", "simultaneous")
REPEATED = "all negatives, repeated tensor"
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all negatives": contrastive_hinge,
    "5 negatives": partial(contrastive_hinge, negatives=5),
    REPEATED: rivals.repeated_hinge,
}


def network(width: float = 1.0) -> str:
    """The CIFAR network with `width` times its channels."""
    a, b, c = (max(1, round(width * channels)) for channels in (32, 64, 512))
    return f"conv{a} hardtanh | conv{a} maxpool | conv{b} hardtanh | conv{b} maxpool | conv{c} maxpool"


def deep(layers: int) -> str:
    return " | ".join(["conv32 hardtanh"] * layers)


def point(device: torch.device, side: int = 32, rounds: int = 3, **changes: Any) -> dict[str, Any]:
    """Peak memory and, in some rounds, pairs a second of one configuration; of schedules whose layers take turns the mean over turns, and
    the peak of the largest turn."""
    config = TrainConfig(**{"batch": 100, "network": network(), "epochs": 1000, "device": str(device), **changes})
    ours = Ours(config, pictures(None, device, max(200, 2 * config.batch), side))
    ours.run()
    row: dict[str, Any] = {"bytes": machine.peak_memory(ours.run, device)}
    if rounds:
        each = min(machine.seconds(ours.run, device) for _ in range(rounds)) / len(ours.steps)
        row["pairs per second"] = config.batch / each
    return row


def loss_point(loss: Callable[[Tensor, Tensor], Tensor], batch: int, device: torch.device) -> dict[str, Any]:
    """Seconds and peak memory of one loss, forward and backward, on embeddings of width 64."""
    z_a, z_b = (torch.randn(batch, 64, device=device, requires_grad=True) for _ in range(2))

    def both() -> None:
        torch.autograd.grad(loss(z_a, z_b), (z_a, z_b))

    both()
    return {
        "seconds": min(machine.seconds(both, device) for _ in range(3)),
        "bytes": machine.peak_memory(both, device),
    }


def sweep(name: str, values: Iterable[Any], measure: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for value in values:
        rows.append({name: value, **measure(value)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def parts(device: torch.device, quick: bool = False, timed: bool = True) -> dict[str, Callable[[], Any]]:
    """The sweeps; `quick` takes two small points of each, and without `timed` only memory is looked at."""

    def at(rounds: int = 3, **changes: Any) -> dict[str, Any]:
        rounds = rounds if timed else 0
        return (
            point(device, rounds=min(rounds, 1), **{**changes, "batch": 8})
            if quick
            else point(device, rounds=rounds, **changes)
        )

    def cut(*values: Any) -> tuple[Any, ...]:
        return values[:2] if quick else values

    def of_schedule(schedule: str) -> list[dict[str, Any]]:
        return sweep("depth", cut(1, 2, 4, 8, 16), lambda k: at(network=deep(k), schedule=schedule, batch=20, rounds=1))

    def of_loss(name: str) -> list[dict[str, Any]]:
        most = 1024 if name == REPEATED else 4096  # its tensors are of 268 MB each at 1,024
        batches = (16, 32) if quick else (64, 256, 512, 1024, 2048, 4096)
        return sweep("batch", [n for n in batches if n <= most], lambda n: loss_point(LOSSES[name], n, device))

    return {
        "cifar network": lambda: {s: at(schedule=s, batch=500, rounds=1) for s in SCHEDULES},
        "depth": lambda: {schedule: of_schedule(schedule) for schedule in SCHEDULES},
        "loss": lambda: {name: of_loss(name) for name in LOSSES},
        "batch": lambda: sweep("batch", cut(64, 256, 1024, 4096), lambda n: at(batch=n, rounds=2)),
        "width": lambda: sweep("width", cut(0.25, 0.5, 1, 2), lambda width: at(network=network(width))),
        "side": lambda: sweep("side", cut(32, 48, 64, 96), lambda side: at(side=side)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="two small points a sweep, to try it out")
    parser.add_argument("--memory", action="store_true", help="memory alone, of which other load changes nothing")
    parser.add_argument("--parts", nargs="+", help="which sweeps; all")
    parser.add_argument("--out", type=Path, help="a JSON file; sweeps that are not made anew stay in it")
    args = parser.parse_args()
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name, part in parts(pick_device(args.device), args.quick, not args.memory).items():
        if name in (args.parts or [name]):
            found[name] = part()
            found |= {**surroundings(), "command": " ".join(["python -m benchmarks.growth", *sys.argv[1:]])}
            print(name, json.dumps(found[name]), flush=True)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
