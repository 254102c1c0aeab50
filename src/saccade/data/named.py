"""The data sets that have names: scikit-learn's digits, and those that torchvision knows how to download."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..config.data_names import DATA
from ..errors import InputError, NotHere
from .npz import checked_labels, read_npz

Raw = tuple[np.ndarray, np.ndarray | None, list[str] | None, str]  # pictures, labels, class names, source

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def read_named(name: str, split: str, root: Path, download: bool, limit: int) -> Raw:
    """Pictures, uint8 (n, channels, height, width), labels, class names and where they were found.

    Looks in `root` for torchvision's files, then for `<name>-<split>.npz`, then downloads if told to. A set in
    torchvision's files is believed as far as torchvision checks it: CIFAR's are pickles, but none is opened unless
    it is, by its MD5 sum, the published one.

    Raises InputError where the files are missing or damaged.
    """
    if name == "digits":
        return _digits(split)
    npz = root / f"{name}-{split}.npz"
    found = (root / _FOLDERS[name]).is_dir()
    if not found and npz.is_file():
        return *read_npz(npz, limit), CIFAR10_CLASSES if name == "cifar10" else None, str(npz)
    if not found and not download:
        raise NotHere(
            f"{name} is not in the folder {root} (neither {_FOLDERS[name]} nor {npz.name}); "
            "train, margins, reproduce and shards fetch it with --download; or set SACCADE_DATA to the folder that has it."
        )
    return _READERS[name](name, split, root, download)


def _digits(split: str) -> Raw:
    """scikit-learn's digits, enlarged and split, the same bits on every machine: all of it is integer arithmetic.

    The order is numpy's frozen `RandomState(0)`. Sorted by class, every 1797/500th digit is for the test, so each
    class gives its share.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    by_class = order[np.argsort(digits.target[order], kind="stable")]
    share = np.arange(len(order) + 1) * 500 // len(order)
    test = np.isin(order, by_class[share[1:] > share[:-1]])
    chosen = order[test if split == "test" else ~test]
    images = enlarge(digits.images[chosen].astype(np.int64))
    return images[:, None], digits.target[chosen].astype(np.int64), list("0123456789"), "scikit-learn's load_digits"


def enlarge(images: np.ndarray) -> np.ndarray:
    """Digits of 0 to 16, int64 (n, 8, 8), by bilinear interpolation as uint8 0 to 255 (n, 28, 28).

    Pixel i lies at (i + 1/2) 8/28 - 1/2 = (4 i - 5)/14 of the original, so its weights are fourteenths.
    """
    place = np.clip(4 * np.arange(28) - 5, 0, 7 * 14)
    weights = np.maximum(14 - abs(place[:, None] - 14 * np.arange(8)), 0)  # (28, 8), each row sums to 14
    sums = weights @ images @ weights.T  # 14 * 14 * 16 is white
    return ((sums * 255 + 1568) // 3136).astype(np.uint8)


def _torchvision(dataset: str, name: str, root: Path, download: bool, **options: Any) -> Any:
    import torchvision

    try:
        return getattr(torchvision.datasets, dataset)(root, download=download, **options)
    except Exception as error:  # a missing or altered file, no network, a full disk: all come as different kinds
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"torchvision cannot read {name} in the folder {root} ({reason}); add --download to fetch it anew."
        ) from None


def _cifar(name: str, split: str, root: Path, download: bool) -> Raw:
    dataset = _torchvision(name.upper(), name, root, download, train=split == "train")
    images, labels = dataset.data.transpose(0, 3, 1, 2), np.array(dataset.targets, np.int64)
    return images, labels, list(dataset.classes), f"torchvision, {root / _FOLDERS[name]}"


def _stl10(name: str, split: str, root: Path, download: bool) -> Raw:
    # torchvision checks all files' sums whichever split it reads; the pictures are then mapped, not loaded.
    dataset = _torchvision("STL10", name, root, download, split="test")
    folder = root / _FOLDERS[name]
    pictures = np.memmap(folder / f"{split}_X.bin", np.uint8, "r").reshape(-1, 3, 96, 96)
    labels = None
    if split != "unlabeled":
        labels = np.fromfile(folder / f"{split}_y.bin", np.uint8).astype(np.int64) - 1
    classes = None if labels is None else list(dataset.classes)
    return pictures.transpose(0, 1, 3, 2), labels, classes, f"torchvision, {folder}"  # stored column by column


def _mnist(name: str, split: str, root: Path, download: bool) -> Raw:
    """MNIST and EMNIST letters. Their files are read here, because torchvision would prefer a pickle beside them."""
    folder = root / _FOLDERS[name]
    letters = name == "emnist-letters"
    stem = f"emnist-letters-{split}" if letters else {"train": "train", "test": "t10k"}[split]
    files = [folder / f"{stem}-images-idx3-ubyte", folder / f"{stem}-labels-idx1-ubyte"]
    if download and not all(map(os.path.isfile, files)):
        options = {"split": "letters"} if letters else {}
        _torchvision("EMNIST" if letters else "MNIST", name, root, True, train=split == "train", **options)
    images, labels = (read_idx(file, axes) for file, axes in zip(files, (3, 1), strict=True))
    if len(images) != len(labels):
        raise InputError(f"{files[0]} has {len(images):,} pictures and {files[1]} {len(labels):,} labels.")
    if letters:  # stored on their side, labels from 1
        images, labels = images.transpose(0, 2, 1), labels.astype(np.int64) - 1
    classes = list("abcdefghijklmnopqrstuvwxyz" if letters else "0123456789")
    return images[:, None], checked_labels(labels, f"The labels in {files[1]}"), classes, str(files[0])


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array of an IDX file (yann.lecun.com/exdb/mnist): 0, 0, 8, axes, big-endian sides, bytes; mapped.

    Raises InputError where the file is missing or is not that.
    """
    start = 4 + 4 * axes
    try:
        with open(path, "rb") as file:
            head = file.read(start)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); add --download to fetch it.") from None
    sides = [int.from_bytes(head[at : at + 4], "big") for at in range(4, start, 4)]
    if (
        len(head) < start
        or head[:4] != bytes([0, 0, 8, axes])
        or 0 in sides
        or start + np.prod(sides, dtype=object) != size
    ):
        raise InputError(f"{path} is no whole IDX file of {axes}-dimensional bytes; delete it and add --download.")
    return np.memmap(path, np.uint8, "r", start, tuple(sides))


_FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "stl10": "stl10_binary",
    "mnist": "MNIST/raw",
    "emnist-letters": "EMNIST/raw",
}
_READERS: dict[str, Callable[[str, str, Path, bool], Raw]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "stl10": _stl10,
    "mnist": _mnist,
    "emnist-letters": _mnist,
}


def split_of(name: str, split: str | None) -> str:
    """The split asked for, or the set's first. Raises InputError where it has no such split."""
    splits = DATA[name].splits
    if split is not None and split not in splits:
        raise InputError(f"{name} has no split {split!r}; it has {', '.join(splits)}.")
    return split or splits[0]
