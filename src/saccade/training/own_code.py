"""The user's own parts of a run: kept as hashes of their source, so that a run goes on with the code that it began with,
and named where they fail.
"""

import hashlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.grammar import imported, is_dotted
from ..config.run import TrainConfig
from ..errors import InputError, RunError, Stopped

PARTS = ("loss", "schedule", "rule", "network", "head", "views")
_PACKAGE = Path(__file__).resolve().parents[1]
_OPTIONS = re.compile(r"\([^()]*\)")


def own_code(config: TrainConfig, parts: Sequence[str] = PARTS) -> dict[str, str]:
    """SHA-256 (hex) of the source of each of the user's own parts that a configuration names, by dotted path.

    Of a function or a class it is its own source, of another object its file's. What they call in turn is not seen, nor
    are installed packages and this one, which versions and the source tree tell of.
    """
    named = {name: _part(name) for name in _dotted(config, parts)}
    sources = {name: _source(part) for name, part in named.items() if _is_own(_file(part))}
    return {name: hashlib.sha256(source.encode()).hexdigest() for name, source in sources.items() if source is not None}


@contextmanager
def failures_told(config: TrainConfig, kind: type[InputError | RunError]) -> Iterator[None]:
    """Within, whatever the user's own code raises is one sentence, which names the file and the line: `kind`."""
    try:
        yield
    except (InputError, RunError, Stopped, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # code of the user's own may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_own(Path(frame.filename))]
        if not (names := _dotted(config, PARTS)) or (not own and isinstance(error, OSError)):
            raise
        place = (own or frames)[-1]
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise kind(
            f"The run's own code ({', '.join(names)}) failed at line {place.lineno} of {place.filename}, in {place.name} "
            f"({' '.join(reason.split())}); it takes code that raises nothing."
        ) from error


def _dotted(config: TrainConfig, parts: Sequence[str]) -> list[str]:
    """The dotted paths that a configuration names."""
    named = " ".join(_OPTIONS.sub("", getattr(config, part) or "") for part in parts).replace("|", " ").split()
    return sorted(set(filter(is_dotted, named)))


def _part(name: str) -> Any:
    """What a dotted path names, or its module where that has no source of its own."""
    made = imported(name, "part")
    return made if inspect.isroutine(made) or inspect.isclass(made) else sys.modules[name.rpartition(".")[0]]


def _file(part: Any) -> Path | None:
    try:
        return Path(inspect.getfile(part))
    except (OSError, TypeError):  # built in, or made on the fly
        return None


def _is_own(path: Path | None) -> bool:
    """Whether a file is the user's own: neither this package's nor an installed one's."""
    if path is None or not path.is_file():
        return False
    installed = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")]
    return not any(path.resolve().is_relative_to(place) for place in (_PACKAGE, *installed))


def _source(part: Any) -> str | None:
    try:
        return inspect.getsource(part)
    except (OSError, TypeError):
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
