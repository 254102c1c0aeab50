"""A policy: deformations with their strengths, applied one after another to every picture with its own keyed draws."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import draws
from ..config.grammar import Call, imported
from ..config.view_names import resolve
from ..errors import InputError
from . import deform

# On a processor, pictures are deformed in groups whose intermediate results stay in its cache: 100 CIFAR pictures.
_GROUP = 100 * 3 * 32 * 32


@dataclass(frozen=True)
class _Kind:
    """How one deformation works: how many uniform draws it takes, what parameters they become, what these do.

    `draw` gets the draws (batch, draws), the options, the pictures' (channels, height, width) and the views' (height,
    width), and gives tensors of shape (batch, ...); `apply` gets pictures, options, the views' (height, width) and
    those tensors.
    """

    draws: int
    draw: Callable[..., tuple[Tensor, ...]]
    apply: Callable[..., Tensor]


@dataclass(frozen=True)
class Policy:
    """A list of deformations, and the size of the views in pixels (None: that of the pictures). Made by `parse`."""

    steps: tuple[Call, ...]
    size: int | None = None

    def __str__(self) -> str:
        return " ".join(map(str, self.steps)) or "none"

    def alone(self) -> list["Policy"]:
        """Each deformation as a policy of its own, applied to every picture: its probability, if it has one, is 1."""
        certain = [Call(s.name, (), s.options | {"p": 1.0} if "p" in s.options else s.options) for s in self.steps]
        return [Policy((step,), self.size) for step in certain]

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """One view of every picture: float32 (batch, channels, size, size), in [0, 1] unless standardized.

        `images` is (batch, channels, height, width), uint8 or float in [0, 1]; `keys` (batch,) is int64 on the same
        device (`draws.image_keys`). A view depends on its picture and key only, not on the batch it is made in.

        Raises InputError where the shapes do not fit or a window is larger than the pictures.
        """
        if images.dim() != 4 or keys.shape != images.shape[:1]:
            raise InputError(
                f"Views are made of images (batch, channels, height, width) with one key each; got images of shape "
                f"{tuple(images.shape)} and keys of shape {tuple(keys.shape)}."
            )
        shape = tuple(images.shape[1:])
        planned: list[tuple[_Kind, dict[str, Any], tuple[Tensor, ...]]] = []
        size = (self.size, self.size) if self.size else shape[1:]
        # Without a deformation that makes the size, the whole picture is resized before all others.
        if shape[1:] != size and not any(step.name in ("crop", "window") for step in self.steps):
            planned.append((_KINDS["crop"], {}, _whole(keys, shape)))
            if shape[1] != shape[2]:  # of square ones the form stays, and a shift is what it was, of their own width
                shape = (shape[0], *size)
        for position, step in enumerate(self.steps):
            if step.name not in _KINDS:
                planned.append((_own(step.name), step.options, (draws.substream(keys, position),)))
                continue
            kind = _KINDS[step.name]
            uniform = draws.uniform(draws.substream(keys, position), kind.draws)
            planned.append((kind, step.options, kind.draw(uniform, step.options, shape, size)))
            if step.name in ("crop", "window"):
                shape = (shape[0], *size)

        views = torch.empty((len(images), shape[0], *size), device=images.device)
        fitting = _GROUP // max(math.prod(images.shape[1:]), 1) if images.device.type == "cpu" else len(images)
        group = max(fitting, 1)
        with torch.autocast(images.device.type, enabled=False):  # places and colours need float32
            for start in range(0, len(images), group):
                part = slice(start, start + group)
                x = images[part].float()
                x = x.div_(255) if images.dtype == torch.uint8 else x
                for kind, options, parameters in planned:
                    x = kind.apply(x, options, size, *(p[part] for p in parameters))
                views[part] = x
        return views


def parse(text: str, size: int | None = None) -> Policy:
    """The policy that `text` writes (`config.view_names` lists names, deformations and options).

    A deformation may be the dotted path of a function of one's own, with options: it is called with pictures (batch,
    channels, height, width), float32 in [0, 1], and keys (batch,), int64, and gives pictures of the same shape.

    >>> str(parse("flip grey(p=0.5)", size=32))
    'flip(p=0.5) grey(p=0.5)'

    Raises InputError for an unknown name or option, a strength out of its range, a size below 1, and for a window
    without a size.
    """
    steps = resolve(text)
    for step in steps:
        if step.name not in _KINDS:
            _own(step.name)  # refused here, if it cannot be imported
    if size is not None and size < 1:
        raise InputError(f"The views' size is {size}; it takes a whole number of pixels of at least 1.")
    if size is None and any(step.name == "window" for step in steps):
        raise InputError("The views' window needs the views' size; give a size in pixels, such as 64.")
    return Policy(steps, size)


def _own(path: str) -> _Kind:
    """The user's own deformation at a dotted path."""
    function = imported(path, "deformation")
    if not callable(function):
        raise InputError(f"The deformation {path!r} is a {type(function).__name__}; it takes a function.")

    def apply(x: Tensor, options: dict[str, Any], size: tuple[int, int], keys: Tensor) -> Tensor:
        try:
            made = function(x, keys, **options)
        except (Exception, SystemExit) as error:  # it may raise anything
            raise InputError(f"The deformation {path} cannot be called ({type(error).__name__}: {error}).") from error
        if not isinstance(made, Tensor) or made.shape != x.shape:
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise InputError(f"The deformation {path} gave {got}; it takes pictures of shape {tuple(x.shape)}.")
        return made.to(x.dtype)

    return _Kind(0, lambda *_: (), apply)


# ------------------------------------------------------------------------------------------- from draws to parameters


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _whole(keys: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    box = torch.zeros(len(keys), 4, dtype=torch.int64, device=keys.device)
    box[:, 2], box[:, 3] = shape[1], shape[2]  # made there: a copy from the host would wait for it
    return (box,)


def crop_boxes(u: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes (batch, 4) by torchvision's RandomResizedCrop, from uniform draws `u` (batch, 22).

    Ten tries of area and log ratio; the first that fits is placed at random. Where none fits, the centre, with the
    nearest ratio allowed. Areas are given in `scale` of the picture's.
    """
    area = _between(u[:, :10], *scale) * (height * width)
    aspect = torch.exp(_between(u[:, 10:20], math.log(ratio[0]), math.log(ratio[1])))
    widths, heights = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    some = fits.any(1)
    box_height, box_width = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    top, left = torch.floor(u[:, 20] * (height - box_height + 1)), torch.floor(u[:, 21] * (width - box_width + 1))
    # In float32 a draw just below 1 can round up to the count itself.
    top, left = torch.minimum(top, height - box_height), torch.minimum(left, width - box_width)

    centre_width = min(width, max(round(height * ratio[1]), 1)) if width / height > ratio[1] else width
    centre_height = min(height, max(round(width / ratio[0]), 1)) if width / height < ratio[0] else height
    centre = ((height - centre_height) // 2, (width - centre_width) // 2, centre_height, centre_width)
    found = (top, left, box_height, box_width)
    return torch.stack([torch.where(some, f, float(c)) for f, c in zip(found, centre, strict=True)], dim=1)


def _draw_crop(u: Tensor, o: dict[str, Any], shape: tuple[int, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    return (crop_boxes(u, shape[1], shape[2], o["scale"], o["ratio"]),)


def _draw_window(u: Tensor, o: dict[str, Any], shape: tuple[int, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    spare = [have - want for have, want in zip(shape[1:], size, strict=True)]
    if min(spare) < 0:
        raise InputError(f"A window of {size[0]}x{size[1]} pixels was asked of pictures of {shape[1]}x{shape[2]}.")
    corner = [
        torch.full_like(u[:, i], s // 2) if o["centre"] else (u[:, i] * (s + 1)).floor() for i, s in enumerate(spare)
    ]
    corner = [c.clamp(max=s) for c, s in zip(corner, spare, strict=True)]
    return (torch.stack([*corner, *(torch.full_like(u[:, 0], s) for s in size)], dim=1),)


def _draw_chance(u: Tensor, o: dict[str, Any], shape: tuple[int, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    return (u[:, 0] < o["p"],)


def _draw_jitter(u: Tensor, o: dict[str, Any], shape: tuple[int, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    chosen = u[:, 4] < o["p"]
    strengths = [o["brightness"], o["contrast"], o["saturation"]]
    factors = [_between(u[:, i], max(0.0, 1 - s), 1 + s) for i, s in enumerate(strengths)]
    return (
        *(torch.where(chosen, f, 1.0) for f in factors),
        torch.where(chosen, _between(u[:, 3], -o["hue"], o["hue"]), 0.0),
    )


def _draw_hsv(u: Tensor, o: dict[str, Any], shape: tuple[int, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    chosen = u[:, 2] < o["p"]
    if o["shared"] is not None:
        common = torch.full_like(u[:, 0], draws.key(o["shared"], "hsv"), dtype=torch.int64)
        u = draws.uniform(common, 2)
    shift = _between(u[:, 0], -o["hue"], o["hue"])
    factor = torch.exp2(_between(u[:, 1], -o["saturation"], o["saturation"]))
    return torch.where(chosen, shift, 0.0), torch.where(chosen, factor, 1.0)


def _draw_affine(u: Tensor, o: dict[str, Any], shape: tuple[int, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    signed = 2 * u[:, :6] - 1
    magnitude = _between(signed.abs(), o["low"], o["high"])
    change = torch.where(signed < 0, -magnitude, magnitude).view(-1, 2, 3)
    change = torch.cat([change[:, :, :2], 2 * change[:, :, 2:]], dim=2) * (u[:, 6] < o["p"])[:, None, None]
    return (torch.eye(2, 3, device=u.device) + change,)


def _draw_similarity(u: Tensor, o: dict[str, Any], shape: tuple[int, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    signed = torch.where(u[:, 4:] < o["p"], 2 * u[:, :4] - 1, 0.0)
    angle, scale = signed[:, 0] * o["rotation"], torch.exp(signed[:, 1] * o["log_scale"])
    return (deform.similarity_matrix(angle, scale, signed[:, 2:] * (o["shift"] * shape[2] / 2), shape[1], shape[2]),)


# ------------------------------------------------------------------------------------------ from parameters to pictures


def _apply_box(x: Tensor, o: dict[str, Any], size: tuple[int, int], boxes: Tensor) -> Tensor:
    return deform.resized_crop(x, boxes, size).clamp_(0, 1)


def _apply_affine(x: Tensor, o: dict[str, Any], size: tuple[int, int], matrix: Tensor) -> Tensor:
    return deform.affine(x, matrix, o["padding"]).clamp_(0, 1)


def _apply_jitter(x: Tensor, o: dict[str, Any], size: tuple[int, int], *parameters: Tensor) -> Tensor:
    # torchvision shuffles the four at each call; here their order is fixed, which one pass over a batch allows.
    for name, parameter in zip(("brightness", "contrast", "saturation", "hue"), parameters, strict=True):
        x = getattr(deform, name)(x, parameter) if o[name] else x
    return x


_KINDS: dict[str, _Kind] = {
    "crop": _Kind(22, _draw_crop, _apply_box),
    "window": _Kind(2, _draw_window, _apply_box),
    "flip": _Kind(1, _draw_chance, lambda x, o, size, which: deform.flip(x, which)),
    "jitter": _Kind(5, _draw_jitter, _apply_jitter),
    "grey": _Kind(1, _draw_chance, lambda x, o, size, which: deform.greyscale(x, which)),
    "standardize": _Kind(0, lambda *_: (), lambda x, o, size: (x - o["mean"]) / o["std"]),
    "hsv": _Kind(3, _draw_hsv, lambda x, o, size, shift, factor: deform.hue_saturation(x, shift, factor)),
    "affine": _Kind(7, _draw_affine, _apply_affine),
    "similarity": _Kind(5, _draw_similarity, _apply_affine),
}
