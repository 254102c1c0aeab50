"""The weights of finished runs: read, held against what the run wrote, and begun from."""

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from torch import Tensor, nn

from ..config.run import TrainConfig
from ..data.memory import read_bounded
from ..errors import InputError
from .folder import read_json

WEIGHTS = "weights.safetensors"


def read_weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a finished run whose names start with `prefix`.

    Raises InputError where there are none, one is not finite, or they are not what the run wrote.
    """
    content = _weights_of(folder)
    try:
        tensors = parse_tensors(content)
    except SafetensorError as error:
        raise InputError(
            f"{folder / WEIGHTS} cannot be read ({error}); it takes the folder of a finished run."
        ) from None
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise InputError(f"{folder / WEIGHTS} holds weights that are not finite; it takes a run that went well.")
    wrote = read_json(folder / "run.json").get("weights") if (folder / "run.json").exists() else None
    if wrote and wrote != hashlib.sha256(content).hexdigest():
        raise InputError(f"{folder / WEIGHTS} is not what the run wrote (its hash differs); it takes one unaltered.")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _weights_of(folder: Path) -> bytes:
    try:
        return read_bounded(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / WEIGHTS} cannot be read ({error}); it takes the folder of a finished run."
        ) from None


def fingerprint(run: Path) -> str:
    """SHA-256 (hex) of a finished run's weights. Raises InputError where there are none."""
    return hashlib.sha256(_weights_of(run)).hexdigest()


def begin(encoder: nn.Module, config: TrainConfig) -> None:
    """Give the encoder the weights that the run is to begin with, where those are another run's (`init_from`).

    Raises InputError where there are none, or they are of other layers.
    """
    if config.init_from is None:
        return
    tensors = read_weights(Path(config.init_from), "encoder.")
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in encoder.state_dict().items()}:
        raise InputError(
            f"init_from {config.init_from} holds an encoder of other layers than network {config.network!r}."
        )
    encoder.load_state_dict(tensors)


def refuse_other_start(run: Path | str, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Raises InputError where the encoder in `init_from` is no longer the one that the run began with."""
    if config.init_from and facts.get("initial_weights") != fingerprint(Path(config.init_from)):
        raise InputError(
            f"The encoder in {config.init_from} is not the one that {run} began with (its hash differs); it takes the same or a "
            "new run."
        )
