"""What the layers of an encoder make of a set of images, as rows for a probe."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ..allocator import keep_freed_memory
from ..data import ImageSet
from ..data.memory import whole_float32
from ..errors import InputError
from ..networks import evaluating


def pooled_grid(shape: Sequence[int], pool_to: int | None) -> tuple[int, int] | None:
    """The (rows, columns) that one image's output of this shape is average-pooled to, or None where it is not.

    The largest square grid g with channels * g * g <= pool_to (never larger than the output itself, at least 1);
    outputs that are small enough already, or are no (channels, height, width), stay as they are.

    >>> pooled_grid((512, 4, 4), 4096), pooled_grid((64, 8, 8), 4096), pooled_grid((10000,), 4096)
    ((2, 2), None, None)
    """
    if pool_to is None or len(shape) != 3 or math.prod(shape) <= pool_to:
        return None
    channels, height, width = shape
    side = max(1, math.isqrt(pool_to // channels))
    return min(side, height), min(side, width)


def device_of(modules: Iterable[nn.Module]) -> torch.device | None:
    """Where the modules' weights are, and pictures go that they are to see; None where they have no weights."""
    return next((parameter.device for module in modules for parameter in module.parameters()), None)


@whole_float32()
@torch.no_grad()
def features(
    encoder: Iterable[nn.Module],
    images: ImageSet,
    layers: Sequence[int],
    *,
    pool_to: int | None = None,
    deform: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch: int = 500,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Tensor]:
    """Each requested layer's output for every image, flattened: {layer: float32 (n, d)}, in one pass over the images.

    The encoder works in evaluation mode and is left in the mode it was in.

    Args:
        encoder: its layers in order, an nn.Sequential for instance.
        images: the set; its bytes are divided by 255.
        layers: which outputs; k is that of the k-th layer, counted from 1, and 0 are the pixels themselves.
        pool_to: average-pool an output larger than this to the grid that `pooled_grid` names.
        deform: called with (images uint8 (b, channels, height, width), their indices (b,)), gives float32 images
            in [0, 1] that take the place of the plain ones.
        precision: "bfloat16" runs the layers under autocast in channels-last memory.
        progress: called with (images done, images) after each batch.

    Raises:
        InputError: for a layer that the encoder does not have, or an unknown precision.
    """
    modules = list(encoder)
    wanted = sorted(set(layers))
    if not wanted or wanted[0] < 0 or wanted[-1] > len(modules):
        raise InputError(f"layers: got {list(layers)}, expected some of 0 (the pixels) to {len(modules)}.")
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision: got {precision!r}, expected float32 or bfloat16.")
    rows: dict[int, Tensor] = {}
    keep_freed_memory()
    with evaluating(nn.ModuleList(modules)):
        for index in torch.arange(len(images)).split(batch):
            pixels = images.batch(index).to(device=device_of(modules))
            x = deform(pixels, index.to(pixels.device)) if deform else pixels.float() / 255
            if precision == "bfloat16":
                x = x.contiguous(memory_format=torch.channels_last)
            for layer in range(wanted[-1] + 1):
                if layer:
                    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                        x = modules[layer - 1](x)
                if layer in wanted:
                    out = x.float()
                    grid = pooled_grid(out.shape[1:], pool_to)
                    out = (adaptive_avg_pool2d(out, grid) if grid else out).flatten(1)
                    if layer not in rows:
                        rows[layer] = out.new_empty(len(images), out.shape[1])
                    rows[layer][index[0] : index[-1] + 1] = out
            if progress:
                progress(int(index[-1]) + 1, len(images))
    return rows
