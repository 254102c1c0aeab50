"""Deformations of a whole batch at once, on any device: pure functions in which every picture has its own parameters.

Images are float32 or float64, (batch, channels, height, width), in [0, 1], and so are the results up to rounding. For
given parameters each function does, picture by picture, what its counterpart in `torchvision.transforms.v2.functional`
does. Pictures of one channel pass `saturation`, `hue`, `hue_saturation` and `greyscale` unchanged.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _each(parameter: Tensor, images: Tensor) -> Tensor:
    """(batch,) -> (batch, 1, 1, 1), of the images' type."""
    return parameter.to(images.dtype).view(-1, 1, 1, 1)


def _either(which: Tensor, these: Tensor, those: Tensor) -> Tensor:
    # lerp is exact at weights 0 and 1, and three times as fast as torch.where on a processor.
    return torch.lerp(those, these, _each(which, those))


# ---------------------------------------------------------------------------------------------------------------- place


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Left and right exchanged where `which` (batch,), boolean, is true."""
    return _either(which, images.flip(3), images)


def affine(images: Tensor, matrix: Tensor, padding: str = "zeros") -> Tensor:
    """Each picture seen through its own affine map, bilinear.

    `matrix` (batch, 2, 3) takes a place (x, y, 1) of the result to the place in the picture where it is looked up; x
    and y run from -1 to 1 between the centres of the outermost pixels (grid_sample's `align_corners=True`, as in the
    authors' code). What lies outside is 0 (`padding="zeros"`) or the nearest pixel (`"border"`).
    """
    height, width = images.shape[2:]
    x, y = _between_corners(width, images)[None, None, :], _between_corners(height, images)[None, :, None]
    a = matrix.to(images.dtype)[..., None, None]  # (batch, 2, 3, 1, 1)
    # Broadcast sums, not a matrix product, which reduced-precision settings would round to a tenth of a pixel.
    grid = torch.stack([a[:, i, 0] * x + (a[:, i, 1] * y + a[:, i, 2]) for i in range(2)], dim=3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=True)


def _between_corners(count: int, images: Tensor) -> Tensor:
    """The places of `count` pixel centres in [-1, 1]; a single one is at 0."""
    steps = torch.arange(count, dtype=images.dtype, device=images.device)
    return (2 * steps - (count - 1)) / max(count - 1, 1)


def similarity_matrix(angle: Tensor, scale: Tensor, shift: Tensor, height: int, width: int) -> Tensor:
    """Matrices (batch, 2, 3) for `affine` that turn by `angle` (batch,), in degrees clockwise, then enlarge by `scale`
    (batch,), both about the centre, then shift by `shift` (batch, 2), in pixels right and down.

    >>> similarity_matrix(torch.zeros(1), torch.ones(1), torch.tensor([[2.0, 0.0]]), 5, 5).tolist()
    [[[1.0, 0.0, -1.0], [-0.0, 1.0, -0.0]]]
    """
    turn = torch.deg2rad(angle)
    cos, sin = torch.cos(turn) / scale, torch.sin(turn) / scale
    right, down = shift.unbind(1)
    across, along = max(width - 1, 1) / 2, max(height - 1, 1) / 2  # pixels in a unit of x and of y
    rows = [
        [cos, sin * (along / across), -(cos * right + sin * down) / across],
        [-sin * (across / along), cos, -(cos * down - sin * right) / along],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def resized_crop(images: Tensor, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The box (top, left, height, width) of each picture, in pixels, resized to `size`: bilinear and antialiased.

    `boxes` is (batch, 4), within the pictures. Resizing is linear and separable, so it is two products of small
    matrices a picture, the same as torchvision's `resized_crop(..., antialias=True)`, its default.
    """
    height, width = (size, size) if isinstance(size, int) else size
    top, left, box_height, box_width = boxes.to(images.dtype).unbind(1)
    rows = _resizing(top, box_height, images.shape[2], height)
    columns = _resizing(left, box_width, images.shape[3], width)
    n, channels = images.shape[:2]
    across = torch.bmm(images.reshape(n, -1, images.shape[3]), columns.transpose(1, 2))
    return rows[:, None] @ across.view(n, channels, images.shape[2], width)


def _resizing(start: Tensor, length: Tensor, count: int, size: int) -> Tensor:
    """Weights (batch, size, count) that resample `length` of `count` pixels from `start` on at `size` places.

    Each place sees a triangle of pixels about its centre, as wide as the spacing of the places or of the pixels,
    whichever is more, cut off at the box and normalized to 1 (Pillow's and torch's antialiased bilinear resampling).
    """
    pixels = torch.arange(count, dtype=start.dtype, device=start.device) + 0.5
    places = torch.arange(size, dtype=start.dtype, device=start.device) + 0.5
    spacing = (length / size)[:, None]
    centres = start[:, None] + spacing * places
    weights = (pixels - centres[:, :, None]).abs_().mul_(-1 / spacing.clamp(min=1)[:, :, None]).add_(1).clamp_(min=0)
    weights *= ((pixels > start[:, None]) & (pixels < (start + length)[:, None]))[:, None, :]
    return weights.div_(weights.sum(2, keepdim=True))


# --------------------------------------------------------------------------------------------------------------- colour


def luminance(images: Tensor) -> Tensor:
    """ITU-R 601's weighted sum of red, green and blue, as torchvision rounds its weights: (batch, 1, height, width)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """The pictures times `factor` (batch,), clipped to [0, 1]."""
    return (images * _each(factor, images)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """The difference from the picture's mean luminance times `factor` (batch,), clipped to [0, 1]."""
    mean = luminance(images.mean((2, 3), keepdim=True))
    return torch.lerp(images, mean, _each(1 - factor, images)).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """The difference from each pixel's luminance times `factor` (batch,), clipped to [0, 1]."""
    if images.shape[1] != 3:
        return images
    return torch.lerp(images, luminance(images), _each(1 - factor, images)).clamp_(0, 1)


def greyscale(images: Tensor, which: Tensor) -> Tensor:
    """All channels made the luminance where `which` (batch,), boolean, is true."""
    return _either(which, luminance(images), images) if images.shape[1] == 3 else images


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """The hue turned by `shift` (batch,), in [-0.5, 0.5] of the circle."""
    return hue_saturation(images, shift, torch.ones_like(shift))


def hue_saturation(images: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """In HSV, the hue turned by `shift` (batch,), of the circle, and the saturation times `factor` (batch,), at most 1.

    Unlike `saturation`, which blends with the luminance, this keeps each pixel's largest channel.
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(1)
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    # The hue in sixths of the circle, from -3 to 3, red at 0. Its size is the same expression in each of the six orders
    # of the channels, green and blue entering alike; its sign says which of these two is larger. Grey comes out 0.
    sixths = (green + blue).sub_(red).add_(value).sub_(least, alpha=2).div_(chroma.clamp(min=1e-12))
    sixths = torch.copysign(sixths, green - blue).add_(6 * _each(shift, images)[:, 0])
    sixths.sub_((sixths / 6).floor_(), alpha=6)
    # Saturation is chroma / value, so both are scaled alike. Each channel then lies below the value by the chroma times
    # a ramp of the hue (Smith 1978's hexcone, written as one clipped triangle wave a channel).
    chroma = torch.minimum(chroma.mul_(_each(factor, images)[:, 0]), value)
    result = torch.empty_like(images)
    for channel, ramp in enumerate(
        ((sixths - 3).abs_().neg_().add_(2), (sixths - 2).abs_().sub_(1), (sixths - 4).abs_().sub_(1))
    ):
        torch.sub(value, ramp.clamp_(0, 1).mul_(chroma), out=result[:, channel])
    return result
