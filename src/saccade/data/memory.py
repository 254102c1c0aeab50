"""The device, its float32, its memory, and where pictures go that do not fit: an unnamed temporary file, mapped into memory."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError

CHUNK = 1 << 24  # bytes read, written or hashed at a time


def pick_device(name: str) -> torch.device:
    """The device that a configuration names; auto is the GPU where there is one. Raises InputError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}); it takes auto, cpu or cuda."
        ) from None
    return device


@contextmanager
def whole_float32() -> Iterator[None]:
    """Within, float32 convolutions on a GPU keep all digits of what they multiply, as on a processor. By default cuDNN
    rounds it to ten bits of mantissa (TF32), and matrix products do not."""
    cudnn: Any = torch.backends.cudnn
    kinds = cudnn.conv, cudnn.rnn  # which torch wants alike
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that a new tensor on the device could take: the graphics card's own memory, else the machine's.

    On Linux it is what the kernel calls available, or what a container's limit leaves where that is less; elsewhere
    the machine's whole memory, which is the best that the standard library can say.
    """
    device = torch.device(device)
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes next
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 32
    try:
        group = Path("/sys/fs/cgroup")
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        taken = int((group / "memory.current").read_text()) - int(used["inactive_file"])  # cache can be given up
        return max(0, min(available, int((group / "memory.max").read_text()) - taken))
    except (OSError, KeyError, ValueError):  # no container, or one without a limit ("max")
        return available


def read_bounded(path: Path, most: int | None = None) -> bytes:
    """A file's bytes. Raises OSError for what is no plain file (a pipe would never end), and where there are more than
    `most` of them (default: half of the free memory), which a sparse file can claim in a kilobyte of disk."""
    if not path.is_file():
        raise OSError("there is no such file")
    most = free_memory() // 2 if most is None else most
    if (size := path.stat().st_size) > most:
        raise OSError(f"it has {size:,} bytes, and {most:,} are taken")
    return path.read_bytes()


def spill(chunks: Iterable[bytes | memoryview], size: int, what: str) -> np.ndarray:
    """The bytes of `chunks`, `size` in all, as a flat uint8 array in a temporary file that is mapped into memory.

    The file has no name, so it is gone when the array is, even if the process is killed. It is written, not filled
    through the map: on a full disk a write fails with an error, a map with a signal that ends the process.

    Raises InputError where the folder for temporary files has no room.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    refusal = (
        f"{what} needs {size:,} bytes of temporary space and {folder} has no room for it; "
        "set TMPDIR to a folder that has, or use a smaller set."
    )
    if size > free:
        raise InputError(refusal)
    with tempfile.TemporaryFile(dir=folder) as file:
        for chunk in chunks:
            try:
                file.write(chunk)
            except OSError:
                raise InputError(refusal) from None
        try:
            file.flush()
        except OSError:
            raise InputError(refusal) from None
        return np.memmap(file, dtype=np.uint8, mode="r", shape=(size,))
