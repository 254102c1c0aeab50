"""A set of pictures: uint8 on the device, or on disk and read in pieces where it is too large for that, or in shards."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..errors import InputError
from .memory import CHUNK, free_memory, pick_device, spill
from .shards import Shards


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pictures with or without labels; `load` makes one, and it is never changed. Raises InputError for others than these.

    `images`: uint8 (pictures, channels, height, width), a tensor on `device`, or a numpy array (mapped from a file)
    where the set is larger than half of the free memory, or shards that are read in a stream; `batch` gives tensors in
    all cases.
    `labels`: int64 (pictures,) on `device`, from 0, or None. `classes`: their names, where they are known.
    `name`: what was asked for. `source`: where it was found.
    """

    images: Tensor | np.ndarray | Shards
    labels: Tensor | None = None
    classes: list[str] | None = None
    name: str = "images"
    source: str = "memory"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if not isinstance(self.images, Shards):  # which decode to what is taken here
            kind = getattr(self.images, "dtype", type(self.images).__name__)
            shape = tuple(getattr(self.images, "shape", ()))
            if kind not in (torch.uint8, np.uint8) or len(shape) != 4:
                raise InputError(
                    f"{self.name} has pictures of {str(kind).removeprefix('torch.')} and shape {shape}; it takes uint8, 0 to 255, "
                    "of shape (pictures, channels, height, width)."
                )
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != (len(self),)):
            raise InputError(
                f"{self.name} has labels of {str(self.labels.dtype).removeprefix('torch.')} and shape {tuple(self.labels.shape)} for "
                f"{len(self)} pictures; it takes int64, one a picture."
            )

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every picture."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def class_count(self) -> int:
        """The number of classes: of names where they are known, else one more than the largest label; 0 unlabeled."""
        if self.labels is None:
            return 0
        return len(self.classes) if self.classes is not None else int(self.labels.max()) + 1

    def batch(self, index: Tensor) -> Tensor:
        """The pictures at `index` (int64, (batch,)): uint8 (batch, channels, height, width) on the device."""
        if isinstance(self.images, Tensor):
            return self.images[index.to(self.images.device)]
        return torch.from_numpy(np.ascontiguousarray(self.images[index.cpu().numpy()])).to(self.device)

    def drawn(self, seed: int, step: int, batch: int) -> Tensor:
        """Which pictures a step learns from, int64 (batch,): each epoch has an order of its own, drawn from the seed; its
        rest makes no batch.

        It lies where the pictures do, so that no step within an epoch waits for a copy between host and device.
        """
        if isinstance(self.images, Shards):
            return self.images.drawn(seed, step, batch)
        epoch, place = divmod(step, len(self) // batch)
        device = self.images.device if isinstance(self.images, Tensor) else torch.device("cpu")
        return _order(seed, epoch, len(self), device)[place * batch : (place + 1) * batch]

    @property
    def streamed(self) -> bool:
        """Whether pictures are read in a stream, so that it helps to `expect` some."""
        return isinstance(self.images, Shards)

    def expect(self, index: Tensor) -> None:
        """Begin to read the pictures that `batch` will be asked for next, where they are read in a stream."""
        if isinstance(self.images, Shards):
            self.images.expect(index.numpy())

    def take(self, start: int | None, stop: int | None) -> "ImageSet":
        """The pictures from `start` up to `stop`, as a Python slice counts. Raises InputError where there are none."""
        first, last, _ = slice(start, stop).indices(len(self))
        return self._picked(slice(first, last), f"{self.name}[{_shown(start)}:{_shown(stop)}]")

    def without_labels(self) -> "ImageSet":
        """The same pictures, their labels forgotten."""
        return replace(self, labels=None, classes=None)

    def to(self, device: torch.device) -> "ImageSet":
        """The same set for work on the device (see `place`); a set that is there already is given back as it is."""
        return self if self.device == device else place(self, device)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the shape, the pictures' bytes and the labels: the same wherever they are kept.

        Of shards, which are not read for it, of what lists them: names, counts, sizes and sums.
        """
        if isinstance(self.images, Shards):
            return self.images.fingerprint()
        digest = hashlib.sha256(repr((len(self), *self.shape, self.labels is not None)).encode())
        for piece in self._pieces():
            digest.update(piece)
        if self.labels is not None:
            digest.update(self.labels.cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def _pieces(self, index: np.ndarray | None = None) -> Iterator[bytes]:
        """The pictures' bytes in order (those at `index`), some at a time."""
        index = np.arange(len(self)) if index is None else index
        step = max(1, CHUNK // int(np.prod(self.shape)))
        for start in range(0, len(index), step):
            yield self.batch(torch.from_numpy(index[start : start + step])).cpu().numpy().tobytes()

    def _picked(self, which: slice, name: str) -> "ImageSet":
        if which.start >= which.stop:
            raise InputError(f"{name} is empty: {self.name} has {len(self):,} pictures, counted from 0.")
        return replace(
            self, images=self.images[which], labels=None if self.labels is None else self.labels[which], name=name
        )


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, count: int, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=draws.generator(seed, "order", epoch)).to(device)


def _shown(bound: int | None) -> str:
    return "" if bound is None else str(bound)


def place(images: ImageSet, device: torch.device | str, limit: int | None = None) -> ImageSet:
    """The set with its pictures on the device, if they take no more than `limit` bytes (default: half of its free
    memory); labels always go there. Raises InputError for a device that cannot be used here."""
    device = pick_device(str(device))
    limit = free_memory(device) // 2 if limit is None else limit
    pictures = images.images
    if isinstance(pictures, np.ndarray) and pictures.nbytes <= limit:
        pictures = torch.from_numpy(np.require(pictures, requirements=["C", "W"]))  # copies what a file is mapped to
    if isinstance(pictures, Tensor):
        there = pictures.device.type == device.type and device.index in (None, pictures.device.index)
        fits = there or pictures.nbytes <= limit
        pictures = pictures.to(device) if fits else pictures.cpu().numpy()
    return replace(
        images, images=pictures, labels=None if images.labels is None else images.labels.to(device), device=device
    )


def split_by_class(images: ImageSet, classes: Sequence[int | str]) -> ImageSet:
    """The pictures of some classes, in their order; labels become positions in `classes` (numbers or names).

    >>> some = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 2, 1, 2]), ["a", "b", "c"])
    >>> chosen = split_by_class(some, ["c", 0])
    >>> chosen.labels.tolist(), chosen.classes
    ([1, 0, 0], ['c', 'a'])

    Raises InputError where the set has no labels, a class is unknown or named twice, or no picture is left.
    """
    if images.labels is None:
        raise InputError(f"{images.name} has no labels, so classes cannot be picked from it.")
    names = images.classes or [str(number) for number in range(images.class_count)]
    wanted = [names.index(c) if isinstance(c, str) and c in names else c for c in classes]
    for number in wanted:
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise InputError(f"{images.name} has no class {number!r}; its classes are {', '.join(names)}.")
    if len(set(wanted)) != len(wanted):
        raise InputError(f"The classes {', '.join(map(str, classes))} of {images.name} name one class twice.")
    labels = torch.full((len(names),), -1, dtype=torch.int64, device=images.labels.device)
    labels[torch.tensor(wanted, dtype=torch.int64, device=labels.device)] = torch.arange(
        len(wanted), device=labels.device
    )
    labels = labels[images.labels]
    index = (labels >= 0).nonzero()[:, 0]
    if len(index) == 0:
        raise InputError(f"{images.name} has no picture of the classes {', '.join(map(str, classes))}.")
    if isinstance(images.images, Tensor):
        pictures: Tensor | np.ndarray = images.images[index.to(images.images.device)]
    else:
        shape = (len(index), *images.shape)
        size = int(np.prod(shape, dtype=np.int64))
        pictures = spill(images._pieces(index.cpu().numpy()), size, images.name).reshape(shape)
    chosen = [names[int(number)] for number in wanted]
    return replace(images, images=pictures, labels=labels[index], classes=chosen, name=f"{images.name} of {chosen}")
