"""What the commands share: parsers whose mistakes are one sentence, and results for a reader or for a program."""

import json
import os
import re
import sys
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from jsonargparse import ArgumentParser

from .config.run import recipe
from .errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from .report.tables import Table

# ------------------------------------------------------------------------------------------------------- what is asked


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null"}


class Parser(ArgumentParser):
    """A parser whose mistakes are one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        reason = " ".join(str(ex or message).split())
        wants = [_KINDS.get(kind, kind) for kind in re.findall(r"Expected a <class '(\w+)'>", reason)]
        named = re.match(r'Parser key "(\w+)": .*(?:Got|Given) value: (.*)', reason)
        if wants and named:
            raise InputError(f"--{named[1]} is {named[2]!r}; it takes {' or '.join(wants)}.")
        raise InputError(f"{reason.rstrip('.')}; {self.prog} --help lists what it takes.")


class Asked(Exception):
    """A command that is asked for its parser, and for nothing else, hands it over."""

    def __init__(self, parser: Parser):
        self.parser = parser


ASK = ["--parser"]


_BOOLEANS = ("true", "false", "yes", "no")  # what a boolean option may be followed by


def parse(parser: Parser, argv: list[str]) -> Any:
    """Parsed arguments; a boolean option may stand alone, and names may be written with hyphens: `--dry-run`."""
    if argv is ASK:
        raise Asked(parser)
    flags = {f"--{a.dest}" for a in parser._actions if getattr(a, "_typehint", None) is bool}
    names = {option for a in parser._actions for option in a.option_strings}
    takes_words = not all(a.option_strings for a in parser._actions)  # one may follow an option that stands alone
    words: list[str] = []
    for word, following in zip_longest(argv, argv[1:], fillvalue="-"):
        name, equals, value = word.partition("=")
        if name.startswith("--") and f"--{name[2:].replace('-', '_')}" in names:
            name = f"--{name[2:].replace('-', '_')}"
        words.append(name + equals + value)
        alone = following.startswith("-") or (takes_words and following.lower() not in _BOOLEANS)
        if name in flags and not equals and alone:
            words.append("true")
    return parser.parse_args(words)


def parse_with_recipe(parser: Parser, argv: list[str]) -> dict[str, Any]:
    """Parsed arguments of a command whose first word, or `--config`, may name a recipe that sets what is not given.

    A recipe may hold fields of which the command makes no options.
    """
    if argv and not argv[0].startswith("-"):
        if any(word.partition("=")[0] == "--config" for word in argv):
            raise InputError(f"The recipe {argv[0]} stands beside --config; it takes one of the two.")
        argv = ["--config", *argv]
    given = parse(parser, argv)
    values = given.as_dict()
    if given.config is not None:
        written = asdict(recipe(given.config))
        parser.set_defaults({name: value for name, value in written.items() if name in given})
        values = written | parse(parser, argv).as_dict()
    values.pop("config")
    return values


def add_int(parser: Parser, name: str, default: int | None, help: str) -> None:
    parser.add_argument(name, type=int if default is not None else int | None, default=default, help=help)


def add_flags(parser: Parser) -> None:
    parser.add_argument("--json", type=bool, default=False, help="print JSON, and nothing else")
    parser.add_argument("--quiet", type=bool, default=False, help="no progress, and no summary of where things are")


FORMATS = ("terminal", "markdown", "csv", "latex", "json")


def add_format(parser: Parser) -> None:
    parser.add_argument("--format", type=str, default="terminal", help=f"{', '.join(FORMATS)} (--json is the same)")


def known_format(name: str, as_json: bool, known: tuple[str, ...] = FORMATS) -> str:
    if name not in known:
        raise InputError(f"Unknown format {name!r}; it takes {', '.join(known)}.")
    if as_json and name not in ("terminal", "json"):
        raise InputError(f"--json and --format {name} are two forms; it takes one.")
    return "json" if as_json else name


def writable(name: str) -> Path:
    path = Path(name).expanduser()
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise InputError(f"{name or 'An empty name'} cannot be written; it takes a file in a folder that exists.")
    return path


# ------------------------------------------------------------------------------------------------------ what is printed


def tell(facts: dict[str, Any], as_json: bool, quiet: bool, file: TextIO | None = None) -> None:
    """What came of a command and where it is, a line each or as JSON, which `quiet` does not silence."""
    if as_json:
        print(json.dumps(facts, indent=2, default=str))  # str: of paths
    elif facts and not quiet:
        width = max(map(len, facts))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()), file=file)


def show(table: "Table | None", facts: dict[str, Any], form: str, quiet: bool) -> None:
    """A table, if there is one, and where things are: on standard error, where the table is for another program."""
    from .report import tables

    if form == "json":
        tell(({} if table is None else {"table": tables.as_data(table)}) | facts, True, quiet)
        return
    if table is not None and form == "terminal":
        console().print(tables.to_terminal(table))
    elif table is not None:
        print({"markdown": tables.to_markdown, "csv": tables.to_csv, "latex": tables.to_latex}[form](table), end="")
    tell(facts, False, quiet, None if form == "terminal" else sys.stderr)


def console() -> "Console":
    from rich.console import Console

    # Where nobody looks on, a table is not squeezed into eighty columns.
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
