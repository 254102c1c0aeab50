"""What a run would take, found by taking a few of its steps."""

import resource
import time

import torch

from ..config.run import TrainConfig
from ..data import load
from ..data.memory import pick_device, whole_float32
from ..errors import RunError
from .loop import deterministic
from .model import build, train_step
from .own_code import failures_told


@whole_float32()
def dry_run(config: TrainConfig) -> dict[str, str]:
    """What a run would take: parameters, memory and time, from building it and timing a few of its steps."""
    device = pick_device(config.device)
    images = load(config.data, root=config.data_root, download=config.download, device=device)
    with deterministic(config):  # from the first product on, as in a run
        model = build(config, images)
        timed = 4 * len(model.sites)
        steps = [model.total_steps * k // timed for k in range(timed)]  # spread over the run
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with failures_told(config, RunError):
            train_step(model, images, 0)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            for step in steps:
                train_step(model, images, step)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - started) / timed
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    parameters = sum(p.numel() for p in model.encoder.parameters())
    sites = sum(p.numel() for p in model.modules().parameters())
    return {
        "images": f"{len(images):,} of {'x'.join(map(str, images.shape))} ({images.source})",
        "encoder": f"{len(model.encoder)} layers, {parameters:,} parameters",
        "sites": f"{len(model.sites)}, all parameters {sites:,}",
        "precision": f"{model.precision} on {device}",
        "steps": f"{model.total_steps:,} of {config.batch} pictures",
        "memory": f"{peak / 2**20:,.0f} MiB at the peak of this dry run",
        "time": f"{model.total_steps * seconds / 60:,.1f} minutes, from {timed} steps of {seconds:.3f} s",
    }
