"""The user's own parts of a run, kept as hashes of their source: a run goes on with the code that it began with."""

import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.grammar import imported, is_dotted
from ..config.run import TrainConfig
from ..errors import InputError

PARTS = ("loss", "schedule", "rule", "network", "head", "views")
_PACKAGE = Path(__file__).resolve().parents[1]
_OPTIONS = re.compile(r"\([^()]*\)")


def own_code(config: TrainConfig, parts: Sequence[str] = PARTS) -> dict[str, str]:
    """SHA-256 (hex) of the source of each of the user's own parts that a configuration names, by dotted path.

    Of a function or a class it is its own source, of another object its file's. What they call in turn is not seen, nor
    are installed packages and this one, which versions and the source tree tell of.
    """
    named = " ".join(_OPTIONS.sub("", getattr(config, part) or "") for part in parts).replace("|", " ").split()
    sources = {name: _source(name) for name in sorted(set(filter(is_dotted, named)))}
    return {name: hashlib.sha256(source.encode()).hexdigest() for name, source in sources.items() if source is not None}


def _source(name: str) -> str | None:
    made = imported(name, "part")
    named = made if inspect.isroutine(made) or inspect.isclass(made) else sys.modules[name.rpartition(".")[0]]
    installed = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")]
    try:
        path = Path(inspect.getfile(named)).resolve()
        own = not any(path.is_relative_to(place) for place in (_PACKAGE, *installed))
        return inspect.getsource(named) if own else None
    except (OSError, TypeError):  # built in, or made on the fly
        return None


def refuse_other_code(
    run: Path | str, facts: dict[str, Any], config: TrainConfig, parts: Sequence[str] = PARTS
) -> None:
    """Raises InputError where a part of the user's own is no longer what the run, or a result of it, began with."""
    began, now = facts.get("own_code") or {}, own_code(config, parts)
    if changed := [name for name in began if name in now and began[name] != now[name]]:
        raise InputError(
            f"The code of {', '.join(changed)} is not what the run in {run} began with (its hash differs); it takes the same "
            "code or a new folder."
        )
