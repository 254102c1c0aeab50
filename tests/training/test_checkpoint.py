"""Checkpoints: whole, hashed, two of them; damaged ones set aside; all that a next step depends on is in them."""

import hashlib
import os
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save
from torch.testing import assert_close

import saccade
from saccade.errors import InputError
from saccade.training import build, checkpoint, loop, train_step


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def images():
    return saccade.load_images("digits:train[:60]")


@pytest.fixture
def longer(tiny):
    """Six steps, a checkpoint after each."""
    return replace(tiny, epochs=2, checkpoint_seconds=1e-9)


@pytest.fixture
def left(longer, images, tmp_path, monkeypatch):
    """A run left after its fourth step."""
    with monkeypatch.context() as patch:

        def cut(model, images, step, watch, real=loop.train_step):
            if step == 4:
                raise Interrupted
            real(model, images, step, watch)

        patch.setattr(loop, "train_step", cut)
        with pytest.raises(Interrupted):
            saccade.train(longer, out=tmp_path / "run", images=images)
    return tmp_path / "run"


@pytest.fixture
def whole(longer, images, tmp_path):
    return saccade.train(longer, out=tmp_path / "whole", images=images)


def same(a, b):
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in ("weights.safetensors", "metrics.jsonl"))


def test_the_last_two_are_kept_with_their_hashes_in_their_names(left):
    newest, before = checkpoint.found(left)
    for path, step in ((newest, 4), (before, 3)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        assert path.name == f"checkpoint-{step:09d}-{digest}.safetensors"
    assert {p.name for p in left.iterdir()} == {
        newest.name,
        before.name,
        ".lock",
        "config.yaml",
        "run.json",
        "metrics.jsonl",
    }


def torn(path):
    path.write_bytes(path.read_bytes()[:-5])


def altered(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def renamed(path):
    path.rename(path.with_name(path.name.replace("0000000", "0000001")))


@pytest.mark.parametrize("damage", [torn, altered, renamed, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_is_named_and_set_aside_and_the_one_before_used(left, longer, images, whole, capsys, damage):
    damage(checkpoint.found(left)[0])
    name = checkpoint.found(left)[0].name
    again = saccade.train(longer, out=left, images=images)
    assert f"{name} is damaged" in capsys.readouterr().err
    assert (left / f"{name}.damaged").exists()
    assert same(again, whole)
    assert '"resumed_at": 3' in (again / "run.json").read_text()


def test_with_all_damaged_the_run_starts_anew_and_says_so(left, longer, images, whole, capsys):
    for path in checkpoint.found(left):
        torn(path)
    assert same(saccade.train(longer, out=left, images=images), whole)
    said = capsys.readouterr().err
    assert said.count("is damaged") == 2 and "the run starts at its beginning" in said


def test_what_a_dying_process_was_writing_is_cleared(left, longer, images, whole):
    for name in ("checkpoint-000000005-0.safetensors", "weights.safetensors", "run.json"):
        (left / f".{name}.other-machine.1.99.part").write_bytes(b"half")
    with (left / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    page = left / f".page.html.another.1.{os.getpid()}.part"  # which a process that lives is writing
    page.touch()
    assert same(saccade.train(longer, out=left, images=images), whole)
    assert list(left.glob(".*.part")) == [page]


def forge(left, change):
    """A checkpoint whose hash is right and whose content is someone else's."""
    path = checkpoint.found(left)[0]
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    content = save(tensors)
    path.with_name(f"checkpoint-000000004-{hashlib.sha256(content).hexdigest()[:16]}.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("model.0.layers.0.linear.weight"),
        lambda t: t.update({"model.0.layers.0.linear.weight": torch.zeros(3)}),
        lambda t: t.update({"optimizer.0.weights.0.exp_avg": torch.zeros(3)}),
        lambda t: t.update({"optimizer.9.weights.0.exp_avg": torch.zeros(3)}),
        lambda t: t.update({"optimizer.x": torch.zeros(3)}),
        lambda t: t.pop("optimizer.0.weights.0.step"),
        lambda t: t.pop("optimizer.0.weights.0.exp_avg"),
        lambda t: t.update({"optimizer.0.weights.0.step": torch.zeros(3)}),
        lambda t: t.update({"buffer.nowhere.at.all": torch.zeros(3)}),
        lambda t: t.pop("sums"),
    ],
)
def test_a_whole_one_of_another_configuration_is_refused(left, longer, images, change):
    forge(left, change)
    with pytest.raises(InputError, match="does not fit this configuration"):
        saccade.train(longer, out=left, images=images)


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickle_runs_no_code(left, longer, images, tmp_path, tiny):
    """Under the name of a checkpoint, with its right hash, of the weights, or of the images."""
    mark, content = tmp_path / "it ran", pickle.dumps(Hostile(tmp_path / "it ran"))
    torch.save({"x": Hostile(mark)}, tmp_path / "zipped")
    for hostile in (content, (tmp_path / "zipped").read_bytes()):
        for path in checkpoint.found(left):
            path.unlink()
        digest = hashlib.sha256(hostile).hexdigest()[:16]
        (left / f"checkpoint-000000009-{digest}.safetensors").write_bytes(hostile)
        saccade.train(longer, out=left, images=images)  # set aside
        (left / "weights.safetensors").write_bytes(hostile)
        with pytest.raises(InputError, match="weights.safetensors cannot be read"):
            saccade.load_encoder(left)
        (left / "run.json").unlink()
        (tmp_path / "images.npz").write_bytes(hostile)
        with pytest.raises(InputError, match="images.npz"):
            saccade.load_images(str(tmp_path / "images.npz"))
    assert not mark.exists()


@pytest.mark.parametrize("optimizer", ["adam(weight_decay=0.1)", "sgd(momentum=0.9)", "sgd"])
@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "kolen-pollack", "schedule": "rll"},
        {"rule": "weight-mirrors", "schedule": "simultaneous"},
        {"rule": "dtp(steps=2)", "loss": "moco(queue=30, momentum=0.5)"},
        {"loss": "byol(hidden=6, momentum=0.5)"},
        {"loss": "own.Remembering"},
        {"network": "own.Tied", "rule": "urf"},
    ],
    ids=str,
)
def test_a_restored_model_steps_as_the_one_that_was_saved(tiny, images, tmp_path, changes, optimizer):
    """Every tensor of one that went on is that of one which was made anew and loaded; nothing is left behind."""
    if (changes.get("rule") == "kolen-pollack") != ("decay" in optimizer):
        return
    config = replace(tiny, optimizer=optimizer, rate=1e-5, **changes)
    going, anew = build(config, images), build(config, images)
    for step in range(3):
        train_step(going, images, step)
    checkpoint.save(going, 3, tmp_path)
    torch.rand(5)
    assert checkpoint.restore(anew, tmp_path) == 3
    for model in (going, anew):
        train_step(model, images, 3)
    a, b = (checkpoint._state(model) for model in (going, anew))
    assert a.keys() == b.keys()
    for name in a:
        assert_close(a[name], b[name], atol=0, rtol=0)
        assert a[name].stride() == b[name].stride() or 1 in a[name].shape, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_checkpoint_of_a_gpu_is_loaded_on_a_processor(tiny, images, tmp_path):
    there, here = (build(replace(tiny, device=d, optimizer="adam"), images) for d in ("cuda", "cpu"))
    train_step(there, saccade.data.imageset.place(images, "cuda"), 0)
    checkpoint.save(there, 1, tmp_path)
    assert checkpoint.restore(here, tmp_path) == 1
    train_step(here, images, 1)
    assert {t.device.type for t in checkpoint._state(here).values()} == {"cpu"}


def giant_header(path):
    """A header of as many bytes as its own first eight claim: an exabyte, or all there is."""
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{" + b" " * 100)


def deep_header(path):
    head = b'{"a":' * 10_000
    path.write_bytes(len(head).to_bytes(8, "little") + head)


@pytest.mark.parametrize("damage", [giant_header, deep_header])
def test_a_header_that_claims_too_much_is_refused(left, longer, images, damage):
    damage(left / "weights.safetensors")
    with pytest.raises(InputError, match="weights.safetensors cannot be read"):
        saccade.load_encoder(left)
    path = left / "checkpoint-000000009-0.safetensors"
    damage(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.rename(left / f"checkpoint-000000009-{digest}.safetensors")
    saccade.train(longer, out=left, images=images)  # its hash is right, and it is set aside
    assert (left / f"checkpoint-000000009-{digest}.safetensors.damaged").exists()


def test_a_checkpoint_that_memory_has_no_room_for_is_named_and_kept(left, longer, images):
    path = left / f"checkpoint-000000009-{'0' * 16}.safetensors"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match=r"cannot be read \(it has 1,099,511,627,776 bytes"):
        saccade.train(longer, out=left, images=images)
    assert path.exists()
