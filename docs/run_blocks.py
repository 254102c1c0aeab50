"""Run the code of pages as their readers would: `python docs/run_blocks.py docs/guide/tutorial.md`.

Everything on a page runs in order, in one folder and one Python session: a `python` block is executed; one with a caption is
written to the file that the caption names; each line that begins with `saccade` in an `sh` block, and with `$` in a `console`
block, is run as a command. A `text` block, and the lines below a command in a `console` block, are what was printed: they
are written anew into the page, and the tests compare them (`differ`). Blocks of other languages are left alone.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```(\{code-block\} )?(python|console|sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NEAR = 8  # accuracies in percent and angles in degrees differ from one processor to another


def run(page: str) -> str:
    """The page with what its code prints here, in the current folder. Raises whatever the code raises."""
    session: dict[str, Any] = {"__name__": "__main__"}
    printed = ""

    def block(match: re.Match) -> str:
        nonlocal printed
        directive, language, body = match.groups()
        if language == "console":
            body = "".join(f"$ {command}\n{_output(_command, command)}" for command in _commands(body))
        elif language == "sh":
            for line in body.splitlines():
                if line.startswith("saccade "):
                    _output(_command, line)
        elif language == "text":
            body = printed
        elif directive:
            caption, _, code = body.partition("\n")
            Path(caption.removeprefix(":caption: ")).write_text(code)
        else:
            printed = _output(lambda code: exec(compile(code, "page", "exec"), session), body)
        return f"```{directive or ''}{language}\n{body}```"

    sys.path.insert(0, os.getcwd())
    known = set(sys.modules)
    try:
        return _BLOCK.sub(block, page)
    finally:
        sys.path.remove(os.getcwd())
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(os.getcwd()):
                del sys.modules[name]  # the next page may have another file of that name


def _commands(body: str) -> list[str]:
    return [line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ ")]


def _command(line: str) -> None:
    from saccade.cli import main

    program, *argv = shlex.split(line)
    if program != "saccade" or main(argv) != 0:
        raise RuntimeError(f"{line} failed, or is no command of saccade")


def _output(function: Any, argument: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        function(argument)
    return "".join(f"{line.rstrip()}\n" for line in said.getvalue().strip("\n").splitlines())


def differ(expected: str, got: str) -> str | None:
    """What differs between two texts, blanks and small differences of numbers aside; None if nothing does."""
    for old, new in zip(_lines(expected), _lines(got), strict=False):
        numbers = [tuple(map(float, pair)) for pair in zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=False)]
        if _NUMBER.sub("#", old) != _NUMBER.sub("#", new) or any(abs(a - b) > _NEAR for a, b in numbers):
            return f"{old!r} is now {new!r}"
    here, there = len(_lines(expected)), len(_lines(got))
    return None if here == there else f"{here} lines are now {there}"


def _lines(text: str) -> list[str]:
    return [" ".join(re.sub("[─━]+", "─", line).split()) for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name).resolve()
        here = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                path.write_text(run(path.read_text()))
            finally:
                os.chdir(here)
