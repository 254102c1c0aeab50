"""Pictures in shards: an order that is a pure function, reading in a stream, and refusals in one sentence."""

import http.server
import io
import json
import threading
from functools import partial

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from saccade import draws
from saccade.cli import main
from saccade.data import load, shards, write_shards
from saccade.errors import InputError, RunError


@pytest.fixture(scope="module")
def images():
    return load("digits:train[:100]")


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    return write_shards(images, tmp_path_factory.mktemp("shards") / "set", 30)


def tar(path, pictures):
    with webdataset.TarWriter(str(path)) as writer:
        for name, content in pictures.items():
            key, _, kind = name.rpartition(".")
            writer.write({"__key__": key, kind: content})
    return path


def png(*size, mode="RGB", level=1):
    content = io.BytesIO()
    Image.new(mode, size or (8, 8), level).save(content, "png")
    return content.getvalue()


# ---------------------------------------------------------------------------------------------- what is written is read


@pytest.mark.parametrize(
    "options", ["", "/*.tar", "/{000000..000003}.tar", "?buffer=1", "?files=1?buffer=50", "/*.tar?files=3"]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_any_index_gives_the_pictures_that_were_written(images, folder, options, threads):
    found = load(f"shards:{folder}{options}")
    assert (len(found), found.shape, found.labels) == (100, (1, 28, 28), None)
    torch.set_num_threads(threads)
    try:
        for index in (torch.arange(100), torch.tensor([99, 0, 99, 31, 30, 29]), torch.randint(100, (200,))):
            assert torch.equal(found.batch(index), images.batch(index))
    finally:
        torch.set_num_threads(1)


def test_a_slice_is_held_in_memory(images, folder):
    some = load(f"shards:{folder}[25:-60]")
    assert isinstance(some.images, torch.Tensor) and torch.equal(some.images, images.images[25:40])


def test_shards_are_the_same_bytes_each_time_and_their_index_is_what_counting_finds(images, folder, tmp_path):
    again = write_shards(images, tmp_path / "again", 30)
    assert [p.read_bytes() for p in sorted(again.iterdir())] == [p.read_bytes() for p in sorted(folder.iterdir())]
    index = (again / "index.json").read_text()
    prints = [load(f"shards:{again}").fingerprint(), load(f"shards:{again}?buffer=7").fingerprint()]
    (again / "index.json").unlink()
    assert len(load(f"shards:{again}")) == 100  # counted
    assert main(["shards", str(again)]) == 0 and (again / "index.json").read_text() == index
    assert prints == [load(f"shards:{folder}").fingerprint()] * 2


def test_pictures_are_scaled_and_colours_are_kept(tmp_path):
    tar(tmp_path / "a.tar", {"0.jpg": png(9, 6), "1.png": png(20, 30), "1.json": b"{}", "2.txt": b"no picture"})
    tar(tmp_path / "b.tgz", {"2.input.png": png(5, 5, mode="L")})
    found = load(f"shards:{tmp_path}?size=4")
    assert found.shape == (3, 4, 4) and len(found) == 3 and int(found.batch(torch.arange(3)).min()) == 0


def test_shards_are_read_from_a_web_server(images, folder):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for where in (address, f"{address}/{{000000..000003}}.tar"):
            index = torch.arange(99, -1, -7)
            assert torch.equal(load(f"shards:{where}").batch(index), images.batch(index))
        server.shutdown()
    with pytest.raises(InputError, match="cannot be read"):
        load(f"shards:{address}")


# ------------------------------------------------------------------------------------------------------------ the order


class Counted(shards.Shards):
    def __init__(self, counts, buffer, files):
        self.counts = np.array(counts)
        self.ends = self.counts.cumsum()
        self.shape = (sum(counts), 1, 1, 1)
        self.buffer, self.files = buffer, min(files, len(counts))


def obvious(counts, seed, epoch, batch, buffer, files) -> list[list[int]]:
    """All batches of an epoch, from the whole line of pictures."""
    starts = [sum(counts[:k]) for k in range(len(counts))]
    order = torch.randperm(len(counts), generator=draws.generator(seed, "shards", epoch)).tolist()
    line = [starts[shard] + k for shard in order for k in range(counts[shard])]
    files, steps, span = min(files, len(counts)), len(line) // batch, max(1, buffer // batch)
    batches: list[list[int]] = [[] for _ in range(steps)]
    for part in range(files):
        share = (part + 1) * batch // files - part * batch // files
        own, line = line[: share * steps], line[share * steps :]
        for block in range(0, steps, span):
            some, own = own[: share * span], own[share * span :]
            generator = draws.generator(seed, "block", epoch, block // span, part)
            some = [some[k] for k in torch.randperm(len(some), generator=generator).tolist()]
            for step in range(block, min(block + span, steps)):
                batches[step] += some[:share]
                some = some[share:]
    return batches


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    batch=st.integers(1, 12),
    buffer=st.integers(1, 60),
    files=st.integers(1, 8),
    seed=st.integers(0, 3),
)
def test_the_order_is_that_of_the_line_cut_and_shuffled(counts, batch, buffer, files, seed):
    found, steps = Counted(counts, buffer, files), sum(counts) // batch
    for epoch in range(2 if steps else 0):
        drawn = [found.drawn(seed, epoch * steps + step, batch).tolist() for step in range(steps)]
        assert drawn == obvious(counts, seed, epoch, batch, buffer, files)
        assert len({k for one in drawn for k in one}) == steps * batch  # none twice in an epoch


def test_orders_differ_by_seed_and_epoch():
    found = Counted([30, 30, 30], 45, 3)
    drawn = [tuple(found.drawn(seed, step, 45).tolist()) for seed in (0, 1) for step in (0, 2)]
    assert len(set(drawn)) == 4


def test_an_epoch_reads_each_file_about_once_and_keeps_little(monkeypatch, tmp_path, images):
    folder = write_shards(images, tmp_path / "set", 25)
    monkeypatch.setattr(shards, "RUN", 4)
    opened, real = [], shards._pictures
    monkeypatch.setattr(shards, "_pictures", lambda url: opened.append(url) or real(url))
    found = load(f"shards:{folder}?buffer=20?files=2")
    del opened[:]
    for step in range(20):
        found.batch(found.drawn(0, step, 5))
        assert sum(map(len, found.images._kept.values())) <= 20 + 2 * 4 * 2
    assert len(opened) <= 4 + 1  # the cut between the two parts lies in a file


def test_what_is_expected_is_read_once_and_what_is_not_is_right(images, folder, monkeypatch):
    found = load(f"shards:{folder}")
    reads, real = [], shards.Shards._read
    monkeypatch.setattr(shards.Shards, "_read", lambda self, index: reads.append(len(index)) or real(self, index))
    found.expect(torch.arange(7))
    assert torch.equal(found.batch(torch.arange(7)), images.batch(torch.arange(7))) and reads == [7]
    found.expect(torch.arange(5))
    assert torch.equal(found.batch(torch.arange(90, 99)), images.batch(torch.arange(90, 99))) and reads == [7, 5, 9]


# ------------------------------------------------------------------------------------------------------------- refusals


def cut(path):
    path.write_bytes(path.read_bytes()[:-20000])


def scribble(path):
    content = bytearray(path.read_bytes())
    content[20480:22528] = b"x" * 2048
    path.write_bytes(content)


def damaged(path):
    tar(path, {f"{k:02d}.png": png(60, 60) + bytes(900) for k in range(40)})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda p: None, "There is no shard"),
        (lambda p: p.write_bytes(b"no tar file" * 200), "cannot be read"),
        (lambda p: p.write_bytes(b""), "(cannot be read|has no pictures in it)"),
        (lambda p: tar(p, {"0.txt": b"no picture"}), "has no pictures in it"),
        (lambda p: (damaged(p), cut(p)), "(cannot be read|is damaged)"),
        (lambda p: (damaged(p), scribble(p)), "(cannot be read|is damaged)"),
        (lambda p: tar(p, {"shot.1.png": png(), "shot.2.png": png()}), "2 pictures of the name shot"),
        (lambda p: tar(p, {"shot.png": png(), "shot.1.png": png()}), "2 pictures of the name shot"),
        (lambda p: tar(p, {"shot.a.png": png(), "shot.b.png": png()}), "2 pictures of the name shot"),
        (lambda p: tar(p, {"0.png": b"no picture"}), "0.png of .* cannot be decoded as a picture"),
    ],
)
def test_a_shard_that_is_missing_empty_or_damaged_is_refused(tmp_path, made, said):
    made(tmp_path / "0.tar")
    with pytest.raises(InputError, match=said) as caught:
        load(f"shards:{tmp_path / '0.tar'}")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_picture_with_others_beside_it_is_the_one_without_a_word(tmp_path):
    tar(
        tmp_path / "0.tar",
        {"7.seg-2.png": png(level=9), "7.png": png(level=1), "8.png": png(level=2), "9.seg.png": png(level=3)},
    )
    found = load(f"shards:{tmp_path / '0.tar'}")
    assert [int(one.max()) for one in found.batch(torch.arange(3))] == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "nowhere", "nowhere/*.tar", "nowhere/{0..1}", "pipe:touch x", "0.npz"])
def test_where_there_are_no_shards_it_says_what_it_takes(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="There are no shards .* it takes a folder of tar files, or a pattern"):
        load(f"shards:{text}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?size=0", "The size 0"),
        ("?buffer=0", "The buffer is 0"),
        ("?files=0", "the files 0"),
        ("?classes=1", "no labels"),
    ],
)
def test_options_out_of_range_are_refused(folder, options, said):
    with pytest.raises(InputError, match=said):
        load(f"shards:{folder}{options}")


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        "{}",
        '{"shardlist": [1]}',
        '{"shardlist": [{"url": 1, "nsamples": 1}]}',
        '{"shardlist": [{"url": "a"}]}',
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, index):
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(InputError, match="index.json is no index of shards"):
        load(f"shards:{tmp_path}")


def test_a_shard_that_is_not_what_its_index_says_is_refused(tmp_path):
    path = tar(tmp_path / "0.tar", {"0.png": png(), "1.png": png()})
    entry = {"url": "0.tar", "nsamples": 3}
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": [entry]}))
    with pytest.raises(RunError, match=r"0.tar ends before its 3 pictures do"):
        load(f"shards:{tmp_path}").batch(torch.arange(3))
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": [entry | {"filesize": 1}]}))
    with pytest.raises(InputError, match=f"{path} has .* bytes and its index says 1"):
        load(f"shards:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no picture", "40.png of .* cannot be decoded"),
        (png(9, 8, mode="L"), "40.png of .* is 9x8 pixels where the first is 8x8; write .size=N"),
        (png(), "40.png of .* has colours where the first pictures have none"),
    ],
)
def test_a_picture_that_does_not_fit_ends_the_run_and_names_itself(tmp_path, content, said):
    tar(tmp_path / "0.tar", {f"{k}.png": png(mode="L") for k in range(40)} | {"40.png": content})
    found = load(f"shards:{tmp_path}")
    found.batch(torch.arange(40))
    with pytest.raises(RunError, match=said):
        found.batch(torch.tensor([40]))
    found.expect(torch.tensor([40]))
    with pytest.raises(RunError, match=said):
        found.batch(torch.tensor([40]))


def test_without_the_packages_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "webdataset.tariterators", None)
    with pytest.raises(
        InputError, match=r"Shards need the package webdataset; it takes pip install 'saccade\[stream\]'"
    ):
        load(f"shards:{folder}")


def test_the_command_writes_shards_and_refuses_what_is_there(tmp_path, capsys):
    out = tmp_path / "set"
    assert main(["shards", "digits:train[:50]", str(out), "--per", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 50
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "000000.tar",
        "000001.tar",
        "000002.tar",
        "index.json",
        "set",
    ]
    assert main(["shards", "digits", str(out)]) == 2 and "it takes a new folder" in capsys.readouterr().err
    assert main(["shards", "digits", str(tmp_path / "b"), "--per", "0"]) == 2
    assert main(["shards", str(tmp_path)]) == 2 and "holds no shards" in capsys.readouterr().err


def test_brackets_in_a_folders_name_are_no_pattern(images, tmp_path):
    out = write_shards(images.take(0, 20), tmp_path / "x[1]", 10)
    assert len(load(f"shards:{out}")) == 20
    (out / "index.json").unlink()
    assert len(load(f"shards:{out}")) == 20
