"""Training: sites, the loop, checkpoints, precision and devices."""

from ..data.memory import pick_device
from .loop import replay, run
from .model import Model, build, pick_precision, train_step
from .weights import fingerprint, read_weights

__all__ = [
    "Model",
    "build",
    "fingerprint",
    "pick_device",
    "pick_precision",
    "read_weights",
    "replay",
    "run",
    "train_step",
]
