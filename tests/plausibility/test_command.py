"""The command `saccade audit`."""

import json

import pytest

from saccade.cli import main


def test_audit(capsys, tmp_path):
    stack = ["--network", "conv32 tanh | conv40 tanh maxpool", "--views", "digits", "--data", "digits:train[:64]"]
    page = tmp_path / "audit.html"
    assert main(["audit", *stack, "--rule", "rf", "--format", "markdown", "--page", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "| (iii) no symmetric connections | rule | met |" in shown
    assert "no symmetric connections" in page.read_text()
    assert main(["audit", *stack, "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdicts"]["asymmetric"] == "violated"
    assert {"command", "date", "hardware"} <= set(shown)
    assert main(["audit", *stack, "--format", "pdf"]) == 2
    assert "terminal, markdown, json" in capsys.readouterr().err


def test_a_recipe_is_the_first_word_or_an_option(capsys):
    small = ["--network", "conv32 tanh maxpool", "--schedule", "e2e", "--format", "json"]
    said = []
    for recipe in (["digits"], ["--config", "digits"]):
        assert main(["audit", *recipe, *small]) == 0
        said.append(json.loads(capsys.readouterr().out)["configuration"])
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--all", "true", "--rule", "rf"], "no option of a run"),
        (["digits", "--all", "true"], "no recipe"),
        (["digits", "--results", "elsewhere"], "goes with --all"),
        (["digits", "--steps", "0"], "steps is 0"),
    ],
)
def test_what_goes_together(options, said, capsys):
    assert main(["audit", *options]) == 2
    assert said in capsys.readouterr().err
