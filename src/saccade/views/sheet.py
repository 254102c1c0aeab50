"""Sheets of pictures: originals and their views, each deformation alone (the paper's Figures 1 and 2)."""

import io

import torch
from torch import Tensor

from .. import draws
from . import deform
from .policy import Policy

_GAP = 2  # white pixels between pictures
_MARGIN = 6  # white pixels between the originals and what was made of them


def sheet(images: Tensor, policy: Policy, seed: int = 0, rows: int = 8, views: int = 8) -> Tensor:
    """The first `rows` pictures in the first column, `views` views of each beside it: uint8 (3, height, width).

    `images` is (n, channels, height, width), uint8 or float in [0, 1].
    """
    images = images[:rows]
    keys = _keys(seed, images)
    return arranged(images, [policy(images, draws.substream(keys, number)) for number in range(views)])


def deformation_sheet(images: Tensor, policy: Policy, seed: int = 0, rows: int = 8) -> Tensor:
    """The first `rows` pictures in the first column, then a column for each of the policy's deformations alone, which
    every picture undergoes here whatever its probability: uint8 (3, height, width)."""
    images = images[:rows]
    keys = _keys(seed, images)
    return arranged(images, [one(images, draws.substream(keys, n)) for n, one in enumerate(policy.alone())])


def as_png(picture: Tensor) -> bytes:
    """A uint8 picture (3, height, width) as the content of a PNG file."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(content, format="PNG", optimize=True)
    return content.getvalue()


def _keys(seed: int, images: Tensor) -> Tensor:
    return draws.image_keys(draws.key(seed, "sheet"), torch.arange(len(images), device=images.device))


def arranged(images: Tensor, columns: list[Tensor]) -> Tensor:
    """Pictures in the first column, and beside each what was made of it: uint8 (3, height, width).

    `images` and each of `columns` are (n, channels, height, width), in [0, 1] if they are not uint8 pictures.
    """
    originals = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    height, width = (columns[0] if columns else images).shape[2:]
    if originals.shape[2:] != (height, width):
        whole = torch.tensor([[0, 0, *images.shape[2:]]], device=images.device)
        originals = deform.resized_crop(originals, whole.expand(len(images), 4), (height, width)).clamp(0, 1)
    step_y, step_x = height + _GAP, width + _GAP
    paper = torch.ones(3, step_y * len(images) + _GAP, step_x * (len(columns) + 1) + _GAP + (_MARGIN if columns else 0))
    for column, pictures in enumerate([originals, *columns]):
        left = _GAP + column * step_x + (_MARGIN if column else 0)
        for row, picture in enumerate(pictures.cpu()):
            top = _GAP + row * step_y
            paper[:, top : top + height, left : left + width] = picture
    return (paper.clamp(0, 1) * 255).round().to(torch.uint8)
