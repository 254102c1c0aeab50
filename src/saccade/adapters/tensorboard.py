"""A run as TensorBoard shows it: curves, sheets of views, histograms of the weights, embeddings of images.

It is made from what a run wrote, after it or while it goes on, so that watching cannot change what is learned.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError


def write_tensorboard(
    out: Path,
    metrics: list[dict[str, Any]],
    *,
    config: str = "",
    sheet: Tensor | None = None,
    weights: dict[int, nn.Module] | None = None,
    embeddings: tuple[Tensor, Tensor, list[str] | None] | None = None,
) -> Path:
    """Write event files to the folder `out` in place of those that are there.

    Args:
        metrics: lines of a run's metrics; each number becomes a point at its step.
        config: the run's recipe, YAML.
        sheet: pictures and their views, uint8 (3, height, width).
        weights: encoders by the step at which they were so.
        embeddings: features (n, d), pictures (n, channels, height, width) in [0, 1], and labels.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = write_tensorboard(Path(folder) / "events", [{"step": 1, "site": 0, "epoch": 1.0, "loss": 2.5}])
    ...     [path.name.split(".")[2] for path in out.iterdir()]
    ['tfevents']

    Raises InputError where the package tensorboard is not installed, or the folder holds other files.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            'The package tensorboard is not installed; it takes pip install "saccade[tensorboard]".'
        ) from None
    _emptied(out)
    with SummaryWriter(str(out)) as writer:
        if config:
            writer.add_text("configuration", f"```yaml\n{config}```")
        for row in metrics:
            for tag, value in scalars(row).items():
                writer.add_scalar(tag, value, row["step"])
            if "warning" in row:
                writer.add_text("warnings", f"{row['warning']}, site {row['site'] + 1}", row["step"])
        if sheet is not None:
            writer.add_image("views", sheet)
        for step, encoder in (weights or {}).items():
            for name, parameter in encoder.named_parameters():
                writer.add_histogram(f"weights/{name}", parameter.detach(), step)
        if embeddings is not None:
            features, pictures, labels = embeddings
            writer.add_embedding(
                features, metadata=labels, label_img=pictures.expand(-1, 3, -1, -1), tag="last layer", global_step=None
            )
    return out


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers in a line of metrics, by tag.

    >>> scalars({"step": 5, "site": 1, "loss": 2.0, "angle_to_bp": {"head.linear.weight": 0.5}})
    {'loss/site 2': 2.0, 'angle_to_bp/site 2/head.linear.weight': 0.5}
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        tag = f"{name}/site {row['site'] + 1}"
        if name in ("step", "site") or isinstance(value, str):
            continue
        parts = value.items() if isinstance(value, dict) else None
        if isinstance(value, list):  # of inverses, which the first layer's input needs none of
            parts = {f"layer {layer}": number for layer, number in enumerate(value, 2)}.items()
        found |= {tag: value} if parts is None else {f"{tag}/{part}": number for part, number in parts}
    return found


_OURS = re.compile(r"events\.out\.tfevents\..*|projector_config\.pbtxt|00000(/.*)?")


def _emptied(out: Path) -> None:
    """Make the folder, or remove what was written to it before. Raises InputError where it holds anything else."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = sorted(out.rglob("*"), reverse=True)
    except OSError as error:
        raise InputError(f"The folder {out} cannot be used ({error.strerror}); it takes one to write to.") from None
    if not all(_OURS.fullmatch(path.relative_to(out).as_posix()) for path in found):
        raise InputError(f"The folder {out} holds other files; it takes a new or empty folder.")
    for path in found:
        path.rmdir() if os.path.isdir(path) else path.unlink()


def few_features(features: Tensor, count: int = 256) -> Tensor:
    """At most `count` features a row, those of the largest variance, for the embedding projector."""
    if features.shape[1] <= count:
        return features
    return features[:, torch.sort(features.var(0).topk(count).indices).values]
