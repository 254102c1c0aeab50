import hashlib

import numpy as np
import pytest
import torch

from saccade.data import ImageSet, load, split_by_class
from saccade.data.imageset import place
from saccade.data.memory import free_memory, spill
from saccade.errors import InputError

PICTURES = np.random.RandomState(0).randint(0, 256, (10, 3, 4, 5)).astype(np.uint8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 2])


@pytest.fixture(params=["tensor", "mapped"])
def images(request, tmp_path):
    if request.param == "tensor":
        return place(ImageSet(PICTURES.copy(), LABELS, ["a", "b", "c"], "some"), "cpu")
    PICTURES.tofile(tmp_path / "bytes")
    mapped = np.memmap(tmp_path / "bytes", np.uint8, "r", shape=PICTURES.shape)
    return place(ImageSet(mapped, LABELS, ["a", "b", "c"], "some"), "cpu", limit=PICTURES.nbytes - 1)


def test_a_set_larger_than_the_limit_stays_where_it_is_and_a_smaller_one_becomes_a_tensor(images):
    assert isinstance(place(images, "cpu", limit=PICTURES.nbytes).images, torch.Tensor)
    mapped = ImageSet(PICTURES, None)
    assert place(mapped, "cpu", limit=PICTURES.nbytes - 1).images is PICTURES


def test_batch_take_and_shape(images):
    index = torch.tensor([9, 0, 0, 3])
    assert torch.equal(images.batch(index), torch.from_numpy(PICTURES[[9, 0, 0, 3]]))
    assert (len(images), images.shape, images.class_count) == (10, (3, 4, 5), 3)
    some = images.take(-4, None)
    assert torch.equal(some.batch(torch.arange(4)), torch.from_numpy(PICTURES[-4:]))
    assert some.labels.tolist() == [0, 1, 2, 2]
    assert some.name == "some[-4:]"
    bare = images.without_labels()
    assert (bare.labels, bare.classes, bare.class_count) == (None, None, 0)


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (
            PICTURES / np.float32(255),
            r"mine has pictures of float32 and shape \(10, 3, 4, 5\); it takes uint8, 0 to 255",
        ),
        (PICTURES.astype(np.int64), "pictures of int64"),
        (PICTURES[:, 0], r"of uint8 and shape \(10, 4, 5\); it takes uint8, 0 to 255, of shape \(pictures, channels"),
    ],
)
def test_only_bytes_are_pictures(pictures, says, kind):
    with pytest.raises(InputError, match=says):
        ImageSet(kind(pictures), name="mine")


@pytest.mark.parametrize("labels", [LABELS[1:], LABELS.float(), LABELS[:, None]])
def test_only_one_whole_number_a_picture_is_a_label(labels):
    with pytest.raises(InputError, match="mine has labels of .* for 10 pictures; it takes int64, one a picture"):
        ImageSet(torch.from_numpy(PICTURES), labels, name="mine")
    with pytest.raises(InputError, match=r"pictures of list and shape \(\)"):
        ImageSet([1, 2])


def test_a_set_that_is_too_large_for_the_device_stays_where_it_is():
    assert isinstance(place(ImageSet(torch.from_numpy(PICTURES)), "meta", limit=10).images, np.ndarray)
    assert place(ImageSet(torch.from_numpy(PICTURES)), "meta", limit=10**6).images.device.type == "meta"


def test_fingerprint_is_of_the_content_alone(images, monkeypatch):
    expected = hashlib.sha256(repr((10, 3, 4, 5, True)).encode() + PICTURES.tobytes() + LABELS.numpy().tobytes())
    assert images.fingerprint() == expected.hexdigest()
    monkeypatch.setattr("saccade.data.imageset.CHUNK", 130)  # two pictures at a time
    assert images.fingerprint() == expected.hexdigest()
    others = [images.without_labels(), images.take(0, 9), images.take(1, None), split_by_class(images, [1, 0, 2])]
    assert len({images.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_split_by_class_picks_in_order_and_renumbers(images):
    chosen = split_by_class(images, ["c", 0])
    kept = [0, 2, 3, 5, 6, 8, 9]
    assert torch.equal(chosen.batch(torch.arange(7)), torch.from_numpy(PICTURES[kept]))
    assert chosen.labels.tolist() == [1, 0, 1, 0, 1, 0, 0]
    assert chosen.classes == ["c", "a"]
    assert isinstance(chosen.images, torch.Tensor) == isinstance(images.images, torch.Tensor)


@pytest.mark.parametrize("classes", [["d"], [3], [-1], [0, "a"], [], [1.0]])
def test_split_by_class_refuses(images, classes):
    with pytest.raises(InputError):
        split_by_class(images, classes)
    with pytest.raises(InputError, match="no labels"):
        split_by_class(images.without_labels(), [0])


def test_spill_holds_the_bytes_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = spill([b"abc", memoryview(b"de")], 5, "letters")
    assert array.tobytes() == b"abcde"
    assert not list(tmp_path.iterdir())


def test_spill_refuses_what_the_disk_cannot_hold():
    with pytest.raises(InputError, match="TMPDIR"):
        spill(iter(()), 1 << 60, "everything")


def test_free_memory_is_some_but_not_absurd():
    assert 1 << 20 < free_memory() < 1 << 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_both_kinds_give_batches_there(images):
    moved = place(ImageSet(PICTURES.copy(), LABELS), "cuda")
    kept = place(ImageSet(PICTURES, LABELS), "cuda", limit=0)
    index = torch.tensor([3, 1], device="cuda")
    assert moved.images.is_cuda
    assert moved.labels.is_cuda
    assert kept.labels.is_cuda
    assert torch.equal(moved.batch(index), kept.batch(index.cpu()))
    assert kept.batch(index).is_cuda
    assert moved.fingerprint() == kept.fingerprint() == ImageSet(PICTURES, LABELS).fingerprint()


@pytest.mark.parametrize(
    ("spec", "same"),
    [("[:4]", slice(4)), ("[6:]", slice(6, None)), ("[-3:-1]", slice(-3, -1)), ("[:]", slice(None)), ("", slice(None))],
)
def test_slices_of_a_spec(tmp_path, spec, same):
    np.savez(tmp_path / "my.npz", images=PICTURES.transpose(0, 2, 3, 1), labels=LABELS.numpy())
    images = load(f"{tmp_path}/my.npz{spec}")
    assert torch.equal(images.images, torch.from_numpy(PICTURES[same]))
    assert torch.equal(images.labels, LABELS[same])
    assert images.source == str(tmp_path / "my.npz")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digits[2000:]", "empty"),
        ("digits[5:2]", "empty"),
        ("digits[::2]", "without a step"),
        ("digits[1]", "without a step"),
        ("digits:dev", "train, test"),
        ("digits:", "train, test"),
        ("digit", "digits, cifar10"),
        ("", "digits, cifar10"),
        ("\0", "digits, cifar10"),
        ("\0.npz", "no file"),
        ("x" * 5000 + ".npz", "no file"),
        ("nowhere.npz", "no file"),
        ("nowhere.npz?size=3", "no data"),
        ("digits[" + "9" * 5000 + ":]", "no data"),
    ],
)
def test_specs_that_name_nothing(spec, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words) as error:
        load(spec)
    assert "\n" not in str(error.value)


def test_classes_are_picked_by_a_specification():
    some = load("digits:train?classes=7,3[:50]")
    assert len(some) == 50 and some.classes == ["7", "3"] and some.name == "digits:train?classes=7,3[:50]"
    whole = split_by_class(load("digits:train"), [7, 3])
    assert some.images.equal(whole.images[:50]) and some.labels.equal(whole.labels[:50])
    with pytest.raises(InputError, match="no class"):
        load("digits:train?classes=12")


def test_an_epoch_draws_every_picture_once_in_an_order_of_its_own(images):
    """Of 10 pictures in batches of 3, all but one."""
    orders = [
        tuple(torch.cat([images.drawn(seed, 3 * epoch + step, 3) for step in range(3)]).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert all(len(set(order)) == 9 and set(order) < set(range(10)) for order in orders)
    assert len({*orders, tuple(range(9))}) == 5
