"""Work in a process of its own, forked from this one: real signals, locks and mounts without the time of an import."""

import ctypes
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NEW_MOUNTS, _RECURSIVE, _PRIVATE = 0x00020000, 0x4000, 1 << 18


def start(said: Path, work: Callable[..., int | None], *arguments: Any) -> Any:
    """Begin `work(*arguments)` in a child; its exit code is what `work` returns, its standard error goes to `said`."""
    child = multiprocessing.get_context("fork").Process(target=_work, args=(said, work, arguments))
    child.start()
    return child


def _work(said: Path, work: Callable[..., int | None], arguments: tuple) -> None:
    sys.stderr = said.open("w", buffering=1)
    try:
        code = work(*arguments) or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    os._exit(code)


def wait_for(found: Callable[[], Any], seconds: float = 120) -> None:
    """Until `found()` is true."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def mount_small(folder: Path, megabytes: int) -> bool:
    """Mount an empty file system of that size on `folder`, for this process alone; False where that is forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={megabytes}m".encode()
    return (
        libc.unshare(_NEW_MOUNTS) == 0
        and libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None) == 0
        and libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options) == 0
    )
