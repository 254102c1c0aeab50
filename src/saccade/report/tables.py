"""Tables as data, and the same table as Markdown, CSV, LaTeX, JSON or for a terminal; `page` renders it as HTML."""

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .paired import Paired

if TYPE_CHECKING:
    import rich.table

MISSING = "—"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1 in the denominator; None for n = 1) over n seeds."""

    mean: float
    std: float | None
    n: int


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation of one value a seed. Raises InputError where there is no value.

    >>> spread([1.0, 2.0, 3.0])
    Spread(mean=2.0, std=1.0, n=3)
    """
    values = [float(value) for value in values]
    if not values:
        raise InputError("A mean over seeds was asked of no values; it takes at least one.")
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Link:
    """A cell that leads to where its number comes from, such as a run's configuration; `href` is a relative path."""

    cell: "str | float | Spread | Paired"
    href: str

    def __post_init__(self) -> None:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", re.sub(r"[\x00-\x20]", "", self.href)):
            raise InputError(f"The link {self.href!r} leads elsewhere; a cell links to a relative path.")


Cell = str | float | None | Spread | Paired | Link


@dataclass(frozen=True)
class Table:
    """A header, rows of as many cells, a caption, and notes below. None is a missing value and is shown as one.

    Numbers are shown with `digits` decimals, those below 1 with as many as it takes for two that count, whole ones with
    none; CSV keeps them all. Raises InputError for a row of another length than the header's.
    """

    header: list[str]
    rows: list[list[Cell]]
    caption: str
    notes: list[str] = field(default_factory=list)
    digits: int = 1

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.header):
                raise InputError(
                    f"Row {number} of the table {self.caption!r} has {len(row)} cells; it takes {len(self.header)}."
                )

    def shown(self, cell: Cell) -> str:
        """A cell as a reader sees it.

        >>> table = Table(["a"], [[Spread(58.06, 0.31, 3)]], "A table")
        >>> table.shown(table.rows[0][0]), table.shown(0.00123), table.shown(None)
        ('58.1 ± 0.3', '0.0012', '—')
        """
        if isinstance(cell, Link):
            return self.shown(cell.cell)
        if cell is None:
            return MISSING
        if isinstance(cell, str):
            return plain(cell)
        if isinstance(cell, Paired):
            return cell.shown()
        if not isinstance(cell, Spread):
            return number_text(cell, self.digits)
        decimals = _decimals(cell.mean, self.digits)
        text = f"{cell.mean:.{decimals}f}"
        if cell.std is not None:
            text += f" ± {cell.std:.{decimals}f}"
        return text if len(self._seeds()) < 2 else f"{text} (n={cell.n})"

    def legend(self) -> list[str]:
        """The table's notes, after what its cells need explained: the spreads and the missing values."""
        lines = []
        seeds = self._seeds()
        if len(seeds) > 1:
            lines.append("Mean ± sample standard deviation over n seeds.")
        elif seeds == {1}:
            lines.append("One seed.")
        elif seeds:
            lines.append(f"Mean ± sample standard deviation over {min(seeds)} seeds.")
        if any(cell is None for row in self.rows for cell in row):
            lines.append(f"{MISSING}: missing, no result yet.")
        return [*lines, *(plain(note) for note in self.notes)]

    def numeric(self) -> list[bool]:
        """For each column, whether all that is in it are numbers or blanks, so that it is set flush right."""
        columns = [[c for row in self.rows if (c := _inner(row[i])) != ""] for i in range(len(self.header))]
        return [
            any(c is not None for c in column) and not any(isinstance(c, str) for c in column) for column in columns
        ]

    def _seeds(self) -> set[int]:
        return {cell.n for row in self.rows for cell in map(_inner, row) if isinstance(cell, Spread)}


def plain(text: str) -> str:
    """The text on one line, without control characters, and such that UTF-8 can hold it."""
    text = "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" else c for c in text)
    return text.encode("utf-8", "replace").decode()


def number_text(value: float, digits: int = 1) -> str:
    """A number for a reader: whole ones with thousands apart, others with `digits` decimals or two that count.

    >>> number_text(50000), number_text(98.246), number_text(0.00123), number_text(float("nan")), number_text(3.2e-9)
    ('50,000', '98.2', '0.0012', 'nan', '3.2e-09')
    """
    if isinstance(value, int):
        return f"{value:,}"
    decimals = _decimals(value, digits)
    return f"{value:.{decimals}f}" if decimals <= 6 else f"{value:.1e}"


def _decimals(value: float, digits: int) -> int:
    if not math.isfinite(value) or abs(value) >= 1 or value == 0:
        return digits
    return max(digits, 1 - math.floor(math.log10(abs(value))))


def _inner(cell: Cell) -> Cell:
    return cell.cell if isinstance(cell, Link) else cell


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, its caption above it in bold and its legend below."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell_text(cell: Cell) -> str:
        text = _markdown(table.shown(cell))
        return f"[{text}](<{_url(cell.href)}>)" if isinstance(cell, Link) else text

    lines = [f"**{_markdown(table.caption)}**", ""] if table.caption else []
    lines += [line(map(_markdown, table.header)), line("---:" if right else "---" for right in table.numeric())]
    lines += [line(map(cell_text, row)) for row in table.rows]
    for note in table.legend():
        lines += ["", _markdown(note)]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", plain(text))


def _url(href: str) -> str:
    """A relative path as Markdown and LaTeX take it: what they would read as their own is percent-encoded."""
    return re.sub(
        r"[^A-Za-z0-9./_=,+#-]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode("utf-8", "replace")), href
    )


def to_csv(table: Table) -> str:
    """Header and rows with full precision. A column that holds spreads becomes its mean, std and n, one of differences
    its mean, the ends of its interval, and n; one more column holds its links, where it has any.
    Missing values are empty. A name that several columns have is led by that of the column that they follow."""
    columns: list[list[str]] = []
    leading = ""
    for i, name in enumerate(table.header):
        if table.header.count(name) > 1:
            name = f"{leading}, {name}"
        else:
            leading = name
        whole = [row[i] for row in table.rows]
        cells = [_inner(cell) for cell in whole]
        spreads = [cell for cell in cells if isinstance(cell, Spread)]
        paired = [c if isinstance(c, Paired) else None for c in cells]
        columns.append([f"{name} mean" if spreads or any(paired) else name, *map(_exact, cells)])
        if any(paired):
            for end, place in (("low", 0), ("high", 1)):
                ends = (_exact(c.interval[place]) if c and c.interval else "" for c in paired)
                columns.append([f"{name} {end}", *ends])
            columns.append([f"{name} n", *(str(c.n) if c else "" for c in paired)])
        if spreads:
            columns.append([f"{name} std", *(_exact(c.std) if isinstance(c, Spread) else "" for c in cells)])
            columns.append([f"{name} n", *(str(c.n) if isinstance(c, Spread) else "" for c in cells)])
        if any(isinstance(cell, Link) for cell in whole):
            columns.append([f"{name} link", *(plain(c.href) if isinstance(c, Link) else "" for c in whole)])
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(zip(*columns, strict=True))
    return stream.getvalue()


def _exact(cell: Cell) -> str:
    """A cell, or the mean of a spread or of differences, with all its digits."""
    if isinstance(cell, Spread | Paired):
        return repr(cell.mean)
    return "" if cell is None else plain(cell) if isinstance(cell, str) else repr(cell)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",  # as it stands, it is another sign in some fonts
    "[": "{[}",  # after a line's end they would be taken for its arguments
    "]": "{]}",
    "*": "{*}",
    "-": "{-}",  # no dashes made of two hyphens
    "—": "---",
    "–": "--",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "°": r"$^\circ$",
    "→": r"$\to$",
    "…": r"\ldots{}",
} | {c: f"\\{c}" for c in "{}$&#_%"}


_LATEX_ROWS = 40  # of one float, so that caption and notes find room beside them


def to_latex(table: Table) -> str:
    """The table for LaTeX, no wider than the text, with the packages booktabs, graphicx and, where cells are links, hyperref.

    One of more rows than a page takes is continued in further floats.
    """

    def line(cells: Iterable[str]) -> str:
        return f"{' & '.join(cells)} \\\\"

    def cell_text(cell: Cell) -> str:
        text = _latex(table.shown(cell))
        if not isinstance(cell, Link):
            return text
        url = re.sub(r"[%#]", r"\\\g<0>", _url(cell.href))
        return f"\\href{{{url}}}{{{text}}}"

    columns = "".join("r" if right else "l" for right in table.numeric())
    lines: list[str] = []
    for first in range(0, max(len(table.rows), 1), _LATEX_ROWS):
        lines += [r"\end{table}"] if first else []
        lines += [r"\begin{table}", r"\centering"]
        said = [f"\\caption{{{_latex(table.caption)}}}"] if table.caption else []
        lines += [r"(continued)\par"] if first else said
        lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        lines += [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", line(map(_latex, table.header)), r"\midrule"]
        lines += [line(map(cell_text, row)) for row in table.rows[first : first + _LATEX_ROWS]]
        lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += [f"\\par\\footnotesize {_latex(note)}" for note in table.legend()]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in plain(text))


def as_data(table: Table) -> dict[str, Any]:
    """The table for JSON, its numbers with all their digits: a spread is its mean, std and n, a difference its n,
    mean, interval and p-values, a link what it shows.

    >>> as_data(Table(["rule", "%"], [["bp", Spread(58.0625, None, 1)]], "Two"))["rows"]
    [['bp', {'mean': 58.0625, 'std': None, 'n': 1}]]
    """
    inner = [[_inner(cell) for cell in row] for row in table.rows]
    rows = [[asdict(cell) if isinstance(cell, Spread | Paired) else cell for cell in row] for row in inner]
    return {"caption": table.caption, "header": table.header, "rows": rows, "notes": table.notes}


def to_terminal(table: Table) -> "rich.table.Table":
    """The table for rich's console; nothing in it is read as markup."""
    from rich.table import Table as RichTable
    from rich.text import Text

    legend = table.legend()
    rich_table = RichTable(
        title=Text(plain(table.caption)) if table.caption else None,
        caption=Text("\n".join(legend)) if legend else None,
        title_justify="left",
        caption_justify="left",
    )
    for name, right in zip(table.header, table.numeric(), strict=True):
        rich_table.add_column(Text(plain(name)), justify="right" if right else "left")
    for row in table.rows:
        rich_table.add_row(*(Text(table.shown(cell)) for cell in row))
    return rich_table
