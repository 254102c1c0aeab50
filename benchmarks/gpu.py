"""The paper's CIFAR protocol on one GPU: views there, data resident, whole steps captured as CUDA graphs, cells side by side.

    benchmarks/gpu.sh                      # everything, in calls of at most 9 minutes; call it until it says "all done"
    python -m benchmarks.gpu --dry-run     # the same on a processor, tiny and without graphs

Each part is written to benchmarks/results/gpu.json when it is done or has failed, and not measured again. A cell is
trained for a few hundred steps and its 400 epochs are computed from them; the table's time is the sum over its cells, and
says so. One run, E2E BP hinge, is made in full. Pictures are random (their content does not matter to the time).
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from saccade import draws
from saccade.config.run import TrainConfig
from saccade.data import ImageSet
from saccade.paper import TABLES
from saccade.paper.scales import CIFAR
from saccade.paper.scores import config_of
from saccade.rules.dtp import DifferenceTargetPropagation
from saccade.training import build, pick_device, train_step
from saccade.training import model as model_room
from saccade.training.folder import surroundings
from saccade.views.layout import make_views

from . import growth, machine
from .train_step import pictures

OUT = Path("benchmarks/results/gpu.json")


class Captured:
    """A run whose steps are replayed from graphs, one for each set of sites that learn together.

    A step then costs the host two small copies and one launch. Rules and losses that draw numbers at each step (DTP's
    noise) are not captured and run as ever, and so does everything on a processor. A graph holds the step's number as it
    was captured, so the note of the first step that is not finite says only that there was one.
    """

    def __init__(self, config: TrainConfig, images: ImageSet):
        self.config, self.images, self.model = config, images, build(config, images)
        self.model.remembers = False
        device = self.model.device
        draws_anew = isinstance(self.model.rule, DifferenceTargetPropagation) or hasattr(
            self.model.sites[0].loss, "draw"
        )
        self.captures = device.type == "cuda" and not draws_anew
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.index = torch.zeros(config.batch, dtype=torch.int64, device=device)
        self.keys = torch.zeros_like(self.index)
        self.epoch = -1
        self.graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        for optimizer in self.model.optimizers.values() if self.captures else ():
            for group in optimizer.param_groups:
                group["capturable"] = True

    def turns(self, step: int) -> tuple[int, ...]:
        model = self.model
        return model.schedule.sites(self.config.seed, step, len(model.sites), model.steps_per_site)

    def step(self, step: int) -> None:
        """One training step, on this run's own stream."""
        if not self.captures:
            with torch.cuda.stream(self.stream) if self.stream else nullcontext():
                train_step(self.model, self.images, step)
            return
        with torch.cuda.stream(self.stream):
            epoch, place = divmod(step, self.model.steps_per_epoch)
            if epoch != self.epoch:
                self._plan(epoch)
            self.index.copy_(self.order[place])
            self.keys.copy_(self.order_keys[place])
            if (turns := self.turns(step)) not in self.graphs:
                self.graphs[turns] = self._capture(step)  # whose warm-up is these sites' first steps
            self.graphs[turns].replay()

    def _plan(self, epoch: int) -> None:
        """The images of all batches of an epoch and their views' keys, (steps, batch), on the device."""
        steps = range(epoch * self.model.steps_per_epoch, (epoch + 1) * self.model.steps_per_epoch)
        self.order = torch.stack([self.images.drawn(self.config.seed, step, self.config.batch) for step in steps])
        self.order_keys = draws.image_keys(draws.key(self.config.seed, "views", epoch), self.order)
        self.epoch = epoch

    def _capture(self, step: int) -> torch.cuda.CUDAGraph:
        def views(*_: Any) -> tuple[Any, None]:
            return make_views(self.model.policy, self.images.batch(self.index), self.keys), None

        def body() -> None:
            # The views of what the two buffers say, and no seeding, which is the host's.
            unseeded = mock.patch.object(draws, "seeded", return_value=nullcontext())
            with mock.patch.object(model_room, "make_batch", views), unseeded:
                train_step(self.model, self.images, step)

        for _ in range(3):
            body()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            body()
        return graph


def seconds_a_step(cells: list[Captured], steps: int, device: torch.device) -> float:
    """Seconds in which every one of the cells makes one step, side by side on streams of their own.

    They are steps in a row from as many places of the run as there are sites, so that every site has its turns.
    """
    model = cells[0].model
    sites = len(model.sites)
    block = max(1, steps // sites)
    chosen = [site * (model.total_steps // sites) + number for site in range(sites) for number in range(block)]

    def run() -> None:
        for step in chosen:
            for cell in cells:
                cell.step(step)

    run()  # every graph is captured by then
    return machine.seconds(run, device) / len(chosen)


def same_as_eager(config: TrainConfig, images: ImageSet, steps: int) -> dict[str, float]:
    """Largest relative difference of a weight after the same steps by train_step and by graphs, and how far they moved.

    The warm-up of a capture makes steps of its own, so both start from the weights that it left.
    """
    captured, eager = Captured(config, images), Captured(config, images)
    captured.step(0)
    machine.wait(captured.model.device)  # its stream is not the one that copies
    eager.model.modules().load_state_dict(captured.model.modules().state_dict())
    for key, optimizer in captured.model.optimizers.items():
        eager.model.optimizers[key].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    start = [p.detach().clone() for p in captured.model.modules().parameters()]
    machine.wait(captured.model.device)
    for step in range(1, steps + 1):
        captured.step(step)
        train_step(eager.model, images, step)
    machine.wait(captured.model.device)
    pairs = zip(captured.model.modules().parameters(), eager.model.modules().parameters(), start, strict=True)
    differences = [
        (float((a - b).detach().norm() / b.norm().detach()), float((b - s).detach().norm() / b.norm().detach()))
        for a, b, s in pairs
    ]
    return {"difference": max(d for d, _ in differences), "moved": max(m for _, m in differences)}


def whole_run(config: TrainConfig, images: ImageSet, device: torch.device) -> dict[str, Any]:
    """Every step of a run, timed from the first to the last, building and capturing included."""

    def work() -> None:
        cell = Captured(config, images)
        for step in range(cell.model.total_steps):
            cell.step(step)

    return {"seconds": machine.seconds(work, device), "epochs": config.epochs}


def parts(device: torch.device, dry: bool) -> dict[str, Callable[[], Any]]:
    images = pictures(None, device, 200 if dry else 50_000)
    steps = 2 if dry else 200
    scale = replace(CIFAR["paper"], batch=20, pairs=400) if dry else CIFAR["paper"]
    table = TABLES["table1"]
    configs = {c.name: config_of(c, scale, 0, len(images)) for c in table.cells if c.trained}
    configs = {name: replace(config, device=str(device)) for name, config in configs.items()}
    main = configs["hinge-e2e-bp-full"]

    def cell(config: TrainConfig, together: int = 1) -> dict[str, Any]:
        cells = [Captured(replace(config, seed=seed), images) for seed in range(together)]
        each = seconds_a_step(cells, steps, device)
        return {
            "seconds a step": each,
            "together": together,
            "steps": cells[0].model.total_steps,
            "captured": cells[0].captures,
            "hours of the whole run": each * cells[0].model.total_steps / together / 3600,
        }

    def uncaptured() -> dict[str, float]:
        model = build(main, images)
        model.remembers = False  # as at most steps of a run

        def run() -> None:
            for step in range(steps):
                train_step(model, images, step)

        run()
        return {"seconds a step": machine.seconds(run, device) / steps}

    limits = {"matrix rate": lambda: machine.matrix_rate("bfloat16" if not dry else "float32", device)}
    return {
        **limits,
        "bandwidth": lambda: machine.bandwidth(device, 1 << (24 if dry else 30)),
        "graphs against eager": lambda: same_as_eager(main, images, 3 if dry else 50),
        "uncaptured": uncaptured,
        "together": lambda: [cell(main, together) for together in ((1, 2) if dry else (1, 2, 4, 8))],
        **{f"cell {name}": partial(cell, config) for name, config in configs.items()},
        "whole run, E2E BP hinge": lambda: whole_run(main, images, device),
        **{f"growth, {name}": part for name, part in growth.parts(device, quick=dry).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="on the processor, tiny")
    parser.add_argument("--seconds", type=float, default=480, help="start no new part after so many")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    started = time.perf_counter()
    found = json.loads(args.out.read_text()) if args.out.exists() else {"parts": {}}
    missing = {
        name: part
        for name, part in parts(pick_device("cpu" if args.dry_run else args.device), args.dry_run).items()
        if name not in {**found["parts"], **found.get("failed", {})}
    }
    for name, part in missing.items():
        if time.perf_counter() - started > args.seconds:
            print("not all done: call again", flush=True)
            return
        try:
            found["parts"][name] = part()
            print(name, json.dumps(found["parts"][name]), flush=True)
        except Exception as error:  # of any kind: a GPU may be of no more use to this process, but is to the next
            found.setdefault("failed", {})[name] = " ".join(f"{type(error).__name__}: {error}".split())
        found |= {"dry run": args.dry_run, **surroundings()}
        found["command"] = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        if why := found.get("failed", {}).get(name):
            print(f"{name} failed ({why}): call again for the others", flush=True)
            return
    times = [found["parts"][name]["hours of the whole run"] for name in found["parts"] if name.startswith("cell ")]
    print(f"all done; Table 1, summed from its {len(times)} cells: {60 * sum(times):.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
