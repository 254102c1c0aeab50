"""The shell's completion, from the commands' own parsers, written by shtab."""

import argparse
from collections.abc import Collection, Mapping, Sequence

import shtab

from .config.data_names import DATA
from .config.names import EXPORTS, LOSSES, NETWORKS, OPTIMIZERS, RULES, SCHEDULES
from .config.run import WORDS, recipes
from .config.view_names import POLICIES
from .errors import InputError

_NAMES: dict[str, Collection[str]] = {
    "data": DATA,
    "train": DATA,
    "test": DATA,
    "views": POLICIES,
    "test_views": POLICIES,
    "network": NETWORKS,
    "loss": LOSSES,
    "schedule": SCHEDULES,
    "rule": RULES,
    "optimizer": OPTIMIZERS,
    "to": EXPORTS,
    "device": ("auto", "cpu", "cuda"),
    "precision": WORDS["precision"],
}


def script(words: Sequence[str], parsers: Mapping[str, argparse.ArgumentParser], about: Mapping[str, str]) -> str:
    """The completion for the shell that `words` names, alone. Raises InputError for another."""
    if len(words) != 1 or words[0] not in shtab.SUPPORTED_SHELLS:
        raise InputError(f"Unknown shell {' '.join(words)!r}; it takes {', '.join(shtab.SUPPORTED_SHELLS)}.")
    whole = argparse.ArgumentParser(prog="saccade")
    whole.add_argument("--version", action="store_true", help="print the version")
    whole.add_argument("--print_completion", choices=shtab.SUPPORTED_SHELLS, help="write the shell's completion")
    commands = whole.add_subparsers()
    for name, parser in parsers.items():
        _copied(parser, commands.add_parser(name, help=about[name], description=about[name]))
    return shtab.complete(whole, words[0])


def _copied(source: argparse.ArgumentParser, target: argparse.ArgumentParser) -> None:
    """The options of a command, with the names that they take; what takes no name takes a file."""
    for action in source._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        flag = getattr(action, "_typehint", None) is bool
        names = action.option_strings or [action.dest]
        help = str(action.help or "").partition("\n")[0].partition(" (")[0].replace("%", "")
        if flag:
            target.add_argument(*names, action="store_true", help=help)
            continue
        choices = _NAMES.get(action.dest) if action.option_strings else None
        added = target.add_argument(*names, help=help, choices=None if choices is None else list(choices))
        if choices is None:
            added.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own
        if "--config" in names:
            target.add_argument("recipe", nargs="?", choices=list(recipes()), help="a recipe")
