import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from saccade.data import load
from saccade.data.folder import read_folder
from saccade.errors import InputError

GENEROUS = 1 << 30
PIXELS = np.random.RandomState(0).randint(0, 256, (6, 4, 5, 3)).astype(np.uint8)


def _save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.mark.parametrize("limit", [GENEROUS, 10])
def test_a_subfolder_for_each_class(tmp_path, limit):
    for number, name in enumerate(["dog/2.png", "cat/b.PNG", "dog/1.bmp", "cat/a.png"]):
        _save(tmp_path / name, PIXELS[number])
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / ".hidden").mkdir()
    images = load(str(tmp_path), limit=limit)
    assert isinstance(images.images, torch.Tensor) == (limit == GENEROUS)
    assert torch.equal(images.batch(torch.arange(4)), torch.from_numpy(PIXELS[[3, 1, 2, 0]]).permute(0, 3, 1, 2))
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.classes == ["cat", "dog"]


def test_a_class_folders_name_goes_before_a_position(tmp_path):
    for number in (1, 2, 3):
        _save(tmp_path / f"{number}/a.png", PIXELS[number])
    for chosen, number in (("1", 1), ("0", 1), ("3", 3)):
        images = load(f"{tmp_path}?classes={chosen}")
        assert images.classes == [str(number)]
        assert torch.equal(images.images[0], torch.from_numpy(PIXELS[number]).permute(2, 0, 1))


def test_a_flat_folder_has_no_labels(tmp_path):
    for number in range(3):
        _save(tmp_path / f"{number}.png", PIXELS[number])
    images = load(f"{tmp_path}[1:]")
    assert torch.equal(images.images, torch.from_numpy(PIXELS[1:3]).permute(0, 3, 1, 2))
    assert (images.labels, images.classes) == (None, None)


def test_grey_pictures_keep_one_channel_unless_one_has_colour(tmp_path):
    for number in range(2):
        _save(tmp_path / f"{number}.png", PIXELS[number, :, :, 0])
    Image.fromarray(PIXELS[2, :, :, 0] > 127).save(tmp_path / "2.png")
    images, _, _ = read_folder(tmp_path, GENEROUS)
    assert np.array_equal(images[:2, 0], PIXELS[:2, :, :, 0])
    assert np.array_equal(images[2, 0], (PIXELS[2, :, :, 0] > 127) * np.uint8(255))
    _save(tmp_path / "3.png", PIXELS[3])
    images, _, _ = read_folder(tmp_path, GENEROUS)
    assert np.array_equal(images[0], np.stack([PIXELS[0, :, :, 0]] * 3))


def test_size_crops_the_centre_and_scales_it(tmp_path):
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = PIXELS[0, :4, :4].repeat(2, 0).repeat(2, 1)
    _save(tmp_path / "a.png", wide)
    _save(tmp_path / "b.png", PIXELS[1, :4, :4])
    _save(tmp_path / "c.png", wide.transpose(1, 0, 2))
    images = load(f"{tmp_path}?size=4[:]")
    cropped = Image.fromarray(wide[:, 6:14]).resize((4, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(images.images[0].permute(1, 2, 0), np.asarray(cropped))
    assert torch.equal(images.images[1], torch.from_numpy(PIXELS[1, :4, :4]).permute(2, 0, 1))
    cropped = Image.fromarray(wide[:, 6:14].transpose(1, 0, 2)).resize((4, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(images.images[2].permute(1, 2, 0), np.asarray(cropped))


def test_the_first_odd_size_is_named(tmp_path):
    for number, rows in enumerate([4, 4, 3, 2]):
        _save(tmp_path / f"{number}.png", PIXELS[number, :rows])
    with pytest.raises(InputError, match=r"2\.png is 5x3 .*\?size=N"):
        load(str(tmp_path))


@pytest.mark.parametrize("size", [0, 100_000_000])
def test_an_absurd_size_is_refused(tmp_path, size):
    _save(tmp_path / "a.png", PIXELS[0])
    with pytest.raises(InputError, match="size"):
        load(f"{tmp_path}?size={size}")


def test_arrangements_that_are_neither_are_refused(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        load(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no pictures"):
        load(str(tmp_path))
    _save(tmp_path / "a.png", PIXELS[0])
    with pytest.raises(InputError, match="pictures and subfolders"):
        load(str(tmp_path))


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width, height):
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (9_000, 10), (2**31 - 1, 1), (0, 5)])
@pytest.mark.parametrize("option", ["", "?size=8"])
def test_huge_or_empty_pictures_are_refused_before_decoding(tmp_path, width, height, option, monkeypatch):
    (tmp_path / "huge.png").write_bytes(_png(width, height))
    monkeypatch.setattr("saccade.data.folder.decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"huge\.png"):
        load(f"{tmp_path}{option}")


def test_sixteen_bits_are_refused_and_not_clipped(tmp_path):
    _save(tmp_path / "deep.png", (PIXELS[0, :, :, 0].astype(np.uint16) * 257))
    with pytest.raises(InputError, match="8 bits"):
        load(str(tmp_path))


@pytest.mark.parametrize("limit", [GENEROUS, 10])
def test_a_torn_picture_is_named(tmp_path, limit):
    for number in range(2):
        _save(tmp_path / f"{number}.png", np.tile(PIXELS[number], (10, 10, 1)))
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"1\.png cannot be decoded"):
        read_folder(tmp_path, limit)


def test_a_format_that_would_start_another_program_is_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\n%%EOF\n")
    with pytest.raises(InputError, match=r"a\.png cannot be decoded"):
        load(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_passed_over_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.npz")
    for spec in (tmp_path, tmp_path / "a.npz"):
        with pytest.raises(InputError):
            load(str(spec))


def _encoded(kind):
    stream = io.BytesIO()
    Image.fromarray(np.tile(PIXELS[0], (3, 3, 1))).save(stream, kind)
    return stream.getvalue()


ENCODED = [_encoded(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=200), st.sampled_from(ENCODED)),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8),
    st.integers(1, 3000),
    st.booleans(),
)
def test_altered_pictures_raise_nothing_but_input_error(tmp_path, content, edits, length, sized):
    content = bytearray(content or b"\0")
    for place, byte in edits:
        content[place % len(content)] = byte
    (tmp_path / "a.png").write_bytes(content[:length])
    try:
        images, _, _ = read_folder(tmp_path, 10_000, 3 if sized else None)
    except InputError:
        return
    assert images.dtype == np.uint8
    assert images.shape[0] == 1
    assert images.shape[1] in (1, 3)
