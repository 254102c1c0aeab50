"""Progress on the terminal: a bar with the time left, on standard error; silent where that is no terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextmanager
def _shown(quiet: bool) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty()) as progress:
        yield progress


@contextmanager
def bar(what: str, quiet: bool = False) -> Iterator[Callable[[int, int, float], None]]:
    """A function of (step, steps in all, loss) that moves one bar."""
    with _shown(quiet) as progress:
        task = progress.add_task(what, total=None)
        yield lambda step, total, loss: progress.update(
            task, completed=step, total=total, description=f"{what}, loss {loss:.4g}" if loss == loss else what
        )


@contextmanager
def share(what: str, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """A function of the share of the work that is done, which moves one bar."""
    with _shown(quiet) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def steps(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function of (what, done, total) that moves one bar for each thing that is done."""
    with _shown(quiet) as progress:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield update
