"""Files are whole or as they were."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from saccade.errors import InputError, RunError
from saccade.files import write_whole


@pytest.mark.parametrize("error", [28, 13])
def test_a_file_that_cannot_be_written_is_named_and_leaves_the_one_before(tmp_path, monkeypatch, error):
    path = tmp_path / "file"
    write_whole(path, b"before")

    def fail(number):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fail)
    kind = RunError if error == 28 else InputError  # a full disk is nobody's input
    with pytest.raises(kind, match=f"file could not be written to .*: {os.strerror(error)}"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_writers_of_one_file_leave_it_whole(tmp_path):
    path, contents = tmp_path / "result.json", [bytes([k]) * 100_000 for k in range(4)]
    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(lambda content: [write_whole(path, content) for _ in range(20)], contents))
    assert path.read_bytes() in contents and list(tmp_path.iterdir()) == [path]
