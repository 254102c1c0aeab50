"""Pictures from a folder: a subfolder for each class, or all in one place and without labels."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .memory import spill

# Only formats whose decoder needs no other program: Pillow would hand an EPS file to Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
GREY = ("L", "1")  # Pillow's modes
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
    check_size(size, path)
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of what is refused or harmless
        return _read(path, limit, size)


def _read(path: Path, limit: int, size: int | None) -> tuple[np.ndarray, np.ndarray | None, list[str] | None]:
    try:
        files, labels, classes = _listed(path)
    except OSError as error:
        raise InputError(f"The folder {path} cannot be read ({error.strerror}).") from None
    heads = [head(file, file) for file in files]
    channels = 1 if all(grey for _, grey in heads) else 3
    width, height = heads[0][0] if size is None else (size, size)
    for file, (found, _) in zip(files, heads, strict=True):
        if size is None and found != (width, height):
            raise InputError(
                f"{file} is {found[0]}x{found[1]} pixels where {files[0]} is {width}x{height}; "
                f"write {path}?size=N to scale and crop every picture to N x N."
            )
    shape = (len(files), height, width, channels)
    total = int(np.prod(shape, dtype=np.int64))
    pictures = (decoded(file, file, channels, size, (height, width)) for file in files)
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


def check_size(size: int | None, path: Path | str) -> None:
    if size is not None and not 1 <= size <= LONGEST_SIDE:
        raise InputError(f"The size {size} for the pictures of {path} is not between 1 and {LONGEST_SIDE}.")


@contextmanager
def opened(file: Path | BytesIO, name: Path | str) -> Iterator[Any]:
    """The picture, of which only the head has been read. Pillow's decoders raise whatever the bytes lead them to."""
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as picture:
            if min(picture.size) < 1 or max(picture.size) > LONGEST_SIDE:
                width, height = picture.size
                raise InputError(f"{name} is {width}x{height} pixels; a side has from 1 to {LONGEST_SIDE}.")
            if picture.mode[0] in "IF":
                raise InputError(f"{name} has more than 8 bits a pixel (mode {picture.mode}); convert it to 8 bits.")
            yield picture
    except InputError:
        raise
    except Exception as error:  # a hostile file brings any kind out of a decoder
        raise InputError(f"{name} cannot be decoded as a picture ({' '.join(str(error).split())[:150]}).") from None


def head(file: Path | BytesIO, name: Path | str) -> tuple[tuple[int, int], bool]:
    """(width, height), and whether the picture is grey; `name` is what an error calls it."""
    with opened(file, name) as picture:
        return picture.size, picture.mode in GREY


def decoded(
    file: Path | BytesIO, name: Path | str, channels: int, size: int | None, sides: tuple[int, int]
) -> np.ndarray:
    """The picture, uint8 (height, width, channels), of these `sides`; with `size`, its central square scaled.

    Raises InputError where it cannot be decoded, has other sides, or has colours where one channel is wanted.
    """
    from PIL import Image

    with opened(file, name) as picture:
        if size is None and picture.size != sides[::-1]:
            raise InputError(
                f"{name} is {picture.width}x{picture.height} pixels where the first is {sides[1]}x{sides[0]}; write ?size=N "
                "after the data to scale and crop every picture to N x N."
            )
        if channels == 1 and picture.mode not in GREY:
            raise InputError(f"{name} has colours where the first pictures have none; it takes one or the other.")
        mode = "L" if channels == 1 else "RGB"
        if picture.mode != mode:
            picture = picture.convert(mode)
        if size is not None:
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.crop((left, top, left + side, top + side))
            picture = square.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(*sides, channels)
