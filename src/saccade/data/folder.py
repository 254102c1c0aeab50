"""Pictures from a folder: a subfolder for each class, or all in one place and without labels."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import InputError
from .memory import spill

# Only formats whose decoder needs no other program: Pillow would hand an EPS file to Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
LONGEST_SIDE = 8192  # pixels; below Pillow's own limit for decompression bombs


def read_folder(
    path: Path, limit: int, size: int | None = None
) -> tuple[np.ndarray, np.ndarray | None, list[str] | None]:
    """Pictures, uint8 (n, channels, height, width), labels, int64 (n,), and class names, or None and None.

    Classes and files go by sorted names; what is hidden or does not end like a picture is passed over. Pictures are
    read as RGB without their transparency, the first frame of those that move; if every file is grey (Pillow's modes
    L and 1) they keep one channel. With `size` the largest central square of each is scaled to `size` pixels a side.
    More than `limit` bytes of pictures go to a temporary file, one after another.

    Raises InputError where a file cannot be decoded, is too large, or has another size than the first.
    """
    if size is not None and not 1 <= size <= LONGEST_SIDE:
        raise InputError(f"The size {size} for the pictures of {path} is not between 1 and {LONGEST_SIDE}.")
    try:
        files, labels, classes = _listed(path)
    except OSError as error:
        raise InputError(f"The folder {path} cannot be read ({error.strerror}).") from None
    heads = [_head(file) for file in files]
    channels = 1 if all(mode in ("L", "1") for _, mode in heads) else 3
    width, height = heads[0][0] if size is None else (size, size)
    for file, (found, _) in zip(files, heads, strict=True):
        if size is None and found != (width, height):
            raise InputError(
                f"{file} is {found[0]}x{found[1]} pixels where {files[0]} is {width}x{height}; "
                f"write {path}?size=N to scale and crop every picture to N x N."
            )
    shape = (len(files), height, width, channels)
    total = int(np.prod(shape, dtype=np.int64))
    pictures = (_decoded(file, channels, size, shape[1:]) for file in files)
    if total <= limit:
        images = np.empty(shape, np.uint8)
        for row, picture in zip(images, pictures, strict=True):
            row[:] = picture
    else:
        images = spill((picture.tobytes() for picture in pictures), total, str(path)).reshape(shape)
    return images.transpose(0, 3, 1, 2), labels, classes


def _listed(path: Path) -> tuple[list[Path], np.ndarray | None, list[str] | None]:
    flat = list(_pictures(path))
    folders = sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    if flat and folders:
        raise InputError(
            f"{path} has pictures and subfolders ({folders[0].name}); it takes one subfolder a class, or pictures only."
        )
    if flat:
        return flat, None, None
    files: list[Path] = []
    labels: list[int] = []
    for number, folder in enumerate(folders):
        inside = list(_pictures(folder))
        if not inside:
            raise InputError(f"The class folder {folder} has no pictures in it ({', '.join(SUFFIXES)}).")
        files += inside
        labels += [number] * len(inside)
    if not files:
        raise InputError(f"{path} has no pictures in it ({', '.join(SUFFIXES)}), nor subfolders that have.")
    return files, np.array(labels, np.int64), [folder.name for folder in folders]


def _pictures(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and os.path.isfile(entry):
            yield entry


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """Pillow's decoders raise whatever the bytes lead them to, and warn of what is refused or harmless."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # a hostile file brings any kind out of a decoder
        raise InputError(f"{file} cannot be decoded as a picture ({' '.join(str(error).split())[:150]}).") from None


def _head(file: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and mode, from the file's first bytes."""
    from PIL import Image

    with _refusing(file), Image.open(file, formats=FORMATS) as picture:
        size, mode = picture.size, picture.mode
    if min(size) < 1 or max(size) > LONGEST_SIDE:
        raise InputError(f"{file} is {size[0]}x{size[1]} pixels; a side has from 1 to {LONGEST_SIDE}.")
    if mode[0] in "IF":
        raise InputError(f"{file} has more than 8 bits a pixel (mode {mode}); convert it to 8 bits.")
    return size, mode


def _decoded(file: Path, channels: int, size: int | None, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    with _refusing(file), Image.open(file, formats=FORMATS) as opened:
        picture = opened.convert("L" if channels == 1 else "RGB")
        if size is not None:
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.crop((left, top, left + side, top + side))
            picture = square.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(shape)
