"""What the fuzz tests share: few cases by default, many in the slow run, and texts that are nearly right."""

import contextlib
import io
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.cli import main
from saccade.config.names import LOSSES, OPTIMIZERS, RULES, SCHEDULES
from saccade.config.view_names import DEFORMATIONS, POLICIES
from saccade.errors import InputError

LONGEST = 120  # seconds of one case, on a busy machine; a longer one hangs


def fuzzed(**strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """A test of `check(folder, **drawn)` for drawn cases; each gets a new empty folder, and is ended if it hangs."""

    def wrap(check: Callable) -> Callable:
        def made(profile: settings, base: Path) -> tuple[Any, list[float]]:
            """A function that checks cases in folders under `base`, and the list that each one's seconds go to."""
            seconds: list[float] = []
            number = count()

            @settings(profile)
            @given(**strategies)
            def cases(**drawn: Any) -> None:
                folder = base / str(next(number))
                folder.mkdir()
                started = time.perf_counter()
                try:
                    with contextlib.chdir(folder), _ended_after(LONGEST):
                        check(folder, **drawn)
                finally:
                    shutil.rmtree(folder)
                seconds.append(time.perf_counter() - started)

            return cases, seconds

        @pytest.mark.parametrize("profile", ["quick", pytest.param("thorough", marks=pytest.mark.slow)])
        def test(profile: str, tmp_path_factory: pytest.TempPathFactory) -> None:
            made(settings.get_profile(profile), tmp_path_factory.mktemp("cases"))[0]()

        test.made = made  # type: ignore[attr-defined]
        return test

    return wrap


@contextlib.contextmanager
def _ended_after(seconds: int) -> Iterator[None]:
    def end(number: int, frame: Any) -> None:
        raise TimeoutError(f"a case took over {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(argv: list[str]) -> tuple[int, str]:
    """A command's exit code and what it said on standard error: one sentence where it refused."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(argv)
        except SystemExit as stop:  # --help
            code = int(stop.code or 0)
    assert code in (0, 1, 2), (argv, code)
    if code == 2:
        assert said.getvalue().startswith("saccade: ") and said.getvalue().count("\n") == 1, (argv, said.getvalue())
    return code, said.getvalue()


def one_sentence(error: InputError) -> None:
    assert "\n" not in str(error) and len(str(error)) < 2000, error


numbers = (
    st.integers()
    | st.integers(-3, 70)
    | st.floats()
    | st.sampled_from([1e-320, 1e300, -0.0, 0.5, 2**31, 2**63, 10**40, 65536])
)
words = st.sampled_from(
    ["all", "true", "none", "paper", "authors", "sum", "mean", "both", "split", "same", "own", "random"]
)
texts = st.text(max_size=12)
values = st.recursive(numbers | words | texts.map(repr), lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def written(value: Any) -> str:
    return "[" + ", ".join(map(written, value)) + "]" if isinstance(value, list) else str(value)


@st.composite
def calls(draw: st.DrawFn, table: dict[str, Any], options: dict[str, Sequence[str]]) -> str:
    """One call out of a table, with options that it has or has not."""
    name = draw(st.sampled_from(sorted(table)) | texts)
    known = options.get(name) or ["p"]
    chosen = draw(st.dictionaries(st.sampled_from(known) | texts, values, max_size=3))
    inside = ", ".join(f"{key}={written(value)}" for key, value in chosen.items())
    return f"{name}({inside})" if chosen or draw(st.booleans()) else name


def named(table: dict[str, Any]) -> st.SearchStrategy[str]:
    return calls(table, {name: list(entry.options) for name, entry in table.items()}) | texts


views = st.lists(
    calls(
        DEFORMATIONS | POLICIES,
        {n: list(d.options) for n, d in DEFORMATIONS.items()} | {n: list(p.defaults) for n, p in POLICIES.items()},
    ),
    min_size=1,
    max_size=3,
).map(" ".join)

_PARTS = ["conv2", "conv3(stride=2)", "local2", "linear4", "flatten", "maxpool", "avgpool3", "tanh", "relu", "hardtanh"]
_MAPS = ("conv2", "local3", "linear5")
_LAYER = st.lists(
    st.sampled_from(_PARTS)
    | calls(dict.fromkeys(_MAPS), dict.fromkeys(_MAPS, ("kernel", "stride", "padding", "bias")))
    | st.integers(0, 10**12).map(lambda n: f"conv{n}"),
    min_size=1,
    max_size=3,
).map(" ".join)
networks = (
    st.lists(_LAYER, min_size=1, max_size=3).map(" | ".join) | texts | st.sampled_from(["emnist", "emnist-strided"])
)

FIELDS: dict[str, st.SearchStrategy] = {
    "views": views,
    "size": st.integers(8, 33) | numbers | st.none(),
    "network": networks,
    "head": _LAYER | texts,
    "loss": named(LOSSES),
    "schedule": named(SCHEDULES),
    "rule": named(RULES),
    "optimizer": named(OPTIMIZERS),
    "rate": numbers,
    "epochs": numbers,
    "batch": st.integers(2, 20) | numbers,
    "seed": numbers,
    "device": st.sampled_from(["auto", "cpu", "meta", "cuda:99", "mps"]) | texts,
    "precision": st.sampled_from(["auto", "float32", "bfloat16", "float64"]) | texts,
    "diagnostics": st.integers(0, 3) | numbers,
    "checkpoint_seconds": numbers,
}


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """A file cut, with bytes put in, taken out or changed."""

    def change(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for start, length, put in edits:
            place = start % (len(changed) + 1)
            changed = changed[:place] + put + changed[place + length :]
        return changed

    edit = st.tuples(st.integers(0, len(content)), st.integers(0, 8) | st.just(len(content)), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=4).map(change)


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
