"""Our own training step as something to measure: chosen steps of a run, by stage, by operation."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from saccade.config.run import TrainConfig
from saccade.data import ImageSet
from saccade.rules.site import Site
from saccade.training import build, model, train_step

from .machine import wait


class Ours:
    """Steps of a run in which every set of sites that learns together has its turn equally often.

    Of RLL and GLL this is the expected step over a run, at equal epochs a layer.
    """

    def __init__(self, config: TrainConfig, images: ImageSet):
        self.images, self.model = images, build(config, images)
        self.model.remembers = False  # as at most steps of a run
        self.steps: list[int] = []  # one step of each kind
        kinds = set()
        every = max(1, self.model.steps_per_site // 50)
        for step in range(0, self.model.total_steps, every):
            turns = self.model.schedule.sites(config.seed, step, len(self.model.sites), self.model.steps_per_site)
            if turns not in kinds:
                kinds.add(turns)
                self.steps.append(step)
        self.batch, self.device = config.batch, self.model.device

    def run(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            for step in self.steps:
                train_step(self.model, self.images, step)

    def turn(self, rounds: int, timer: Callable[[Callable[[], object]], float]) -> float:
        """Seconds of one step, the mean over `rounds` of each kind after one to warm up."""
        self.run()
        return timer(lambda: self.run(rounds)) / (rounds * len(self.steps))

    def stages(self, rounds: int = 4) -> dict[str, float]:
        """Seconds of a step by stage, in the fastest of some rounds; `other` is what is left, such as bookkeeping."""
        spent: dict[str, float] = {}
        found: list[dict[str, float]] = []
        with _timed(self, spent):
            for _ in range(rounds + 1):
                spent.clear()
                wait(self.device)
                started = time.perf_counter()
                self.run()
                wait(self.device)
                found.append({**spent, "other": time.perf_counter() - started - sum(spent.values())})
        best = min(found[1:], key=lambda stages: sum(stages.values()))
        return {name: value / len(self.steps) for name, value in best.items()}

    def operations(self, rounds: int = 3) -> tuple[dict[str, float], float]:
        """Seconds of a step by kind of operation, in the fastest of some rounds, and the floating-point operations of
        its convolutions."""
        with FlopCounterMode(display=False) as counter:
            self.run()
        counted = counter.get_flop_counts()["Global"]
        flops = sum(value for op, value in counted.items() if "convolution" in str(op))
        best = min((self._profiled() for _ in range(rounds)), key=lambda kinds: sum(kinds.values()))
        return dict(sorted(best.items(), key=lambda kv: -kv[1])), flops / len(self.steps)

    def _profiled(self) -> dict[str, float]:
        on_gpu = self.device.type == "cuda"
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
        with torch.profiler.profile(activities=activities) as profiler:
            self.run()
        kinds: dict[str, float] = {}
        for event in profiler.key_averages():
            if event.device_type != torch.profiler.DeviceType.CPU:
                continue  # a kernel, whose time is in that of the operation that started it
            time_spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            kind = next((kind for kind, words in _KINDS.items() if any(w in event.key for w in words)), "rest")
            kinds[kind] = kinds.get(kind, 0.0) + time_spent * 1e-6 / len(self.steps)
        return kinds


_KINDS = {
    "convolutions": ("conv", "cudnn"),
    "pools": ("pool",),
    "activations": ("hardtanh", "clamp", "tanh", "threshold"),
    "matrix products": ("mm", "linear"),
    "distances": ("cdist",),
    "optimizer": ("_foreach", "fused_adam"),
    "copies and fills": ("copy_", "fill_", "zero_", "contiguous"),
}


@contextmanager
def _timed(ours: Ours, spent: dict[str, float]) -> Iterator[None]:
    """Add up in `spent` the time in each stage of the steps that run meanwhile, leaving out what is nested."""
    running: list[str] = []

    def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if running:
                return work(*args, **kwargs)
            running.append(stage)
            wait(ours.device)
            started = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                wait(ours.device)
                spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - started
                running.clear()

        return call

    with ExitStack() as stack:

        def replace(owner: Any, name: str, stage: str) -> None:
            stack.enter_context(mock.patch.object(owner, name, timed(stage, getattr(owner, name))))

        replace(model, "make_batch", "views")
        replace(torch.nn.Sequential, "__call__", "forward")
        replace(torch.nn.Linear, "__call__", "forward")
        replace(Site, "__call__", "forward")
        replace(Site, "evaluate", "loss")
        replace(torch.Tensor, "backward", "backward")
        for optimizer in ours.model.optimizers.values():
            replace(optimizer, "step", "optimizer")
        yield
