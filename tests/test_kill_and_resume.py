"""A few kills of the fifty that `python tests/kill_and_resume.py --kills 50` makes."""

import pytest

import kill_and_resume


@pytest.mark.slow
def test_what_is_killed_ends_as_what_was_not(capsys):
    assert kill_and_resume.main(["--kills", "6", "--seed", "1"]) == 0
    assert capsys.readouterr().out.endswith("6/6 exact\n")
