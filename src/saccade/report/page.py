"""One self-contained HTML page from plain data: no script, and nothing is loaded from outside the file."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ..errors import InputError
from ..files import write_whole
from .tables import Link, Table, number_text, plain


@dataclass(frozen=True)
class Text:
    """Paragraphs, apart by an empty line."""

    text: str


@dataclass(frozen=True)
class Svg:
    """A figure and what it shows; the caption is also its description for those who cannot see it."""

    svg: str
    caption: str

    @property
    def uri(self) -> str:
        # as an image its identifiers cannot clash with another figure's, and nothing in it can run
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and what it shows. Raises InputError for any other address."""

    uri: str
    caption: str

    def __post_init__(self) -> None:
        if not self.uri.startswith("data:image/"):
            raise InputError(f"The picture {self.uri[:60]!r} lies outside the page; it takes a data URI of an image.")


@dataclass(frozen=True)
class Facts:
    """Names and values; a value may be a mapping or a list itself."""

    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Code:
    """Text to be shown as it stands, such as a command or a recipe."""

    code: str


Block = Text | Table | Svg | Picture | Facts | Code


@dataclass(frozen=True)
class Section:
    """Blocks under a title; a cell whose link is `#anchor` leads here."""

    title: str
    blocks: list[Block]
    anchor: str = ""


def render(title: str, subtitle: str, sections: list[Section]) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("saccade.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"plain": plain, "fact": _fact, "words": lambda name: plain(str(name)).replace("_", " ")}
    environment.tests |= {
        kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
        for kind in (Text, Table, Svg, Picture, Facts, Code, Link)
    } | {"nested": lambda value: isinstance(value, Mapping)}
    return environment.get_template("page.html").render(title=title, subtitle=subtitle, sections=sections)


def write_page(path: Path | str, title: str, subtitle: str, sections: list[Section]) -> Path:
    """Write the page whole or not at all, and return its path. Raises InputError where the disk takes no more."""
    path = Path(path)
    write_whole(path, render(title, subtitle, sections).encode("utf-8", "replace"))
    return path


def _fact(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return number_text(value, 2)
        case Mapping():  # within a list, or empty
            return ", ".join(f"{name}: {_fact(one)}" for name, one in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(_fact, value)) or "none"
        case _:
            return plain(str(value))
