"""The one exception that a user's mistake raises."""


class InputError(ValueError):
    """What the user gave cannot be used: one sentence that names the input, what was wrong and what is accepted.

    The command line prints the sentence on standard error and exits with code 2; a library user gets a `ValueError`.
    """
