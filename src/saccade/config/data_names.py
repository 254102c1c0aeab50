"""The data sets that have names: what `saccade list` prints and what an error about an unknown name lists."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataName:
    """One line about a named set, and its splits, of which the first is the default."""

    line: str
    splits: tuple[str, ...] = ("train", "test")


DATA = {
    "digits": DataName("scikit-learn's 1,797 handwritten digits, enlarged to 1x28x28; nothing to download"),
    "cifar10": DataName("CIFAR-10: 50,000 + 10,000 colour pictures of 10 kinds of thing, 3x32x32"),
    "cifar100": DataName("CIFAR-100: 50,000 + 10,000 colour pictures of 100 kinds of thing, 3x32x32"),
    "stl10": DataName(
        "STL-10: 5,000 + 8,000 colour pictures of 10 kinds of thing and 100,000 unlabeled, 3x96x96",
        ("train", "test", "unlabeled"),
    ),
    "mnist": DataName("MNIST: 60,000 + 10,000 handwritten digits, 1x28x28"),
    "emnist-letters": DataName("EMNIST letters: 124,800 + 20,800 handwritten letters, upright, labels from 0, 1x28x28"),
}
