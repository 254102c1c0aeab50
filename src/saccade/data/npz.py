"""Pictures from an `.npz` that may come from anyone: nothing is unpickled, nothing is allocated on a header's word.

An `.npz` is a zip archive of arrays, each with a header that claims a type and a shape. Both the archive's and the
array's claims are held against the file's real size first; then the bytes are read once to the end, so that the
archive's checksums are always checked, also where the pictures are too many to keep and are mapped from the file.
"""

import math
import os
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .memory import CHUNK, free_memory, spill

MOST_CLASSES = 100_000  # a probe has an output for every class, so one absurd label would exhaust the memory
_DEFLATE_RATIO = 1032  # zlib's "Maximum Compression Factor", technical details page of zlib.net
_ACCEPTED = (
    "an .npz has `images`, uint8 of shape (n, height, width), (n, height, width, 1 or 3) or (n, 1 or 3, height, width)"
    ", and perhaps `labels`, integers of shape (n,)"
)


@dataclass(frozen=True)
class _Member:
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int  # where the array's bytes begin, after its header

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(path: Path, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Pictures, uint8 (n, channels, height, width), and labels, int64 (n,), or None.

    Pictures that take more than `limit` bytes are mapped into memory, from the file itself where they are stored
    plain, else from a temporary file. A last axis of 1 or 3 is the channels; otherwise the second has to be.

    Raises InputError for whatever else the file may hold.
    """
    if not os.path.isfile(path):
        raise InputError(f"There is no file {path}; {_ACCEPTED}.")
    with _refusing(path), zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist()]
        if names.count("images.npy") != 1 or names.count("labels.npy") > 1:
            found = ", ".join(name.removesuffix(".npy")[:80] for name in names[:10]) or "nothing"
            raise InputError(f"{path} holds {found}; {_ACCEPTED}.")
        images = _member(archive, path, "images")
        if images.dtype != np.uint8 or len(images.shape) not in (3, 4) or min(images.shape[1:]) < 1:
            raise InputError(f"`images` of {path} are {images.dtype} of shape {images.shape}; {_ACCEPTED}.")
        if images.shape[0] < 1:
            raise InputError(f"{path} holds no pictures; it needs at least one.")
        if len(images.shape) == 4 and images.shape[3] not in (1, 3) and images.shape[1] not in (1, 3):
            raise InputError(f"`images` of {path} have neither 1 nor 3 channels: shape {images.shape}; {_ACCEPTED}.")
        labels = _member(archive, path, "labels") if "labels.npy" in names else None
        if labels is not None and labels.dtype.kind not in "iu":
            raise InputError(f"`labels` of {path} are {labels.dtype}; they have to be integers from 0.")
        if labels is not None and labels.shape != images.shape[:1]:
            raise InputError(
                f"`labels` of {path} have shape {labels.shape} for {images.shape[0]:,} pictures; "
                f"they need shape ({images.shape[0]},)."
            )
        if labels is not None and labels.size > free_memory() // 2:
            raise InputError(f"`labels` of {path} take {labels.size:,} bytes, more than half of the free memory.")
        numbers = (
            None
            if labels is None
            else checked_labels(_array(archive, path, labels, labels.size), f"`labels` of {path}")
        )
        return _channels_second(_array(archive, path, images, limit)), numbers


def checked_labels(labels: np.ndarray, what: str) -> np.ndarray:
    """The labels as int64. Raises InputError where one is negative or absurdly large."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MOST_CLASSES:
        raise InputError(f"{what} run from {low} to {high}; they have to lie between 0 and {MOST_CLASSES - 1}.")
    return labels.astype(np.int64)


def _channels_second(images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if images.shape[3] in (1, 3) else images


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Damaged bytes make zipfile, zlib and numpy's header parser raise a dozen kinds of error; all mean one thing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:  # a hostile file brings any kind out of zip, zlib and numpy
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise InputError(f"{path} cannot be read as an .npz ({reason}); {_ACCEPTED}.") from None


def _member(archive: zipfile.ZipFile, path: Path, key: str) -> _Member:
    """The array's header, believed only as far as the file's real size bears it out."""
    info = archive.getinfo(f"{key}.npy")
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE_RATIO}.get(info.compress_type)
    if most is None:
        raise InputError(
            f"`{key}` of {path} is packed in a way that numpy does not; savez and savez_compressed write it."
        )
    if info.compress_size > path.stat().st_size or info.file_size > most * info.compress_size:
        raise InputError(f"`{key}` of {path} claims {info.file_size:,} bytes, more than the file can hold.")
    with archive.open(info) as stream:
        # Version 1.0 is what numpy writes for plain arrays; later ones allow headers of 4 GB.
        if np.lib.format.read_magic(stream) != (1, 0):
            raise InputError(f"`{key}` of {path} is not a plain array of numbers; {_ACCEPTED}.")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        member = _Member(info, tuple(int(side) for side in shape), dtype, fortran, stream.tell())
    if dtype.hasobject:
        raise InputError(f"`{key}` of {path} holds Python objects, which are never loaded; {_ACCEPTED}.")
    if min(member.shape, default=0) < 0 or member.start + member.size != info.file_size:
        raise InputError(
            f"`{key}` of {path} claims shape {member.shape} of {dtype}, "
            f"which does not fit the {info.file_size - member.start:,} bytes that the archive has for it."
        )
    return member


def _chunks(archive: zipfile.ZipFile, path: Path, member: _Member) -> Iterator[bytes]:
    """The array's bytes, some at a time; the last read checks the archive's checksum."""
    count = 0
    with archive.open(member.info) as stream:
        stream.read(member.start)
        while chunk := stream.read(CHUNK):
            count += len(chunk)
            yield chunk
    if count != member.size:
        raise InputError(f"{path} ends early: {member.info.filename} has {count:,} of {member.size:,} bytes.")


def _array(archive: zipfile.ZipFile, path: Path, member: _Member, limit: int) -> np.ndarray:
    chunks = _chunks(archive, path, member)
    if member.size <= limit:
        flat = np.empty(member.size, np.uint8)
        end = 0
        for chunk in chunks:
            flat[end : end + len(chunk)] = np.frombuffer(chunk, np.uint8)
            end += len(chunk)
    elif member.info.compress_type == zipfile.ZIP_STORED:
        for _ in chunks:
            pass  # only for the checksum
        flat = np.memmap(path, np.uint8, "r", _offset(path, member), (member.size,))
    else:
        flat = spill(chunks, member.size, str(path))
    array = flat.view(member.dtype)
    return array.reshape(member.shape[::-1]).T if member.fortran else array.reshape(member.shape)


def _offset(path: Path, member: _Member) -> int:
    """Where in the file a plainly stored array begins: the member's local header ends with its own two lengths."""
    with open(path, "rb") as file:
        file.seek(member.info.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
    return member.info.header_offset + 30 + name + extra + member.start
