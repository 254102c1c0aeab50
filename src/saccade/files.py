"""Files that are written whole or not at all, whenever the process, the disk or the machine gives out."""

import errno
import glob
import os
import platform
import threading
from pathlib import Path

from .errors import InputError, RunError


def refusal(error: OSError, path: Path) -> InputError | RunError:
    """What to raise where a file could not be written: RunError where the disk is full, InputError else."""
    kind = RunError if error.errno in (errno.ENOSPC, errno.EDQUOT) else InputError
    return kind(
        f"{path.name} could not be written to {path.parent}: {error.strerror}; what was written before is intact."
    )


def make_folder(folder: Path) -> None:
    """Make a folder, where it is not there. Raises InputError where that cannot be, RunError where the disk is full."""
    refuse_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (RunError if full else InputError)(
            f"The folder {folder} cannot be made ({error.strerror}); it takes a folder that can be written."
        ) from None


def refuse_file(folder: Path) -> None:
    """Raises InputError where there is a file in the place of a folder, or above it."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(
            f"The folder {folder} cannot be made, since {there} is a file; it takes a new or an old folder."
        )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either there whole or not at all.

    Raises RunError where the disk takes no more, InputError where the file cannot be written for another reason.
    """
    writer = f"{platform.node()}.{threading.get_ident()}.{os.getpid()}"  # this one alone
    beside = path.with_name(f".{path.name}.{writer}.part")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(platform.node())}.*.part"):
        if not _runs(leftover.suffixes[-2][1:]):
            leftover.unlink(missing_ok=True)
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise refusal(error, path) from None


def _runs(process: str) -> bool:
    """Whether a process of this number is there; what is no number is nobody's to remove."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True
