"""The code of the documentation's pages and the examples run, and print what the pages say."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import run_blocks

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
