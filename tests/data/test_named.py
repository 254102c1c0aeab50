import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from saccade.config.data_names import DATA
from saccade.data import load
from saccade.data.named import enlarge
from saccade.errors import InputError

REAL = os.environ.get("SACCADE_DATA")
real = pytest.mark.skipif(REAL is None, reason="SACCADE_DATA is not set")


def test_digits_are_split_once_and_by_class():
    train, test = load("digits"), load("digits:test")
    assert (len(train), len(test), train.shape) == (1297, 500, (1, 28, 28))
    assert train.name == "digits:train"
    assert train.fingerprint() == load("digits:train").fingerprint()
    shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert (shares - 500 / 1797).abs().max() < 0.01
    both = torch.cat([train.images, test.images])
    digits = load_digits()
    all_of_them = enlarge(digits.images.astype(np.int64))
    count = {picture.tobytes(): label for picture, label in zip(all_of_them, digits.target, strict=True)}
    labels = torch.cat([train.labels, test.labels]).tolist()
    assert [count[picture.numpy().tobytes()] for picture in both] == labels
    assert sorted(p.numpy().tobytes() for p in both) == sorted(p.tobytes() for p in all_of_them)
    assert train.labels[:100].unique().numel() == 10  # shuffled, not by class


def test_the_digits_are_the_same_bits_everywhere():
    assert load("digits").fingerprint() == "77a8e0b3930503c1a9af22d890a265a0b5aa8c29d8c617b00d1bfdaa46ae9888"
    assert load("digits:test").fingerprint() == "d1a4adffda7e1016d5ec164422600150a3f579ebf87ab0c2852d38414392cd25"


def test_enlarged_digits_are_torchs_bilinear_interpolation():
    images = np.random.RandomState(0).randint(0, 17, (20, 8, 8))
    wanted = F.interpolate(torch.from_numpy(images)[:, None].double() * 255 / 16, size=(28, 28), mode="bilinear")
    assert (torch.from_numpy(enlarge(images))[:, None] - wanted).abs().max() <= 0.5 + 1e-9


@pytest.mark.parametrize("name", [name for name in DATA if name != "digits"])
def test_what_is_not_there_is_said_and_not_fetched(tmp_path, name):
    for split in DATA[name].splits:
        with pytest.raises(InputError, match="--download") as error:
            load(f"{name}:{split}", root=tmp_path)
        assert str(tmp_path) in str(error.value)
        with pytest.raises(InputError, match=", ".join(DATA[name].splits)):
            load(f"{name}:dev", root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_torchvisions_files_are_refused_if_altered_and_no_pickle_runs(tmp_path, name):
    from torchvision import datasets

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    dataset = getattr(datasets, name.upper())
    folder = tmp_path / dataset.base_folder
    folder.mkdir()
    for file, _ in [*dataset.train_list, *dataset.test_list]:
        (folder / file).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match="torchvision cannot read"):
        load(name, root=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_unpacked_copies_are_used_and_named(tmp_path, monkeypatch):
    images = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3).astype(np.uint8)
    np.savez(tmp_path / "cifar10-test.npz", images=images, labels=np.array([9, 0]))
    np.savez(tmp_path / "cifar10-train.npz", images=images, labels=np.array([10, 0]))
    monkeypatch.setenv("SACCADE_DATA", str(tmp_path))
    test = load("cifar10:test")
    assert torch.equal(test.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert test.source == str(tmp_path / "cifar10-test.npz")
    assert (test.classes[9], test.class_count) == ("truck", 10)
    with pytest.raises(InputError, match="label 10"):
        load("cifar10:train")


def test_cifar_through_torchvision(tmp_path, monkeypatch):
    from torchvision import datasets

    rows = np.random.RandomState(0).randint(0, 256, (2, 3 * 32 * 32)).astype(np.uint8)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "test").write_bytes(pickle.dumps({"data": rows, "fine_labels": [1, 0]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "baby"]}))
    monkeypatch.setattr(datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    images = load("cifar100:test", root=tmp_path)
    assert torch.equal(images.images, torch.from_numpy(rows).reshape(2, 3, 32, 32))
    assert images.labels.tolist() == [1, 0]
    assert images.classes == ["apple", "baby"]
    assert images.source.startswith("torchvision")


@pytest.mark.parametrize("limit", [None, 10])
def test_stl10_through_torchvision_is_mapped_where_large(tmp_path, monkeypatch, limit):
    from torchvision import datasets

    columns = np.random.RandomState(0).randint(0, 256, (3, 3, 96, 96)).astype(np.uint8)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split in ("train", "test", "unlabeled"):
        columns.tofile(folder / f"{split}_X.bin")
        np.array([1, 10, 2], np.uint8).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    train = load("stl10", root=tmp_path, limit=limit)
    unlabeled = load("stl10:unlabeled[1:]", root=tmp_path, limit=limit)
    reference = datasets.STL10(tmp_path, "train")
    assert torch.equal(train.batch(torch.arange(3)), torch.from_numpy(np.array(reference.data)))
    assert train.labels.tolist() == reference.labels.tolist() == [0, 9, 1]
    assert train.classes == list("abcdefghij")
    assert unlabeled.labels is None
    assert torch.equal(unlabeled.batch(torch.arange(2)), torch.from_numpy(columns[1:]).transpose(2, 3))
    assert isinstance(unlabeled.images, np.ndarray) == (limit is not None)


def _idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize("name", ["mnist", "emnist-letters"])
def test_mnist_files_agree_with_torchvisions_reading(tmp_path, name):
    from torchvision import datasets

    pictures = np.random.RandomState(0).randint(0, 256, (3, 28, 28)).astype(np.uint8)
    labels = np.array([1, 9, 2], np.uint8)
    letters = name == "emnist-letters"
    folder = tmp_path / ("EMNIST" if letters else "MNIST") / "raw"
    folder.mkdir(parents=True)
    for stem in ["emnist-letters-train", "emnist-letters-test"] if letters else ["train", "t10k"]:
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(_idx(pictures))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(_idx(labels))
    images = load(f"{name}:test", root=tmp_path)
    if letters:
        reference = datasets.EMNIST(tmp_path, "letters", train=False)
        assert torch.equal(images.images[:, 0], reference.data.transpose(1, 2))  # upright
        assert torch.equal(images.labels + 1, reference.targets)
        assert images.classes[8] == "i"
    else:
        reference = datasets.MNIST(tmp_path, train=False)
        assert torch.equal(images.images[:, 0], reference.data)
        assert torch.equal(images.labels, reference.targets)

    images_file, labels_file = sorted(folder.glob("*t*k-*" if not letters else "*test*"))
    good = images_file.read_bytes()
    for bad in (good[:-1], good + b"\0", good[:10], b"", _idx(pictures, kind=9), b"\0\0\x08\3" + b"\xff" * 12):
        images_file.write_bytes(bad)
        with pytest.raises(InputError, match="images-idx3"):
            load(f"{name}:test", root=tmp_path)
    images_file.write_bytes(_idx(pictures[:2]))
    with pytest.raises(InputError, match="2 pictures"):
        load(f"{name}:test", root=tmp_path)
    images_file.write_bytes(good)
    labels_file.write_bytes(_idx(np.array([0, 30, 0] if letters else [1, 10, 0], np.uint8)))
    with pytest.raises(InputError, match="label"):
        load(f"{name}:test", root=tmp_path)


@pytest.mark.parametrize(("spec", "dataset"), [("mnist", "MNIST"), ("stl10:test", "STL10"), ("cifar10", "CIFAR10")])
def test_download_is_passed_on_and_its_failure_is_one_sentence(tmp_path, monkeypatch, spec, dataset):
    asked = []

    def fails(self):
        asked.append(self.root)
        raise OSError("no network\nat all")

    monkeypatch.setattr(f"torchvision.datasets.{dataset}.download", fails)
    with pytest.raises(InputError, match="no network at all"):
        load(spec, root=tmp_path, download=True)
    assert [Path(root) for root in asked] == [tmp_path]


def test_torchvision_is_not_imported_until_it_is_needed():
    code = "import sys, saccade.data as d; d.load('digits[:9]'); assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_need_no_torch():
    code = "import sys, saccade.config.data_names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@real
def test_real_cifar():
    train = load("cifar100", root=REAL)
    assert (len(train), train.shape) == (50000, (3, 32, 32))
    assert train.labels.bincount().tolist() == [500] * 100
    means = train.images.double().mean((0, 2, 3)) / 255
    assert (means - torch.tensor([0.5071, 0.4866, 0.4409])).abs().max() < 1e-4  # published for CIFAR-100
    held_out = load("cifar10:train[45000:]", root=REAL)
    assert (len(held_out), held_out.class_count) == (5000, 10)


@real
def test_real_mnist():
    train, test = load("mnist", root=REAL), load("mnist:test", root=REAL)
    assert (len(train), len(test)) == (60000, 10000)
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(train.images.double().mean() / 255 - 0.1307) < 1e-4
