"""Checkpoints: whole, hashed, and written so that a machine may die at any moment.

A checkpoint is one safetensors file whose name carries its step and the start of its SHA-256. It is written beside its
place, flushed to disk and renamed; the last two are kept. No pickle is written or read anywhere.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize
from torch import Tensor

from ..data.memory import read_bounded
from ..errors import InputError
from ..files import write_whole
from ..ranks import digest
from .weights import WEIGHTS

if TYPE_CHECKING:
    from .model import Model

KEPT = 2
# What the optimizers keep of a parameter that has learned; without some of it they would fail, or begin anew in silence.
_ENTRIES: dict[type, set[str]] = {
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
_NAME = re.compile(r"checkpoint-(\d{9,18})-([0-9a-f]{16})\.safetensors")


def save(model: Model, step: int, folder: Path) -> Path:
    """Write the state after `step` steps, and drop all but the last two checkpoints."""
    content = serialize(portable(_state(model) | {"step": torch.tensor(step)}))
    path = folder / f"checkpoint-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    write_whole(path, content)
    for old in found(folder)[KEPT:]:
        old.unlink()
    return path


def portable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies as safetensors takes them: on the processor, in one order, none sharing another's memory."""
    return {name: t.detach().clone(memory_format=torch.contiguous_format).cpu() for name, t in tensors.items()}


def restore(model: Model, folder: Path) -> int:
    """Load the newest whole checkpoint into `model` and return its step; 0 where there is none.

    A torn or altered file is named on standard error, renamed to end in `.damaged`, and the one before it used. Raises
    InputError for a whole one that is of another configuration, and for one that the memory has no room for.
    """
    for name in (
        "checkpoint-*",
        WEIGHTS,
        "run.json",
        "config.yaml",
    ):  # what none but the run itself writes, and it is ours
        for leftover in folder.glob(f".{name}.*.part"):
            leftover.unlink()
    paths = found(folder)
    for path in paths:
        tensors = _read(path)
        if tensors is not None:
            _load(model, tensors, path.name)
            return _step(path)
        print(f"{path.name} is damaged; it is set aside and the checkpoint before it used.", file=sys.stderr)
        path.rename(path.with_name(f"{path.name}.damaged"))
    if paths:
        print("No checkpoint is whole; the run starts at its beginning.", file=sys.stderr)
    return 0


def share(model: Model, step: int) -> int:
    """Give rank 0's state, and its step, to all ranks."""
    if model.ranks.count > 1:
        step, content = model.ranks.tell(lambda: (step, serialize(portable(_state(model)))))
        _load(model, parse_tensors(content), "of process 0")
    return step


def unite(model: Model, *, whole: bool) -> None:
    """Where ranks share out the layers, give each what the others have: losses and what went wrong; if `whole`, all."""
    if model.ranks.count == 1 or model.ranks.shares:
        return
    state = {name: t for name, t in _state(model).items() if whole and name != "sums" and _site(name) in model.stage}
    rows = torch.zeros(len(model.sites), 1, device=model.device)
    rows[list(model.stage)] = 1
    own = {"sums": model.sums, "broken": model.broken}
    found = model.ranks.each(serialize(portable(state | {name: (t * rows).to(t.dtype) for name, t in own.items()})))
    states = [parse_tensors(content) for content in found]
    for name, tensor in own.items():
        tensor.copy_(torch.stack([state.pop(name) for state in states]).sum(0))
    if whole:
        _load(model, {"sums": model.sums, **{n: t for state in states for n, t in state.items()}}, "of all processes")


def _site(name: str) -> int:
    """The site that an entry of the state belongs to: `model.3.head.linear.weight`."""
    return int(name.split(".")[1])


def agree(model: Model) -> None:
    """Raises RunError where not all ranks have the same weights, feedback, inverses, buffers and optimizers' states."""
    if model.ranks.count > 1:
        model.ranks.agree("The weights", digest(_state(model)))


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
    match = _NAME.fullmatch(path.name)
    try:
        content = read_bounded(path)
    except OSError as error:
        raise InputError(f"The checkpoint {path} cannot be read ({error}); remove it to begin before it.") from None
    try:
        if match is None or hashlib.sha256(content).hexdigest()[:16] != match[2]:
            return None
        tensors = parse_tensors(content)
        return tensors if int(tensors["step"]) == int(match[1]) else None
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        return None


def _state(model: Model) -> dict[str, Tensor]:
    """Every tensor that the next step depends on, by name."""
    modules = model.modules()
    state = {f"model.{name}": tensor for name, tensor in modules.state_dict().items()}
    # Buffers that their module leaves out of what is saved, such as the queue of a loss of the user's own.
    state |= {f"buffer.{name}": b for name, b in modules.named_buffers() if f"model.{name}" not in state}
    state["sums"] = model.sums
    for (site, group), optimizer in model.optimizers.items():
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):  # SGD without momentum keeps a None
                    state[f"optimizer.{site}.{group}.{number}.{name}"] = value
    return state


def _load(model: Model, tensors: dict[str, Tensor], source: str) -> None:
    modules = model.modules()
    try:
        modules.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        model.sums.copy_(tensors["sums"])
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "buffer":
                owner, _, own = rest.rpartition(".")
                setattr(modules.get_submodule(owner), own, tensor.to(model.device))
            elif kind == "optimizer":
                site, group, number, entry = rest.split(".")
                optimizer = model.optimizers[int(site), group]
                parameter = optimizer.param_groups[0]["params"][int(number)]
                if entry == "step":  # Adam counts its steps in a tensor that stays on the processor
                    tensor = torch.empty((), dtype=torch.float32).copy_(tensor.view(()))
                else:
                    tensor = torch.empty_like(parameter).copy_(tensor.view_as(parameter))  # in the parameter's layout
                optimizer.state[parameter][entry] = tensor
        for optimizer in model.optimizers.values():
            for entries in optimizer.state.values():
                if set(entries) != _ENTRIES[type(optimizer)]:
                    raise KeyError(f"an optimizer's entries are {', '.join(sorted(entries))}")
    except (RuntimeError, KeyError, ValueError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"The checkpoint {source} does not fit this configuration ({reason}); it takes one that this run wrote."
        ) from None
