"""Python objects in place of names: a loss, a rule, a schedule or a network of one's own, for the length of an audit.

A configuration holds text. While `named` lasts, an object stands in this module under its part's name, where the dotted path
of that name finds it.
"""

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import InputError

_PARTS = ("loss", "rule", "schedule", "network")


@contextmanager
def named(options: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """`options` with dotted paths in place of objects, and for each of these its own name, to be shown.

    A class or function is called as ever; of anything else each use is a copy. Raises InputError for what is not callable.
    """
    here = sys.modules[__name__]
    objects = {part: options[part] for part in _PARTS if part in options and not isinstance(options[part], str)}
    for part, value in objects.items():
        if value is None or (not callable(value) and not hasattr(value, "phases" if part == "rule" else "sites")):
            raise InputError(f"The {part} is {value!r}; it takes a name, a dotted path, or an object of that kind.")
        setattr(here, part, value if _makes(value) else _copies(value))
    try:
        yield {**options, **{part: f"{__name__}.{part}" for part in objects}}, {p: _name(v) for p, v in objects.items()}
    finally:
        for part in objects:
            delattr(here, part)


def _makes(value: Any) -> bool:
    return hasattr(value, "__qualname__")  # a class or a function


def _copies(value: Any) -> type:
    """A class, to all appearances: what it makes are copies of `value`."""
    return type(type(value).__name__, (), {"__new__": lambda cls: copy.deepcopy(value)})


def _name(value: Any) -> str:
    kind = value if _makes(value) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
