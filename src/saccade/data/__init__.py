"""Where pictures come from: a named set, an `.npz`, a folder, or shards; all become an `ImageSet`.

>>> digits = load("digits:train[:100]")
>>> len(digits), digits.shape, digits.name
(100, (1, 28, 28), 'digits:train[:100]')
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import torch

from ..config.data_names import DATA
from ..errors import InputError
from .folder import read_folder
from .imageset import ImageSet, place, split_by_class
from .memory import free_memory
from .named import read_named, split_of
from .npz import read_npz
from .shards import open_shards, write_index, write_shards

__all__ = ["ImageSet", "load", "split_by_class", "write_index", "write_shards"]

_SLICE = re.compile(r"(?s)(.*)\[(-?[0-9]{1,18})?:(-?[0-9]{1,18})?\]")
_SIZE = re.compile(r"(?s)(.*)\?size=([0-9]{1,9})")
_CLASSES = re.compile(r"(?s)(.*)\?classes=([^?]+)")


def load(
    spec: str | os.PathLike[str],
    *,
    root: Path | str | None = None,
    download: bool = False,
    device: torch.device | str = "cpu",
    limit: int | None = None,
) -> ImageSet:
    """The pictures that `spec` names.

    `spec` is `NAME` or `NAME:SPLIT` (`saccade list` shows the names; the split is `train` unless said), a path to an
    `.npz`, or a path to a folder, which may be followed by `?size=64` to scale and crop its pictures. `?classes=3,5`
    after any of them picks classes, by name or number, as `split_by_class` does. A slice in square brackets at the end
    picks some by position: `cifar10:train[:45000]`, `my.npz[45000:]`, `my.npz[-100:]`; a folder's pictures come class by
    class, in the order of its subfolders' names. A name goes before a folder that is called the same; write `./digits`
    for the folder. `shards:` and a folder of tar files or a pattern, such as `shards:/set/*.tar` or
    `shards:https://host/set/{000..099}.tar`, is read in a stream, without
    labels; `open_shards` has its options.

    `root` is the folder of the named sets (default: the environment's SACCADE_DATA, or ./data); they are downloaded
    there only if `download`. `limit` is the most bytes of pictures to keep in memory (default: half of what is free);
    a larger set stays on disk and is read in pieces.

    Raises InputError where there is no such data, it cannot be used, the slice is empty, or there is no such device.
    """
    if not isinstance(spec, str | os.PathLike):
        raise InputError(f"The data is a {type(spec).__name__}; it takes what names images, or a path.")
    spec = os.path.expanduser(os.fspath(spec))
    text, start, stop = spec, None, None
    if match := _SLICE.fullmatch(spec):
        text, start, stop = match[1], *(None if bound is None else int(bound) for bound in match.group(2, 3))
    root = Path(root if root is not None else os.environ.get("SACCADE_DATA") or "data").expanduser()
    chosen = _CLASSES.fullmatch(text)
    images = _read(chosen[1] if chosen else text, root, download, free_memory() // 2 if limit is None else limit)
    if chosen:
        names = images.classes or []  # a name goes before a number: a folder 1 need not be class 1
        wanted = [int(one) if one.isdecimal() and one not in names else one for one in chosen[2].split(",")]
        images = split_by_class(images, wanted)
        images = replace(images, name=text)
    if match:
        images = images.take(start, stop)
    return place(images, device, limit)


def _read(text: str, root: Path, download: bool, limit: int) -> ImageSet:
    name, colon, split = text.partition(":")
    sized = _SIZE.fullmatch(text)
    path = Path(sized[1] if sized else text)
    labels, classes = None, None
    if name in DATA:
        part = split_of(name, split if colon else None)
        pictures, labels, classes, source = read_named(name, part, root, download, limit)
        text = f"{name}:{part}"
    elif name == "shards":
        return ImageSet(open_shards(split), name=text, source=split)
    elif os.path.isdir(sized[1] if sized else text):  # not of `path`, which would be "." for an empty text
        pictures, labels, classes = read_folder(path, limit, int(sized[2]) if sized else None)
        source = str(path)
    elif path.suffix.lower() == ".npz" and not sized:
        pictures, labels = read_npz(path, limit)
        source = str(path)
    else:
        raise InputError(
            f"There is no data {text!r}; it takes a name ({', '.join(DATA)}), with :SPLIT or not, an .npz, "
            "a folder (perhaps with ?size=64) or shards:PATTERN, and after it perhaps ?classes=0,1 and a slice without a step, "
            "like [:1000]."
        )
    if labels is not None and classes is not None and labels.max() >= len(classes):
        raise InputError(f"{source} has a label {labels.max()}, but {name} has {len(classes)} classes, counted from 0.")
    numbers = None if labels is None else torch.from_numpy(labels)
    return ImageSet(pictures, numbers, classes, text, source)
