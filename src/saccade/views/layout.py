"""How a step's views lie in one tensor: two lists, one, or the patches of a grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import draws
from ..errors import InputError
from .policy import Policy

LAYOUTS = ("pair", "single", "patches")

# Far above any deformation's place in a policy, so that lists and deformations never share a stream.
_LIST_A, _LIST_B = 1 << 20, (1 << 20) + 1


@dataclass(frozen=True)
class Views:
    """Views of a batch of pictures in one tensor `x`.

    * layout "pair": x (2 * batch, channels, height, width), all of list A, then all of list B
    * layout "single": x (batch, channels, height, width)
    * layout "patches": x (batch * rows * columns, channels, patch, patch), picture by picture, row by row; grid is
      (rows, columns)
    """

    x: Tensor
    grid: tuple[int, int] | None = None


def make_views(
    policy: Policy, images: Tensor, keys: Tensor, layout: str = "pair", *, patch: int = 16, stride: int = 8
) -> Views:
    """Views of `images` (batch, channels, height, width), uint8 or float, drawn by their `keys` (batch,), int64.

    `patch` and `stride` are in pixels, of the view that is cut up.

    Raises InputError for an unknown layout and for patches larger than the views.
    """
    if layout == "pair":
        both = torch.cat([draws.substream(keys, _LIST_A), draws.substream(keys, _LIST_B)])
        return Views(policy(torch.cat([images, images]), both))
    if layout == "single":
        return Views(policy(images, keys))
    if layout == "patches":
        x, grid = cut(policy(images, keys), patch, stride)
        return Views(x, grid)
    raise InputError(f"The views' layout is {layout!r}; it is one of {', '.join(LAYOUTS)}.")


def cut(images: Tensor, patch: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Patches (batch * rows * columns, channels, patch, patch) of a grid over each picture, and (rows, columns).

    >>> x, grid = cut(torch.zeros(2, 1, 64, 64), patch=16, stride=8)
    >>> tuple(x.shape), grid
    ((98, 1, 16, 16), (7, 7))
    """
    channels, height, width = images.shape[1:]
    if not (1 <= patch <= min(height, width) and stride >= 1):
        raise InputError(
            f"Patches of {patch} pixels at stride {stride} were asked of views of {height}x{width}; "
            f"patches take 1 to {min(height, width)} pixels, strides at least 1."
        )
    tiles = images.unfold(2, patch, stride).unfold(3, patch, stride)  # (batch, channels, rows, columns, patch, patch)
    grid = (tiles.shape[2], tiles.shape[3])
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, patch, patch), grid
