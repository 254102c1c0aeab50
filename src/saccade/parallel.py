"""Small runs side by side, one process a core and one thread a process: numbers do not depend on how many there are."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from .errors import Held, RunError, Stopped
from .signals import asking_to_stop

Report = Callable[[float], None]  # how much of the task is done, from 0 to 1


def side_by_side(
    function: Callable[[Any, Report], Any],
    tasks: Mapping[str, Any],
    *,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """`function(task, report)` of every task, by name; `function` and tasks must pickle.

    `workers` is the number of processes (default: one for each core that this process may use, or one where there is a
    GPU). `progress` is called with the share of all work that is done. The first exception of a task ends the others,
    which save what they train, and is raised; a signal to stop reaches them all, and raises Stopped. Raises RunError where
    a worker was killed, and, when the others are done, where another process holds the folder of a task's run.
    """
    workers = workers or (1 if torch.cuda.is_available() else len(os.sched_getaffinity(0)))
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with (
        _passing_signals_on(others),
        _listening(context.Queue(), len(tasks), progress) as news,
        ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start, initargs=(news,)) as pool,
    ):
        try:
            with _without_main(function):
                waiting = {pool.submit(_run, function, name, task): name for name, task in tasks.items()}
            found, held = {}, []
            for done in as_completed(waiting):
                try:
                    found[waiting[done]] = done.result()
                except Held as error:  # another process is at it: the others go on
                    held.append(error)
        except BaseException as error:
            _end_workers(others)
            pool.shutdown(cancel_futures=True)  # waits until they have saved what they train
            if isinstance(error, BrokenProcessPool):
                raise RunError(f"A worker was killed, perhaps for want of memory; {_CONTINUES}") from None
            raise
    if held:
        raise RunError(
            f"{len(held)} of {len(tasks)} were left out, and the others are done; the same command takes up what is "
            f"missing. The first: {held[0]}"
        )
    if progress:
        progress(1.0)  # a worker's last word may come after its result
    return {name: found[name] for name in tasks}


@contextmanager
def _without_main(function: Callable[..., Any]) -> Iterator[None]:
    """Processes that start within do not run the caller's script again, as they do where these two name it, unless the
    function is the script's own."""
    main = sys.modules["__main__"]
    names = () if function.__module__ == "__main__" else ("__spec__", "__file__")
    before = {name: getattr(main, name) for name in names if hasattr(main, name)}
    vars(main).update(dict.fromkeys(before))
    try:
        yield
    finally:
        vars(main).update(before)


_CONTINUES = "what was trained is saved, and the same command continues."


def _end_workers(others: list[Any]) -> None:
    """They save what they train. `others` are this process's children that are no workers."""
    for child in multiprocessing.active_children():
        if child not in others:
            child.terminate()


def _passing_signals_on(others: list[Any]) -> AbstractContextManager[None]:
    """A signal to stop goes on to the workers, who save what they train: a terminal tells them, `kill` does not."""
    stops = False

    def stop() -> None:
        nonlocal stops
        _end_workers(others)
        if stops:  # raised again, it would break off the orderly end of the first
            return
        stops = True
        raise Stopped(f"Stopped; {_CONTINUES}")

    return asking_to_stop(stop)


_news: Any = None  # a worker's way to tell how far it is


def _start(news: Any) -> None:
    global _news
    _news = news
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed saves its run and ends, rather than hold the run's folder.

    A run under way takes the first signal to save itself; the next one, with nothing to catch it, ends the process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


# Whether a task of this worker was stopped. It begins no other then: the pool hands out one ahead, and cannot take it back.
_stopped = False


def _run(function: Callable[[Any, Report], Any], name: str, task: Any) -> Any:
    global _stopped
    if _stopped:
        raise Stopped(f"Stopped; {_CONTINUES}")
    try:
        return function(task, lambda share: _news.put((name, share)))
    except Stopped:
        _stopped = True
        raise


@contextmanager
def _listening(news: Any, tasks: int, progress: Callable[[float], None] | None) -> Iterator[Any]:
    """Within, what workers say of how far they are goes to `progress`; what that raises is raised at the end.

    It ends after the workers have: one whose words nobody reads cannot end.
    """
    failed: list[Exception] = []
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(news, tasks, progress, failed, over), daemon=True)
    listener.start()
    try:
        yield news
    finally:
        over.set()
        news.put(None)
        news.cancel_join_thread()
        listener.join(_PATIENCE)
    if failed:
        raise failed[0]


_PATIENCE = 10  # seconds for the last words, which never come where a worker was killed while it spoke


def _listen(
    news: Any, tasks: int, progress: Callable[[float], None] | None, failed: list[Exception], over: threading.Event
) -> None:
    shares: dict[str, float] = {}
    while (heard := news.get()) is not None:
        shares[heard[0]] = heard[1]
        if progress and not failed and not over.is_set():
            try:
                progress(sum(shares.values()) / tasks)
            except Exception as error:  # of any kind: it is the caller's
                failed.append(error)
