"""Doctests, the README's too, run in a folder of their own."""

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(request, tmp_path, monkeypatch):
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
