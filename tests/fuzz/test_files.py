"""Pictures, checkpoints and the files of a run, of any bytes: refused in one sentence, set aside, or used."""

import functools
import hashlib
import io
import json
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from fuzzed import fuzzed, mutated, one_sentence, run, texts, values
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load, save

import saccade
from saccade.config.run import TrainConfig
from saccade.errors import InputError
from saccade.training import build, checkpoint, train_step

CONFIG = TrainConfig(
    data="digits:train[:20]",
    views="digits",
    network="conv2 maxpool tanh | conv3 maxpool tanh",
    head="flatten linear4",
    loss="moco(queue=12)",
    epochs=1,
    batch=10,
    precision="float32",
    device="cpu",
)
images = functools.cache(lambda: saccade.load_images(CONFIG.data))


def picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)).save(content, format=kind)
    return content.getvalue()


_PICTURES = st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"]).flatmap(lambda k: mutated(picture(k)))
_NAMES = st.sampled_from(
    ["a.png", "b.jpg", "c/d.png", "c/e.jpeg", "f/g.bmp", "f/h.webp", ".i.png", "notes.txt", "j.PNG"]
)


@fuzzed(
    files=st.dictionaries(_NAMES, _PICTURES | st.just(picture("PNG")) | st.binary(max_size=40), max_size=4),
    size=st.sampled_from(["", "?size=5", "?size=0", "?size=99999999", "[1:]", "?size=7[:2]"]),
)
def test_a_folder_of_pictures(folder, files, size):
    place = folder / "pictures"
    place.mkdir()
    for name, content in files.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content)
    try:
        found = saccade.load_images(f"{place}{size}")
    except InputError as error:
        one_sentence(error)
    else:
        assert found.batch(torch.arange(len(found))).shape == (len(found), *found.shape) and len(found) > 0


@functools.cache
def archive(compressed: bool) -> bytes:
    content = io.BytesIO()
    pictures = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)
    (np.savez_compressed if compressed else np.savez)(content, images=pictures, labels=np.arange(4))
    return content.getvalue()


@st.composite
def made_up(draw: st.DrawFn) -> bytes:
    """An archive whose members claim any type and shape, and hold any bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name in draw(st.lists(st.sampled_from(["images.npy", "labels.npy"]) | texts, min_size=1, max_size=3)):
            side = st.integers(-2, 6) | st.integers(-(10**20), 10**20)
            claims = {
                "descr": draw(st.sampled_from(["|u1", "<i8", "|O", "<f4", "|S3", "nonsense", [["a", "|u1"]]])),
                "fortran_order": draw(st.booleans()),
                "shape": tuple(draw(st.lists(side, max_size=5))),
            }
            head = repr(claims).encode()
            body = b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + draw(st.binary(max_size=100))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of two members of one name
                method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
                made.writestr(name.replace("\0", "") or "x", body, method)  # zipfile cuts at a zero
    return content.getvalue()


@fuzzed(
    content=st.binary(max_size=200) | st.booleans().flatmap(lambda c: mutated(archive(c))) | made_up(),
    limit=st.sampled_from([None, 10]),
    part=st.sampled_from(["", "[1:]", "[-2:]", "[:1]", "[9:]"]),
)
def test_an_npz(folder, content, limit, part):
    """Kept in memory or, above the limit, read from the disk."""
    (folder / "my.npz").write_bytes(content)
    try:
        found = saccade.load_images(f"my.npz{part}", limit=limit)
    except InputError as error:
        one_sentence(error)
    else:
        assert found.batch(torch.arange(len(found))).shape == (len(found), *found.shape) and len(found) > 0
        assert found.labels is None or (found.labels.shape == (len(found),) and found.labels.min() >= 0)


@functools.cache
def saved() -> bytes:
    model = build(CONFIG, images())
    train_step(model, images(), 0)
    folder = Path(__file__).parent
    tensors = checkpoint.portable(checkpoint._state(model) | {"step": torch.tensor(1)})
    assert not list(folder.glob("checkpoint-*"))
    return save(tensors)


_TENSORS = st.builds(
    lambda shape, kind: torch.zeros(shape, dtype=kind),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([torch.float32, torch.int64, torch.bool, torch.uint8, torch.float64]),
)


@st.composite
def forged(draw: st.DrawFn) -> bytes:
    """A whole checkpoint with tensors taken out, put in, or of other shapes."""
    tensors = load(saved())
    tensors["step"] = torch.tensor(1)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(tensors)) | st.sampled_from(["buffer.x", "optimizer.0.0.0.0"]) | texts)
        if draw(st.booleans()):
            tensors.pop(name, None)
        else:
            tensors[name] = draw(_TENSORS)
    return save(tensors)


@fuzzed(content=st.binary(max_size=60) | st.deferred(lambda: mutated(saved())) | forged(), honest=st.booleans())
def test_a_checkpoint(folder, content, honest):
    """Under the hash of its content, or another."""
    digest = hashlib.sha256(content).hexdigest()[:16] if honest else "0" * 16
    (folder / f"checkpoint-000000001-{digest}.safetensors").write_bytes(content)
    model = build(CONFIG, images())
    try:
        step = checkpoint.restore(model, folder)
    except InputError as error:
        one_sentence(error)
    else:
        assert step in (0, 1) and len(list(folder.glob("*.damaged"))) == 1 - step
        train_step(model, images(), step)


@functools.cache
def finished(base: Path) -> Path:
    return saccade.train(CONFIG, out=base / "finished run")


_FACTS = st.dictionaries(
    st.sampled_from(["shape", "picture", "finished", "data", "precision", "earlier"]) | texts, values, max_size=4
)


def _jsonable(facts: dict) -> bytes:
    return json.dumps(facts, default=str).encode()


_FILES = st.sampled_from(["run.json", "metrics.jsonl", "config.yaml", "weights.safetensors", "probes.json"])


@fuzzed(name=_FILES, content=st.data(), command=st.sampled_from(["verify", "page", "probe", "embed", "train"]))
def test_a_file_of_a_run(folder, name, content, command):
    source = finished(folder.parent)
    shutil.copytree(source, folder / "run")
    path = folder / "run" / name
    own = path.read_bytes() if path.exists() else b'{"probes": []}'
    kinds = st.binary(max_size=40) | mutated(own) | _FACTS.map(_jsonable)
    if name == "run.json":
        kinds |= _FACTS.map(lambda facts: _jsonable(json.loads(own) | facts))
    if name == "metrics.jsonl":
        kinds |= st.builds(lambda facts: _jsonable({"step": 1, "site": 0, "loss": 1.0} | facts) + b"\n" + own, _FACTS)
    path.write_bytes(content.draw(kinds))
    digits = ["digits:train[:20]"]
    arguments = {
        "verify": ["run", "--rows", "1"],
        "page": ["run"],
        "probe": ["run", "--train", *digits, "--test", *digits, "--protocol", "knn", "--quiet"],
        "embed": ["run", *digits],
        "train": ["run/config.yaml", "--out", "run", "--quiet"],
    }[command]
    run([command, *arguments])
