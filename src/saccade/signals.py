"""The signals that ask a run to stop: Ctrl-C, SIGTERM, and SIGUSR1, a batch system's warning."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def asking_to_stop(act: Callable[[], None]) -> Iterator[None]:
    """Within, each signal to stop calls `act`, and does nothing else; outside the main thread signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {s: signal.signal(s, lambda number, frame: act()) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
