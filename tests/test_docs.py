"""The code of the documentation's pages and the examples run, and print what the pages say."""

import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import run_blocks

from saccade import api, cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if run_blocks._BLOCK.search(path.read_text()))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", [p for p in PAGES if p.parent.name == "guide"], ids=lambda p: p.stem)
def test_page(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    page = path.read_text()
    changed = run_blocks.differ(page, run_blocks.run(page))
    assert changed is None, f"{changed}; to write it anew: python docs/run_blocks.py {path.relative_to(ROOT)}"


def test_a_difference_is_told():
    assert run_blocks.differ("a 1.5 %", "a  2.5 %") is None
    assert run_blocks.differ("a 1.5 %", "a 9.9 %") == "'a 1.5 %' is now 'a 9.9 %'"
    assert run_blocks.differ("met", "violated") == "'met' is now 'violated'"
    assert run_blocks.differ("a", "a\nb") == "1 lines are now 2"


def test_blocks_that_fail_are_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run_blocks.run("```python\n1 / 0\n```\n")
    with pytest.raises(RuntimeError, match="failed"):
        run_blocks.run("```console\n$ saccade nonsense\n```\n")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path, tmp_path, monkeypatch, capsys):
    """Each example's `main` at a tiny size, which is its only argument: a share of the work."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "SEEDS"):
        module.SEEDS = 2
    assert list(inspect.signature(module.main).parameters) == ["epochs"]
    module.main(epochs=0.2)
    assert capsys.readouterr().out.strip()


def test_examples_are_shown():
    shown = re.findall(r"examples/(\w+)\.py", (ROOT / "docs" / "guide" / "examples.md").read_text())
    assert {path.stem for path in EXAMPLES} == set(shown)


@pytest.fixture
def nothing_runs(tmp_path, monkeypatch):
    """`saccade reproduce` takes what it is told, or refuses it, and neither trains nor draws."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "run_cells", lambda *_, **__: None)
    for name in ("write_table", "draw"):
        monkeypatch.setattr(api, name, lambda *_, **__: tmp_path / "index.html")


def commands():
    """What the pages, the README and the committed results say that they were made with, each once."""
    said = {
        command
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for command in re.findall(r"saccade reproduce \w[^`\n]*", page.read_text())
    }
    made = {json.loads(path.read_text()).get("command", "") for path in (ROOT / "results").glob("*/*/*.json")}
    return sorted(said | {command for command in made if command.startswith("saccade reproduce ")})


def test_commands_of_tables_and_figures_are_taken(nothing_runs, capsys):
    assert len(commands()) > 100
    refused = [command for command in commands() if cli.main(shlex.split(command, comments=True)[1:])]
    assert not refused, capsys.readouterr().err


def test_readings_of_what_is_open_are_taken(nothing_runs, capsys):
    """Each row of the table in Reproducing is taken by a table of the paper, at least."""
    page = (ROOT / "docs" / "guide" / "reproducing.md").read_text()
    options = re.findall(r"`(--[^`]+)`", page.split("| open | options |")[1].split("## ")[0])
    assert len(options) > 15
    for option in options:
        tried = [
            cli.main(["reproduce", name, "--quiet", *shlex.split(option)]) for name in ("table1", "table2", "table4")
        ]
        assert 0 in tried, f"{option}: {capsys.readouterr().err}"
