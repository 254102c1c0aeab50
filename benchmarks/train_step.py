"""Pairs a second of a full training step (views, forward, update, optimizer), ours and others', in one process, in turns.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --rule rf urf dtp --schedule rll simultaneous --rivals none --out steps.json

The first line is always ours with E2E BP and the same loss; each named rule and schedule follows in every combination
that exists, with its ratio to that line in time. Of layer-wise schedules the time is a mean over the layers' turns.
Rivals learn by E2E BP with all negatives, whatever was chosen for ours. A figure is that of the fastest turn, for
other programs only ever slow one down; the table says how much they kept the processor busy during that turn. Processor
time is that of this process alone: on one core and with `--workers 0` it compares steps whatever else runs.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from saccade.config.names import RULES
from saccade.config.run import TrainConfig, check
from saccade.data import ImageSet, load
from saccade.errors import InputError
from saccade.report.tables import Table, to_markdown
from saccade.training import pick_device
from saccade.training.folder import surroundings

from . import machine, rivals
from .ours import Ours

OURS, PROCESSOR = "ours", "processor seconds"
RIVALS = {
    "plain": ("the plain way", rivals.torchvision_views, lambda: rivals.repeated_hinge),
    "lightly": ("lightly's transform and loss", rivals.lightly_views, rivals.lightly_loss),
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rule", nargs="+", default=["bp"], help="one or more rules")
    parser.add_argument("--schedule", nargs="+", default=["e2e"], help="one or more schedules")
    parser.add_argument("--block", action="store_true", help="with the gradient block")
    parser.add_argument("--negatives", default="all", help="all, or how many")
    parser.add_argument("--loss", help="another loss than the hinge, such as simclr or clapp")
    parser.add_argument("--network", default="cifar")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a turn, of each layer where they take turns")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=[*RIVALS, "none"])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the rivals' DataLoader")
    parser.add_argument(
        "--stages", default="first", choices=["none", "first", "all"], help="of which of ours to show them"
    )
    parser.add_argument("--data", help="images, such as cifar100:train; without it random pictures of 32x32")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    return parser.parse_args(argv)


def pictures(name: str | None, device: torch.device, count: int = 5000, side: int = 32) -> ImageSet:
    if name:
        return load(name, device=device)
    noise = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return ImageSet(noise.to(device, torch.uint8), name=f"{count} random pictures of {side}x{side}", device=device)


def cases(args: argparse.Namespace) -> dict[str, TrainConfig]:
    """Ours, by name: E2E BP first. Combinations that do not exist are left out, unless nothing else was asked for."""
    loss = args.loss or f"hinge(negatives={args.negatives}, block={str(args.block).lower()})"
    common = TrainConfig(
        loss=loss, network=args.network, batch=args.batch, device=args.device, precision=args.precision, epochs=1000
    )
    found = {f"{OURS}, e2e bp": common}
    for schedule in args.schedule:
        for rule in args.rule:
            decays = rule in RULES and "decay" in RULES[rule].facts
            optimizer = "adam(weight_decay=1)" if decays else common.optimizer
            config = replace(common, schedule=schedule, rule=rule, optimizer=optimizer)
            check(config)
            found[f"{OURS}, {schedule} {rule}"] = config
    return found


def measure(args: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    device = pick_device(args.device)
    images = pictures(args.data, device, max(5000, 2 * args.batch))
    contenders: dict[str, Any] = {}
    left_out = {}
    for name, config in cases(args).items():
        try:
            contenders[name] = Ours(config, images)
        except InputError as error:
            left_out[name] = str(error)
    first = contenders[f"{OURS}, e2e bp"]
    for short in args.rivals:
        if short in RIVALS:
            name, views, loss = RIVALS[short]
            contenders[name] = rivals.Rival(
                images, views(images.shape[1]), loss(), batch=args.batch, workers=args.workers, device=device
            )
    clocks: list[tuple[float, float]] = []

    def timer(work: Callable[[], object]) -> float:
        started = time.process_time()
        wall = machine.seconds(work, device)
        clocks.append((wall, time.process_time() - started))
        return wall

    ours = {}
    for name, contender in contenders.items():
        if isinstance(contender, Ours) and (args.stages == "all" or (args.stages == "first" and contender is first)):
            operations, flops = contender.operations()
            ours[name] = {
                "stages": contender.stages(),
                "operations": operations,
                "convolution flops": flops,
                "convolution rate": flops / operations["convolutions"],
            }
    found = {
        "options": {k: v for k, v in vars(args).items() if k != "out"},
        "images": images.name,
        "precision": first.model.precision,
        "matrix rate": 0.0,
        "bandwidth": machine.bandwidth(device),
        "turns": {name: [] for name in contenders},
        "ours": ours,
        "left out": left_out,
        **surroundings(),
        "command": " ".join(["python -m benchmarks.train_step", *sys.argv[1:]]),
    }
    for number in range(args.turns):
        found["matrix rate"] = max(found["matrix rate"], machine.matrix_rate(first.model.precision, device))
        for name, contender in contenders.items():
            with machine.load_beside() as load:
                each = contender.turn(args.steps, timer)
            wall, cpu = clocks.pop()
            row = {"seconds": each, "processor seconds": each * cpu / wall, "other load": load.others}
            found["turns"][name].append(row)
            processor = f"{1e3 * row['processor seconds']:.0f} ms of processor time a step"
            say(f"turn {number + 1}: {name}: {args.batch / each:.0f} pairs/s, {processor}, {load}")
        if args.out:  # after each turn, so that a run that is cut short has something to show
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def fastest(found: dict[str, Any], name: str, clock: str = "seconds") -> dict[str, Any]:
    return min(found["turns"][name], key=lambda turn: turn[clock])


def ratio(found: dict[str, Any], name: str, clock: str = "seconds") -> float:
    """Time of a step over that of ours, E2E BP; "processor seconds" leave out what other programs took away."""
    return fastest(found, name, clock)[clock] / fastest(found, f"{OURS}, e2e bp", clock)[clock]


def speeds(found: dict[str, Any]) -> Table:
    body: list[list[Any]] = []
    for name, turns in found["turns"].items():
        best = fastest(found, name)
        # Of the whole step, so a lower bound for its convolutions: a profile slows what it looks at.
        share = found["ours"].get(name, {}).get("convolution flops", 0) / best["seconds"]
        load = best["other load"]
        body.append(
            [
                name,
                f"{found['options']['batch'] / best['seconds']:.0f}",
                f"{1e3 * best['seconds']:.0f}",
                f"{1e3 * median(turn['seconds'] for turn in turns):.0f}",
                f"{ratio(found, name):.2f}",
                f"{1e3 * fastest(found, name, PROCESSOR)[PROCESSOR]:.0f}",
                f"{ratio(found, name, PROCESSOR):.2f}",
                f"{100 * share / found['matrix rate']:.0f} %" if share else "",
                "unknown" if load is None else f"{load:.1f} cores" if load > 0.1 else "none",
            ]
        )
    options = found["options"]
    loss = options["loss"] or f"hinge, {options['negatives']} negatives" + (", block" if options["block"] else "")
    caption = (
        f"Batch {options['batch']}, {loss}, {options['network']} network, {found['precision']}, {found['images']}. "
        f"Best matrix product: {found['matrix rate'] / 1e9:.0f} GFLOP/s. "
        f"The fastest of {max(map(len, found['turns'].values()))} turns of {options['steps']} steps."
    )
    header = [
        "step",
        "pairs/s",
        "ms",
        "median ms",
        "ms / ours, e2e bp",
        "processor ms",
        "processor ms / ours, e2e bp",
        "convolutions in the step's time, share of the matrix rate",
        "other load",
    ]
    return Table(header, body, caption)


def stages(found: dict[str, Any], what: str = "stages") -> Table:
    names = list(dict.fromkeys(stage for row in found["ours"].values() for stage in row[what]))
    body: list[list[Any]] = []
    for name, row in found["ours"].items():
        whole = sum(row[what].values())
        shares = [100 * row[what].get(stage, 0.0) / whole for stage in names]
        body.append([name, *(f"{share:.1f}" for share in shares)])
    return Table(["step", *names], body, f"Where the time goes, by {what}: percent of a step.")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    try:
        found = measure(args, say=lambda line: print(line, file=sys.stderr, flush=True))
    except InputError as error:
        sys.exit(str(error))
    shown = [speeds(found), *([stages(found), stages(found, "operations")] if found["ours"] else [])]
    print(*map(to_markdown, shown), sep="\n")
    for name, why in found["left out"].items():
        print(f"Left out: {name}: {why}")


if __name__ == "__main__":
    main()
