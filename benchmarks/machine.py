"""What the machine can do, and what else it is doing: matrix rate, memory bandwidth, other load, memory in use."""

import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def matrix_rate(precision: str, device: torch.device, sizes: tuple[int, ...] = (1024, 2048, 3072)) -> float:
    """The best rate of a square matrix product in this precision, in floating-point operations a second."""
    rates = []
    for n in sizes if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(n, n, device=device).to(DTYPES[precision]) for _ in range(2))
        out = a @ b  # written again and again, so that the first touch of its memory is not in the measurement
        rates += [2 * n**3 / seconds(partial(torch.mm, a, b, out=out), device) for _ in range(4)]
    return max(rates)


def bandwidth(device: torch.device, bytes: int = 1 << 28) -> float:
    """Bytes a second that a copy within memory reads and writes, both counted."""
    a = torch.ones(bytes // 4, device=device)
    b = torch.empty_like(a).copy_(a)
    return 2 * bytes / median(seconds(lambda: b.copy_(a), device) for _ in range(5))


@dataclass
class Load:
    """`others`: cores that other programs (and the hypervisor) kept busy meanwhile; None where that cannot be known."""

    others: float | None = None

    def __str__(self) -> str:
        if self.others is None:
            return "other load unknown"
        return f"OTHER LOAD: {self.others:.2f} cores" if self.others > 0.1 else "no other load"


@contextmanager
def load_beside() -> Iterator[Load]:
    """How many cores others kept busy while the body ran; the body's own child processes must have ended by then."""
    load = Load()
    busy, own, started = _busy(), _own(), time.perf_counter()
    yield load
    if busy is not None and (now := _busy()) is not None:
        load.others = max(0.0, (now - busy - (_own() - own)) / (time.perf_counter() - started))


def _busy() -> float | None:
    """Seconds that the cores which this process may use were busy since the start of the machine, on Linux."""
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    try:
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return None
    # user, nice, system, (idle, waiting,) interrupts, soft interrupts, stolen by the hypervisor
    ticks = [int(row[column]) for row in rows if row[0] in mine for column in (1, 2, 3, 6, 7, 8)]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def _own() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that are allocated at once during a call, beyond those there before it."""
    gc.collect()
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
