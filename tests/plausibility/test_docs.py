"""What docs/audit.md shows is run: its commands, but for the one that audits all tables, and its Python."""

import doctest
import shlex
from pathlib import Path

import pytest

from saccade.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"
COMMANDS = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    saccade audit")]
OWN = {"my_loss": "hinge", "my_chain": "skipping_network", "MyRule": "CopiedFeedback"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--all" not in command])
def test_commands(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, own in OWN.items():
        command = command.replace(f"mymodule.{name}", f"violators.{own}")
    few = ["--data", "digits:train[:64]", "--views", "digits"]
    assert main([*shlex.split(command)[1:], *few]) == 0
    assert "unsupervised" in capsys.readouterr().out
    assert (tmp_path / "feedback.html").exists() == ("--page" in command)


def test_python():
    assert len(COMMANDS) == 6
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted >= 6
    assert found.failed == 0
