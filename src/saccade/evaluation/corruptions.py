"""Deformed and corrupted test images: made once, from a seed, and kept under the hash of what they were made from.

The corruptions are those of Hendrycks and Dietterich (2019), "Benchmarking neural network robustness to common corruptions
and perturbations", that `torchvision.transforms.v2` and Pillow (JPEG) can make; strengths of noise, blur, contrast and
compression are those of their CIFAR-10-C.
"""

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..data import ImageSet
from ..data.memory import free_memory
from ..data.npz import read_npz
from ..errors import InputError
from ..files import write_whole
from .probe import deformation

SEVERITIES = (1, 2, 3, 4, 5)
_VERSION = 1  # of the code that makes pictures: another where it makes others, so that what is kept is made anew


def _transforms() -> Any:
    from torchvision.transforms.v2 import functional  # imports torch's compiler: seconds that others need not wait

    return functional


def _noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return x + strength * torch.randn(x.shape, generator=generator)


def _impulse(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Salt and pepper, half and half, on this share of the values."""
    u = torch.rand(x.shape, generator=generator)
    return torch.where(u < strength / 2, 0.0, torch.where(u < strength, 1.0, x))


def _blur(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return _transforms().gaussian_blur(x, kernel_size=[9, 9], sigma=[strength, strength])


def _pixelate(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    side = x.shape[-2:]
    F = _transforms()
    small = F.resize(x, [round(strength * s) for s in side], F.InterpolationMode.BILINEAR, antialias=True)
    return F.resize(small, list(side), F.InterpolationMode.NEAREST)


def _jpeg(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    from PIL import Image

    pictures = []
    for picture in (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        stream = io.BytesIO()
        Image.fromarray(picture.squeeze()).save(stream, format="JPEG", quality=int(strength))
        pictures.append(torch.from_numpy(np.array(Image.open(stream))).view(picture.shape))
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 255


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]] = {
    "gaussian noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "impulse noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (lambda x, strength, _: _transforms().adjust_contrast(x, strength), (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (lambda x, strength, _: _transforms().adjust_brightness(x, strength), (1.1, 1.2, 1.3, 1.4, 1.6)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "JPEG": (_jpeg, (80, 65, 58, 50, 40)),
}


def corrupted(images: ImageSet, name: str, severity: int, seed: int = 0) -> ImageSet:
    """The pictures under one corruption at a severity from 1 to 5, as uint8; noise is drawn from the seed.

    Raises InputError for an unknown corruption or severity.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise InputError(
            f"Unknown corruption {name!r} of severity {severity}; it takes {', '.join(CORRUPTIONS)}, and 1 to 5."
        )
    corrupt, strengths = CORRUPTIONS[name]
    generator = draws.generator(seed, "corruption", name, severity)
    made = [
        _bytes(corrupt(images.batch(index).cpu().float() / 255, strengths[severity - 1], generator))
        for index in torch.arange(len(images)).split(500)
    ]
    return _like(images, torch.cat(made), f"{images.name} under {name} {severity}")


def deformed(images: ImageSet, views: str, seed: int = 0) -> ImageSet:
    """Each picture's one view under a policy, drawn once and for all from the seed and its place, as uint8."""
    deform = deformation(views, seed)
    made = [_bytes(deform(images.batch(i), i.to(images.device))).cpu() for i in torch.arange(len(images)).split(500)]
    return _like(images, torch.cat(made), f"{images.name} as {views}")


def kept(images: ImageSet, what: str, make: Callable[[], ImageSet], folder: Path) -> ImageSet:
    """What `make` makes of the images; the second time, it is read from `folder`.

    The file's name is a hash of the images and of `what`, a text that says all that the result depends on beside them. The
    result's `fingerprint` is what tells whether another machine made the same. What cannot be read there is made anew.
    """
    text = f"{images.fingerprint()} {what}, version {_VERSION}"
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
    with suppress(InputError):
        if path.exists():
            pictures, _ = read_npz(path, free_memory() // 2)
            return _like(images, torch.from_numpy(np.array(pictures)), f"{images.name} as {what}")
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.savez(stream, images=made.batch(torch.arange(len(made))).cpu().numpy())
    write_whole(path, stream.getvalue())  # several runs may make the same
    return made


def _bytes(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def _like(images: ImageSet, pictures: Tensor, name: str) -> ImageSet:
    return replace(images, images=pictures.to(images.device), name=name)
