"""The documentation's site: `sphinx-build -W -b html docs site`.

Nothing is loaded from the network when a page is read: equations become MathML, fonts are the reader's own. Pictures and
the list of commands are made here, by the package itself, into folders that git ignores.
"""

import contextlib
import io
import re
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import saccade
from saccade import cli
from saccade.config.run import TrainConfig
from saccade.report.schematic import pairs, schematic, timeline

HERE = Path(__file__).parent

project, author, copyright = "saccade", "The saccade authors", "2026, the saccade authors"
version = release = saccade.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "site"]
html_theme, html_title = "furo", "saccade"
html_show_sphinx = html_show_sourcelink = html_copy_source = False
html_static_path, html_css_files = ["static"], ["wide.css"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # torch says of every forward that it should be overridden
default_role = "code"  # docstrings mark code by single backticks

# ---------------------------------------------------------------------------------------- pictures and commands

_DIGITS = {"data": "digits:train", "views": "digits", "network": "emnist", "batch": 50, "epochs": 1}
_DIGITS["loss"] = "hinge(m1=1, m2=1.5, negatives=5, block=true)"
PICTURES = {
    **{f"rule-{rule}": {"rule": rule} for rule in ("bp", "rf", "urf", "weight-mirrors", "sign-symmetry", "dfa", "dtp")},
    "gll": {"schedule": "gll", "rule": "rf"},
    "simultaneous": {"schedule": "simultaneous", "rule": "rf"},
    "clapp": {"loss": "clapp", "schedule": "gll"},
}
LOSSES = {
    "hinge": "hinge",
    "hinge-block": "hinge(negatives=2, block=true)",
    "simclr": "simclr",
    "clapp": "clapp(negatives=2, gradient=context_detached)",
}


def draw() -> None:
    """Write the pictures that pages show; those that are the same are left alone, so that Sphinx sees no change."""
    drawn = {name: schematic(TrainConfig(**_DIGITS | changes)) for name, changes in PICTURES.items()}
    drawn |= {f"pairs-{name}": pairs(loss) for name, loss in LOSSES.items()}
    drawn |= {f"when-{name}": timeline(name) for name in ("e2e", "gll", "rll", "simultaneous")}
    for name, svg in drawn.items():
        _write(HERE / "pictures" / f"{name}.svg", svg)


def commands() -> None:
    """Write the page of all commands, each with what its --help prints."""
    page = ["# Commands", "What `saccade COMMAND --help` prints.", _block(["--help"])]
    for command in cli.COMMANDS:
        page += [f"## saccade {command}", _block([command, "--help"])]
    page += ["## What can be chosen", "`saccade list` names all choices with their options.", _block(["list"])]
    _write(HERE / "reference" / "commands.md", "\n\n".join(page) + "\n")


def _block(argv: list[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main(argv)
    return f"```text\n$ saccade {' '.join(argv)}\n\n{said.getvalue().strip()}\n```"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


# ---------------------------------------------------------------------------------------- what Sphinx is told


def _plain_docstring(app, what, name, obj, options, lines) -> None:
    """Docstrings are plain text with code in backticks: what reStructuredText would read into the rest is escaped."""
    text = "\n".join(lines)
    if what == "module":  # where an indented paragraph is a formula or a table
        text = re.sub(r"(?<=\n\n)(?=    )", "::\n\n", text)
    pieces = re.split(r"(``.*?``|`[^`\n]+`|^\s*>>> .*$|^\s*\.\.\. .*$)", text, flags=re.MULTILINE)
    pieces[::2] = [re.sub(r"([|\\]|(?<!\*)\*(?![\s*])|_(?=\W))", r"\\\1", piece) for piece in pieces[::2]]
    lines[:] = "".join(pieces).split("\n")


def _mathml(self, node) -> None:
    block = node.tagname == "math_block"
    made = tex2mathml(node.astext(), as_block=block)
    self.body.append(f'<div class="equation">{made}</div>' if block else made)
    raise SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(_mathml, None), block_renderers=(_mathml, None))
    app.connect("autodoc-process-docstring", _plain_docstring, priority=400)  # before napoleon, which is at 500
    app.connect("builder-inited", lambda app: (draw(), commands()))
