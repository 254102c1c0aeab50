"""The exceptions that reach a user, each with one sentence."""


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
