import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.data import load
from saccade.data.npz import read_npz
from saccade.errors import InputError

GENEROUS = 1 << 30
GREY = np.random.RandomState(1).randint(0, 256, (6, 4, 5)).astype(np.uint8)
COLOUR = np.random.RandomState(2).randint(0, 256, (6, 4, 5, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("limit", [GENEROUS, 10])
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (np.ascontiguousarray(COLOUR.transpose(0, 3, 1, 2)), COLOUR.transpose(0, 3, 1, 2)),
        (np.asfortranarray(COLOUR), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR[:, :3, :, :], COLOUR[:, :3].transpose(0, 3, 1, 2)),  # ambiguous: the last axis goes first
    ],
)
def test_every_layout_in_memory_and_mapped(tmp_path, save, limit, stored, expected):
    path = tmp_path / "my.npz"
    save(path, other=np.arange(3), images=stored, labels=LABELS.astype(">u2"))
    images, labels = read_npz(path, limit)
    assert np.array_equal(images, expected)
    assert np.array_equal(labels, LABELS)
    assert labels.dtype == np.int64
    mapped = load(str(path), limit=limit)
    assert isinstance(mapped.images, torch.Tensor) == (limit == GENEROUS)
    assert torch.equal(mapped.batch(torch.arange(6)), torch.from_numpy(expected.copy()))


def test_labels_are_optional_and_the_set_can_be_written_to_in_memory(tmp_path):
    np.savez(tmp_path / "my.npz", images=GREY)
    images = load(f"{tmp_path}/my.npz")
    assert images.labels is None
    images.images.zero_()  # a private copy: the file stays
    assert np.array_equal(np.load(tmp_path / "my.npz")["images"], GREY)


REFUSED = {
    "names": ({"pictures": GREY}, "holds pictures"),
    "float": ({"images": GREY / 255}, "float64"),
    "int": ({"images": GREY.astype(int)}, "int64"),
    "two axes": ({"images": GREY[0]}, r"\(4, 5\)"),
    "five axes": ({"images": GREY[None, None]}, "uint8"),
    "two channels": ({"images": COLOUR[..., :2]}, "channels"),
    "no pictures": ({"images": GREY[:0]}, "no pictures"),
    "no pixels": ({"images": GREY[:, :0]}, "uint8"),
    "too few labels": ({"images": GREY, "labels": LABELS[:5]}, "shape"),
    "labels of two axes": ({"images": GREY, "labels": LABELS[:, None]}, "shape"),
    "float labels": ({"images": GREY, "labels": LABELS.astype(float)}, "integers"),
    "bool labels": ({"images": GREY, "labels": LABELS > 0}, "integers"),
    "words as labels": ({"images": GREY, "labels": LABELS.astype(str)}, "integers"),
    "negative label": ({"images": GREY, "labels": LABELS - 1}, "-1"),
    "huge label": ({"images": GREY, "labels": LABELS.astype(np.uint64) + 2**63}, "between 0"),
    "objects as labels": ({"images": GREY, "labels": LABELS.astype(object)}, "objects"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(tmp_path, case):
    arrays, words = REFUSED[case]
    np.savez(tmp_path / "my.npz", **arrays)
    with pytest.raises(InputError, match=words) as error:
        read_npz(tmp_path / "my.npz", GENEROUS)
    assert "my.npz" in str(error.value)
    assert "\n" not in str(error.value)


class Hostile:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("key", ["images", "labels", "extra"])
def test_a_pickle_never_runs(tmp_path, key):
    trace = tmp_path / "ran"
    pickle.loads(pickle.dumps(Hostile(trace))).close()
    assert trace.exists()  # the pickle does what this test is afraid of
    trace.unlink()
    arrays = {"images": GREY, "labels": LABELS, key: np.array([Hostile(trace)] * 6)}
    np.savez(tmp_path / "my.npz", **arrays)
    if key == "extra":
        assert len(read_npz(tmp_path / "my.npz", GENEROUS)[0]) == 6
    else:
        with pytest.raises(InputError, match="objects"):
            read_npz(tmp_path / "my.npz", GENEROUS)
    assert not trace.exists()


def _header(shape, descr="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _write(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("images.npy", content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "shape", [(10**15, 1, 1), (10**9, 10**9, 10**9, 3), (-1, 4, 5), (True, 4, 5), (2, 4, 5), (10**400, 1, 1), (), (20,)]
)
def test_a_header_is_not_believed(tmp_path, shape, method):
    with pytest.raises(InputError):
        read_npz(_write(tmp_path / "my.npz", _header(shape) + bytes(19), method), GENEROUS)


@pytest.mark.parametrize("version", [b"\1\0" + struct.pack("<H", 60000), b"\2\0" + struct.pack("<I", 1 << 31), b"\7\7"])
def test_a_long_or_unknown_header_is_refused(tmp_path, version):
    with pytest.raises(InputError):
        read_npz(_write(tmp_path / "my.npz", b"\x93NUMPY" + version + b"(" * 60000), GENEROUS)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_whose_directory_claims_a_petabyte_is_refused(tmp_path, method):
    shape = (10**15, 1, 1)
    path = _write(tmp_path / "my.npz", _header(shape) + bytes(100), method)
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02")
    # The central directory's sizes as zip64: 0xFFFFFFFF there, the number in an extra field after the name.
    fields = bytearray(content[at : at + 46])
    extra = struct.pack("<HHQ", 1, 8, 10**15 + len(_header(shape)))
    fields[24:28] = b"\xff" * 4
    fields[30:32] = struct.pack("<H", len(extra))
    directory = bytes(fields) + b"images.npy" + extra
    path.write_bytes(content[:at] + directory + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(directory), at, 0))
    assert zipfile.ZipFile(path).getinfo("images.npy").file_size > 10**15
    with pytest.raises(InputError, match="more than the file can hold"):
        read_npz(path, GENEROUS)


def test_a_bomb_larger_than_the_disk_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = _write(tmp_path / "my.npz", _header((1000, 100, 100)) + bytes(10**7), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**6}))
    with pytest.raises(InputError, match="TMPDIR"):
        read_npz(path, limit=10**6)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("limit", [GENEROUS, 10])
def test_one_altered_byte_is_noticed(tmp_path, save, limit):
    path = tmp_path / "my.npz"
    save(path, images=COLOUR)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"CRC|decompressing"):
        read_npz(path, limit)


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", GREY)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    _write(tmp_path / "lzma.npz", _header((1, 4, 5)) + bytes(20), zipfile.ZIP_LZMA)
    for name in ("array", "text", "empty", "lzma", "missing"):
        with pytest.raises(InputError, match=f"{name}.npz"):
            load(f"{tmp_path}/{name}.npz")


def test_a_members_name_keeps_to_the_line(tmp_path):
    """Found by the fuzz: it may hold line breaks and a terminal's commands, and be long."""
    with zipfile.ZipFile(tmp_path / "named.npz", "w") as archive:
        archive.writestr("a\n\x1b[2J" + "b" * 60_000 + ".npy", b"")
    with pytest.raises(InputError, match=r"holds a\\n\\x1b\[2Jb+; an .npz has") as refused:
        load(f"{tmp_path}/named.npz")
    assert len(str(refused.value)) < 500


def _saved(save):
    stream = io.BytesIO()
    save(stream, images=COLOUR, labels=LABELS)
    return stream.getvalue()


ARCHIVES = [_saved(np.savez), _saved(np.savez_compressed)]


def _only_input_error(content, folder):
    path = folder / "fuzz.npz"
    path.write_bytes(content)
    for limit in (GENEROUS, 10):
        try:
            images, labels = read_npz(path, limit)
        except InputError:
            continue
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.shape[1] in (1, 3)
        assert labels is None or (len(labels) == len(images) and labels.min() >= 0)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(ARCHIVES),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    st.integers(0, 4000),
)
def test_altered_archives_raise_nothing_but_input_error(tmp_path, archive, edits, length):
    content = bytearray(archive)
    for place, byte in edits:
        content[place % len(content)] = byte
    _only_input_error(bytes(content[: max(length, len(content) // 2)]), tmp_path)


_OPTIONAL = st.sampled_from(["|u1", "<i8", "|O", "<f4", "|S3", "nonsense", [["a", "|u1"]]])
_SIDES = st.one_of(st.integers(-2, 6), st.integers(-(10**20), 10**20))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda descr, shape, body: (
                b"\x93NUMPY\1\0"
                + struct.pack(
                    "<H", len(text := repr({"descr": descr, "fortran_order": False, "shape": shape}).encode())
                )
                + text
                + body
            ),
            _OPTIONAL,
            st.lists(_SIDES, max_size=5).map(tuple),
            st.binary(max_size=100),
        ),
    ),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_hostile_members_raise_nothing_but_input_error(tmp_path, member, method):
    _only_input_error(_write(tmp_path / "made.npz", member, method).read_bytes(), tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_input_error(tmp_path, content):
    _only_input_error(content, tmp_path)
