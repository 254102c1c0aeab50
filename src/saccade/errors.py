"""The exceptions that reach a user, each with one sentence."""


class InputError(ValueError):
    """What the user gave cannot be used: one sentence that names the input, what was wrong and what is accepted.

    The command line prints the sentence on standard error and exits with code 2; a library user gets a `ValueError`.
    """


class RunError(RuntimeError):
    """A run could not go on, through nobody's input: its numbers are no longer finite, say. Exit code 1."""


class Lost(RunError):
    """Another process of the run has died or cannot be reached. The first that notices it is the one to say so."""

    first = True


class Stopped(Exception):
    """A run was asked to stop (Ctrl-C, SIGTERM, a batch system's warning) and saved its state first. Exit code 130."""
