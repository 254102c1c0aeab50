"""The little language in which a recipe names a choice and its options: `hinge(m1=1, negatives=5, block=true)`.

A text is one or more calls separated by blanks; a call is a name (dots and hyphens allowed), then optional arguments in
parentheses. Arguments are numbers, `true`, `false`, bare words, quoted strings or lists of these. Nothing is evaluated.
"""

import ast
import importlib
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError

_CALL = re.compile(r"([A-Za-z_][\w.-]*)(\(.*\))?", re.DOTALL)
_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", re.DOTALL)  # a quoted string, or a character
_WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Call:
    """A name with its positional and keyword arguments, as written."""

    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [_show(a) for a in self.args] + [f"{k}={_show(v)}" for k, v in self.options.items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


def _show(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, str) and not (value.isidentifier() and value.lower() not in _WORDS):
        return repr(value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def parse_calls(text: str, what: str = "specification") -> list[Call]:
    """The calls in `text`, in order; `what` names the input in the error.

    >>> [str(call) for call in parse_calls("crop(0.2, 1) flip jitter(p=0.8)")]
    ['crop(0.2, 1)', 'flip', 'jitter(p=0.8)']

    Raises InputError where the text is not of this form.
    """
    calls = [_parse_one(chunk, text, what) for chunk in _chunks(text, what)]
    if not calls:
        raise InputError(
            f"The {what} is empty; it takes names with optional arguments, in the form name(option=value)."
        )
    return calls


def parse_call(text: str, what: str = "specification") -> Call:
    """The one call in `text`.

    >>> parse_call("hinge(negatives=5, block=true)").options
    {'negatives': 5, 'block': True}
    """
    calls = parse_calls(text, what)
    if len(calls) != 1:
        raise InputError(
            f"The {what} {text!r} names {len(calls)} things; it takes one, in the form name(option=value)."
        )
    return calls[0]


def _chunks(text: str, what: str) -> list[str]:
    """Split at blanks outside parentheses; what stands in quotes counts as neither."""
    chunks, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in "([") - (token in ")]")
        if depth < 0:
            break
        if depth == 0 and token.isspace():
            chunks.append("")
        else:
            chunks[-1] += token
    if depth != 0:
        raise InputError(f"The {what} {text!r} has unbalanced parentheses; it takes the form name(option=value, ...).")
    return [chunk for chunk in chunks if chunk]


def _parse_one(chunk: str, text: str, what: str) -> Call:
    try:
        match = _CALL.fullmatch(chunk)
        if match is None:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns of what is refused below
            tree = ast.parse(f"_{match[2] or '()'}", mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
            raise ValueError
        options = {str(k.arg): _value(k.value) for k in tree.keywords if k.arg}
        if len(options) != len(tree.keywords):
            raise ValueError
        return Call(match[1], tuple(_value(a) for a in tree.args), options)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(
            f"The {what} {text!r} cannot be read at {chunk!r}; it takes the form name(option=value, ...)."
        ) from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id.lower(), node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        number = _value(node.operand)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str | None):
        if node.value == math.inf:  # 1e999
            raise ValueError
        return node.value
    raise ValueError


def is_dotted(text: str) -> bool:
    """Whether `text` is the dotted path of something in a module, perhaps with options, and not a name."""
    return bool(re.fullmatch(r"(?s)\w+(\.\w+)+(\(.*\))?", text))


def imported(path: str, what: str) -> Any:
    """The object at a dotted path. Raises InputError where there is none."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a module of the user's own may raise anything
        reason = error if isinstance(error, ImportError | AttributeError | ValueError) else _named(error)
        raise InputError(
            f"The {what} {path!r} cannot be imported ({reason}); it takes the dotted path of something importable."
        ) from error


def called(maker: Any, call: Call, subject: str) -> Any:
    """What a class or function makes with a call's options. Raises InputError, which begins with `subject`, where it fails."""
    try:
        return maker(*call.args, **call.options)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a class or function of the user's own may raise anything
        reason = error if isinstance(error, TypeError | ValueError) else _named(error)
        raise InputError(f"{subject} cannot be made: {reason}.") from error


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
