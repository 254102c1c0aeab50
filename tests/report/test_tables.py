"""Tables: what a cell shows, and that each format gives back what was put in, whatever the names are."""

import csv
import io
import math
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from saccade.errors import InputError
from saccade.report.tables import Link, Spread, Table, spread, to_csv, to_latex, to_markdown, to_terminal


def table(**changes):
    rows = [
        ["random", Spread(58.06, 0.31, 3), 0.00123, None],
        ["hinge & 5 | negatives", Spread(64.94, 1.26, 3), None, Link("run 7", "runs/7/config.yaml")],
    ]
    return Table(**{"header": ["encoder", "accuracy", "p", "run"], "rows": rows, "caption": "Probes"} | changes)


def test_spread_by_hand():
    # 2, 4, 9: mean 5, squared deviations 9 + 1 + 16 = 26, over n - 1 = 2
    assert spread([2, 4, 9]) == Spread(5.0, math.sqrt(13), 3)
    assert spread([7.5]) == Spread(7.5, None, 1)
    with pytest.raises(InputError, match="no values"):
        spread([])


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (Spread(58.06, 0.31, 3), "58.1 ± 0.3"),
        (Spread(0.0123, 0.0046, 3), "0.012 ± 0.005"),
        (98.25, "98.2"),
        (50000, "50,000"),
        (-0.034, "-0.034"),
        (0.0, "0.0"),
        (float("inf"), "inf"),
        ("a\nb\x1b[31m", "a b [31m"),
        (None, "—"),
        (Link(12.0, "x"), "12.0"),
    ],
)
def test_cells_as_a_reader_sees_them(cell, shown):
    assert Table(["a"], [[cell]], "t").shown(cell) == shown


def test_legend_says_what_is_spread_over_and_what_is_missing():
    assert table(notes=["Scale: small."]).legend() == [
        "Mean ± sample standard deviation over 3 seeds.",
        "—: missing, no result yet.",
        "Scale: small.",
    ]
    one, two = Spread(1.0, None, 1), Spread(2.0, 0.5, 2)
    mixed = Table(["a"], [[one], [two]], "t")
    assert mixed.legend() == ["Mean ± sample standard deviation over n seeds."]
    assert [mixed.shown(cell) for cell in (one, two)] == ["1.0 (n=1)", "2.0 ± 0.5 (n=2)"]
    assert Table(["a"], [[one]], "t").legend() == ["One seed."]
    assert Table(["a"], [[1.0]], "t").legend() == []


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(InputError, match=r"Row 2 of the table 't' has 1 cells; it takes 2"):
        Table(["a", "b"], [[1.0, 2.0], [1.0]], "t")


@pytest.mark.parametrize("href", ["javascript:alert(1)", "http://example.org/x", "//example.org", "data:text/html,x"])
def test_links_lead_nowhere_outside(href):
    with pytest.raises(InputError, match="relative path"):
        Link("x", href)


def test_markdown():
    lines = to_markdown(table()).splitlines()
    assert lines[:6] == [
        "**Probes**",
        "",
        "| encoder | accuracy | p | run |",
        "| --- | ---: | ---: | --- |",
        "| random | 58.1 ± 0.3 | 0.0012 | — |",
        r"| hinge \& 5 \| negatives | 64.9 ± 1.3 | — | [run 7](<runs/7/config.yaml>) |",
    ]
    assert lines[7:] == ["Mean ± sample standard deviation over 3 seeds.", "", "—: missing, no result yet."]
    hostile = to_markdown(Table(["`a`"], [["<img src=x>\n| *b* | [c](d) $e$"]], ""))
    assert hostile.splitlines()[0] == r"| \`a\` |"
    assert hostile.splitlines()[2] == r"| \<img src=x\> \| \*b\* \| \[c\](d) \$e\$ |"


def test_csv_keeps_all_digits_in_columns_of_their_own():
    rows = list(csv.reader(io.StringIO(to_csv(table()))))
    head = ["encoder", "accuracy mean", "accuracy std", "accuracy n", "p", "run", "run link"]
    assert rows == [
        head,
        ["random", "58.06", "0.31", "3", "0.00123", "", ""],
        ["hinge & 5 | negatives", "64.94", "1.26", "3", "", "run 7", "runs/7/config.yaml"],
    ]


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])))))
def test_csv_round_trip(pairs):
    numbers = [Spread(mean, mean / 3, 4) for mean, _ in pairs]
    text = to_csv(Table(["x", "name"], [[s, name] for s, (_, name) in zip(numbers, pairs, strict=True)], "t"))
    rows = list(csv.DictReader(io.StringIO(text)))
    if pairs:  # else there is no spread, and so no column of means
        assert [(float(r["x mean"]), float(r["x std"]), int(r["x n"])) for r in rows] == [
            (s.mean, s.std, s.n) for s in numbers
        ]
    assert [r["name"] for r in rows] == [name for _, name in pairs]


def test_latex():
    text = to_latex(table())
    assert text.splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Probes}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{lrrl}",
        r"\toprule",
        r"encoder & accuracy & p & run \\",
        r"\midrule",
        r"random & 58.1 $\pm$ 0.3 & 0.0012 & --- \\",
        r"hinge \& 5 \textbar{} negatives & 64.9 $\pm$ 1.3 & --- & \href{runs/7/config.yaml}{run 7} \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\footnotesize Mean $\pm$ sample standard deviation over 3 seeds.",
        r"\par\footnotesize ---: missing, no result yet.",
        r"\end{table}",
    ]


def test_latex_continues_a_table_that_is_longer_than_a_page():
    text = to_latex(Table(["name"], [[f"row {k}"] for k in range(95)], "Long", ["A note."]))
    floats = text.split(r"\begin{table}")[1:]
    rows = [[line for line in part.splitlines() if line.startswith("row ")] for part in floats]
    assert [*chain(*rows)] == [rf"row {k} \\" for k in range(95)] and max(map(len, rows)) <= 40
    for number, part in enumerate(floats):
        assert (r"\caption{Long}" in part) == (number == 0) == ("(continued)" not in part)
        assert (r"\footnotesize A note." in part) == (number == len(floats) - 1)
        assert part.rstrip().endswith(r"\end{table}") and part.count(r"\midrule") == part.count(r"\bottomrule") == 1


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("50% & #1_a $b$", r"50\% \& \#1\_a \$b\$"),
        ('~ ^ < > | "', r"\textasciitilde{} \textasciicircum{} \textless{} \textgreater{} \textbar{} {''}"),
        ("[2] *", "{[}2{]} {*}"),  # after a line's end: its length, its star
        ("--scale", "{-}{-}scale"),
    ],
)
def test_latex_escapes_what_would_be_a_command(text, escaped):
    assert to_latex(Table(["a"], [[text]], "")).splitlines()[7] == escaped + r" \\"


def test_terminal_reads_no_markup():
    console = Console(width=90, file=io.StringIO(), force_terminal=False)
    console.print(
        to_terminal(Table(["[b]name[/b]", "x"], [["[red]hinge[/red]\x1b[2J", Spread(58.06, 0.31, 3)]], "[i]t[/i]"))
    )
    text = " ".join(console.file.getvalue().split())
    for part in ("[b]name[/b]", "[red]hinge[/red]", "58.1 ± 0.3", "[i]t[/i]", "over 3 seeds"):
        assert part in text
    assert "\x1b" not in text
