"""The planted bugs still fit the source, and some of them are run; `python tests/planted_bugs.py` runs all."""

import pytest

from planted_bugs import BUGS, SOURCE, caught


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_can_be_planted(bug):
    for file, old, new in bug.patches:
        assert (SOURCE / file).read_text().count(old) == 1, (file, old)
        assert old != new


@pytest.mark.slow
@pytest.mark.parametrize("bug", [BUGS[0], BUGS[10], BUGS[25]], ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug):
    assert caught(bug)
