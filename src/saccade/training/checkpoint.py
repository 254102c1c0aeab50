"""Checkpoints: whole, hashed, and written so that a machine may die at any moment.

A checkpoint is one safetensors file whose name carries its step and the start of its SHA-256. It is written beside its
place, flushed to disk and renamed; the last two are kept. No pickle is written or read anywhere.
"""

import hashlib
import os
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize
from torch import Tensor

from ..errors import InputError
from .model import Model

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{16})\.safetensors")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either there whole or not at all. Raises InputError where the disk takes no more."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(
            f"{path.name} ({len(content):,} bytes) could not be written to {path.parent}: {error.strerror}; what was written "
            "before is intact."
        ) from None


def save(model: Model, step: int, folder: Path) -> Path:
    """Write the state after `step` steps, and drop all but the last two checkpoints."""
    content = serialize({name: tensor.contiguous().cpu() for name, tensor in _state(model).items()})
    path = folder / f"checkpoint-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    write_whole(path, content)
    for old in found(folder)[KEPT:]:
        old.unlink()
    return path


def restore(model: Model, folder: Path) -> int:
    """Load the newest whole checkpoint into `model` and return its step; 0 where there is none.

    A torn or altered file is named on standard error, renamed to end in `.damaged`, and the one before it used.
    """
    for leftover in folder.glob(".*.part"):
        leftover.unlink()
    for path in found(folder):
        tensors = _read(path)
        if tensors is not None:
            _load(model, tensors)
            return _step(path)
        print(f"{path.name} is damaged; it is set aside and the checkpoint before it used.", file=sys.stderr)
        path.rename(path.with_name(f"{path.name}.damaged"))
    return 0


def remove(folder: Path) -> None:
    """Drop all checkpoints of a finished run."""
    for path in found(folder):
        path.unlink()


def found(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted((p for p in folder.glob("checkpoint-*") if _NAME.fullmatch(p.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _read(path: Path) -> dict[str, Tensor] | None:
    content = path.read_bytes()
    match = _NAME.fullmatch(path.name)
    if match is None or hashlib.sha256(content).hexdigest()[:16] != match[2]:
        return None
    try:
        return parse_tensors(content)
    except SafetensorError:
        return None


def _state(model: Model) -> dict[str, Tensor]:
    """Every tensor that the next step depends on, by name."""
    state = {f"model.{name}": tensor for name, tensor in model.modules().state_dict().items()}
    state["sums"] = model.sums
    for (site, group), optimizer in model.optimizers.items():
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):  # SGD without momentum keeps a None
                    state[f"optimizer.{site}.{group}.{number}.{name}"] = value
    return state


def _load(model: Model, tensors: dict[str, Tensor]) -> None:
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    try:
        model.modules().load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"The checkpoint does not fit this configuration: {str(error).splitlines()[-1].strip()}"
        ) from None
    model.sums.copy_(tensors["sums"])
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, site, group, number, entry = name.split(".")
            optimizer = model.optimizers[int(site), group]
            parameter = optimizer.param_groups[0]["params"][int(number)]
            # Adam counts its steps in a tensor that stays on the processor.
            device = torch.device("cpu") if entry == "step" else parameter.device
            layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
            optimizer.state[parameter][entry] = tensor.to(device, memory_format=layout)
