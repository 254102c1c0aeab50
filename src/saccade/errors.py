"""The exceptions that reach a user, each with one sentence."""

from numbers import Integral
from typing import Any


def _one_line(sentence: str) -> str:
    """The sentence with whatever is no plain character escaped: line breaks, a terminal's commands, in names of files."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence)


class InputError(ValueError):
    """What the user gave cannot be used: one sentence that names the input, what was wrong and what is accepted.

    The command line prints the sentence on standard error and exits with code 2; a library user gets a `ValueError`.

    >>> print(InputError("There is no file a\\nb."))
    There is no file a\\nb.
    """

    def __init__(self, sentence: str):
        super().__init__(_one_line(sentence))


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """The value, if it is a whole number in that range.

    >>> whole("seeds", 0)
    Traceback (most recent call last):
    saccade.errors.InputError: seeds is 0; it takes a whole number of at least 1.

    Raises InputError for what is not.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"at least {least}, at most {most:,}"
        raise InputError(f"{name} is {value!r}; it takes a whole number of {bounds}.")
    return int(value)


class NotHere(InputError):
    """A named data set that exists, and that is not in the folder of the data sets."""


class Held(InputError):
    """The folder of a run is being written by another process."""


class RunError(RuntimeError):
    """A run could not go on, through nobody's input: its numbers are no longer finite, say. Exit code 1."""

    def __init__(self, sentence: str):
        super().__init__(_one_line(sentence))


class Lost(RunError):
    """Another process of the run has died or cannot be reached. The first that notices it is the one to say so."""

    first = True


class Stopped(Exception):
    """A run was asked to stop (Ctrl-C, SIGTERM, a batch system's warning) and saved its state first. Exit code 130."""
