"""Pictures in shards: tar files that are read in a stream, for sets that neither memory nor disk has room for.

A shard is a tar file of pictures, read by WebDataset (github.com/webdataset/webdataset) from wherever fsspec reaches: a
disk, a web server, a bucket. An `index.json` beside the shards, in the form that WebDataset's `wids` has, says how many
pictures each holds; where there is none they are counted first, by reading all shards once.

The order of an epoch is a pure function of the seed. The shards are put into an order and laid end to end; the line is
cut into as many parts as files are read at once, and each part gives its share of every batch, so that processes that
share out a batch read different files. Within a part, pictures are shuffled a block at a time, a block being what the
buffer holds. So the step is the whole position: a run that is continued opens the files at the block that it was in.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import lru_cache
from glob import escape, glob
from importlib import import_module
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..errors import InputError, RunError
from ..files import write_whole
from .folder import SUFFIXES, check_size, decoded, head
from .memory import CHUNK, free_memory

if TYPE_CHECKING:
    from .imageset import ImageSet

INDEX = "index.json"
RUN = 32  # pictures of a shard that are kept, and given up, together
_TARS = (".tar", ".tar.gz", ".tgz")
_OPTION = re.compile(r"(?s)(.*)\?(size|buffer|files)=([0-9]{1,9})")
_BESIDE = re.compile(r"[A-Za-z_][\w-]*\.\w+")  # of 7.seg.png, a picture that goes with 7.jpg


Task = TypeVar("Task")
Result = TypeVar("Result")
Picture = tuple[str, bytes]  # name, and what its file holds
Run = list[Picture]
Place = tuple[int, int]  # a shard, and a run's number in it


class Shard(NamedTuple):
    """Where it is, how many pictures it holds, and its bytes and MD5 sum where they are known."""

    url: str
    pictures: int
    size: int | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


class Shards:
    """Pictures in shards as an array: uint8 (pictures, channels, height, width), of which an index reads some.

    Kept in memory are at most `buffer` pictures and a few, as they are in the files, compressed. Pictures are decoded by
    as many threads as torch has. With `size` the largest central square of each is scaled to `size` pixels a side.

    Raises InputError where the first pictures cannot be read; afterwards RunError for those that cannot be.
    """

    def __init__(self, shards: list[Shard], size: int | None = None, buffer: int = 4096, files: int = 8):
        check_size(size, shards[0].url)
        if buffer < 1 or files < 1:
            raise InputError(f"The buffer is {buffer} and the files {files} of {shards[0].url}; both take at least 1.")
        self.shards, self.size, self.buffer = shards, size, buffer
        self.files = min(files, len(shards))
        self.counts = np.array([shard.pictures for shard in shards])
        self.ends = self.counts.cumsum()
        with closing(_pictures(shards[0].url)) as pictures:
            heads = [head(BytesIO(content), name) for name, content in islice(pictures, RUN)]
        width, height = heads[0][0] if size is None else (size, size)
        self.shape = (int(self.ends[-1]), 1 if all(grey for _, grey in heads) else 3, height, width)
        self._kept: dict[Place, Run] = {}  # the least recently used first
        self._used: Counter[Place] = Counter()  # how many of a run's pictures have been asked for
        self._open: dict[int, tuple[int, Run, Iterator[Picture]]] = {}  # of open files, the last run and what follows
        self._expected: tuple[np.ndarray, Future[np.ndarray]] | None = None

    def drawn(self, seed: int, step: int, batch: int) -> Tensor:
        """The pictures of a step, int64 (batch,): each part's share of them, part by part."""
        steps = len(self) // batch  # of an epoch
        epoch, step = divmod(step, steps)
        span = max(1, self.buffer // batch)  # steps of a block
        block, step = divmod(step, span)
        bounds = [part * batch // self.files for part in range(self.files + 1)]
        found = []
        for part, (start, stop) in enumerate(pairwise(bounds)):
            share = stop - start
            first = steps * start + block * span * share  # the block's, in the line of all pictures
            order = _shuffled(seed, epoch, block, part, min(span, steps - block * span) * share)
            found.append(first + order[step * share : (step + 1) * share])
        place = torch.cat(found).numpy()
        shards, ends = _line(seed, epoch, self)
        at = np.searchsorted(ends, place, side="right")
        return torch.from_numpy(place - ends[at] + self.ends[shards[at]])

    def expect(self, index: np.ndarray) -> None:
        """Begin to read pictures that will be asked for next."""
        if self._expected is None:
            self._expected = index, _threads("ahead", 1).submit(self._read, index)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: np.ndarray | slice) -> np.ndarray:
        index = which
        if isinstance(which, slice):
            index = np.arange(*which.indices(len(self)))
            if (size := len(index) * math.prod(self.shape[1:])) > free_memory() // 2:
                raise InputError(f"{len(index):,} pictures of shards take {size:,} bytes; it takes a smaller slice.")
        assert isinstance(index, np.ndarray)
        expected, self._expected = self._expected, None
        if expected is not None:
            wait([expected[1]])  # it reads from the same files
        try:
            if expected is not None and np.array_equal(expected[0], index):
                return expected[1].result()
            return self._read(index)
        except InputError as error:  # of a set that was sound when the run began
            raise RunError(str(error)) from None

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the shards' names, counts, sizes and sums, and of the pictures' shape; no picture is read."""
        known = [(shard.name, *shard[1:]) for shard in self.shards]
        return hashlib.sha256(repr((known, self.shape)).encode()).hexdigest()

    def _read(self, index: np.ndarray) -> np.ndarray:
        order = np.argsort(index, kind="stable")  # as the pictures lie in the files
        shards = np.searchsorted(self.ends, index[order], side="right")
        runs, places = np.divmod(index[order] - self.ends[shards] + self.counts[shards], RUN)
        keys = list(zip(shards.tolist(), runs.tolist(), strict=True))
        have = self._runs(dict.fromkeys(keys))
        channels, height, width = self.shape[1:]
        out = np.empty((len(index), channels, height, width), np.uint8)

        def decode(rows: range) -> None:
            for row in rows:
                name, content = have[keys[row]][places[row]]
                picture = decoded(BytesIO(content), name, channels, self.size, (height, width))
                out[order[row]] = picture.transpose(2, 0, 1)

        count = torch.get_num_threads()
        parts = [range(part * len(keys) // count, (part + 1) * len(keys) // count) for part in range(count)]
        _side_by_side("decoder", decode, parts)
        self._used.update(keys)
        for key in dict.fromkeys(keys):
            if self._used[key] >= len(have[key]):  # an epoch asks for each picture once
                del self._kept[key], self._used[key]
        return out

    def _runs(self, wanted: Iterable[Place]) -> dict[Place, Run]:
        """Runs of pictures by place, in the order of the files: those that are kept, and others read from several files
        at once. All are kept until they are used up; what was used least recently makes room first."""
        missing: dict[int, list[int]] = {}
        have = {}
        for place in wanted:
            if place in self._kept:
                have[place] = self._kept.pop(place)
            else:
                missing.setdefault(place[0], []).append(place[1])
        here = self._kept | have
        for shard, numbers in missing.items():
            missing[shard] = [n for n in self._near(shard, numbers) if (shard, n) not in here]
        size = sum(map(len, here.values())) + sum(RUN * len(numbers) for numbers in missing.values())
        while self._kept and size > self.buffer + 2 * RUN * self.files:
            oldest = next(iter(self._kept))
            size -= len(self._kept.pop(oldest))
            del self._used[oldest]
        for loaded in _side_by_side("file", lambda shard: self._loaded(shard, missing[shard]), list(missing)):
            have |= loaded
        self._kept |= have
        while len(self._open) > 2 * self.files + 2:  # the ends of some files and the beginnings of others
            self._open.pop(next(iter(self._open)))
        return have

    def _near(self, shard: int, numbers: list[int]) -> list[int]:
        """These runs and those before them that the same block may have, unless the file has been read beyond them."""
        reach = math.ceil(self.buffer / self.files / RUN)
        read = self._open[shard][0] if shard in self._open else -1
        before = {near for number in numbers for near in range(max(read + 1, number - reach), number)}
        return sorted(before.union(numbers))

    def _loaded(self, shard: int, numbers: list[int]) -> dict[Place, Run]:
        """Runs of one shard, read on from where the file was left, or from its beginning."""
        url, count, *_ = self.shards[shard]
        number, run, pictures = self._open.pop(shard, (count, [], iter(())))
        found = {}
        for wanted in numbers:
            if number > wanted:
                number, pictures = -1, _pictures(url)
            if number < wanted:
                skipped, length = RUN * (wanted - number - 1), min(RUN, count - RUN * wanted)
                run = list(islice(pictures, skipped, skipped + length))
                if len(run) < length:
                    raise InputError(f"{url} ends before its {count:,} pictures do; it takes a whole one.")
            number, found[shard, wanted] = wanted, run
        self._open[shard] = number, run, pictures
        return found


@lru_cache(maxsize=8)
def _threads(purpose: str, count: int) -> ThreadPoolExecutor:
    """Threads that all sets of this process share."""
    return ThreadPoolExecutor(count, thread_name_prefix=f"saccade-{purpose}")


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not live on in a fork


def _side_by_side(purpose: str, work: Callable[[Task], Result], tasks: list[Task]) -> list[Result]:
    return list(map(work, tasks) if len(tasks) < 2 else _threads(purpose, min(len(tasks), 16)).map(work, tasks))


@lru_cache(maxsize=2)
def _line(seed: int, epoch: int, shards: Shards) -> tuple[np.ndarray, np.ndarray]:
    """An epoch's shards in order, and where each ends in the line of all pictures."""
    order = torch.randperm(len(shards.counts), generator=draws.generator(seed, "shards", epoch)).numpy()
    return order, shards.counts[order].cumsum()


@lru_cache(maxsize=256)
def _shuffled(seed: int, epoch: int, block: int, part: int, count: int) -> Tensor:
    return torch.randperm(count, generator=draws.generator(seed, "block", epoch, block, part))


def open_shards(text: str) -> Shards:
    """The shards that `text` names: a folder, or tar files by a pattern with `*` and `{000..127}`; then perhaps options.

    `?size=64` scales and crops pictures; `?buffer=4096` is how many are shuffled together; `?files=8` how many shards
    are read at once. A folder's `index.json` lists its shards and counts their pictures.

    Raises InputError where there are none, one is missing, empty or damaged, and where a package is missing.
    """
    where, options = text, dict[str, int]()
    while match := _OPTION.fullmatch(where):
        where, options = match[1], {match[2]: int(match[3])} | options
    folder = (where.rpartition("/")[0] or ".") if where.endswith(_TARS) else where.rstrip("/")
    urls: list[str] = []
    if folder:
        with _refusing(where):
            known = _index(folder)
            if where.endswith(_TARS):
                urls = [url for one in _package("braceexpand").braceexpand(where) for url in _matching(one)]
            else:
                urls = list(known) or _inside(folder)
    if not urls:
        raise InputError(
            f"There are no shards {where!r}; it takes a folder of tar files, or a pattern such as /set/*.tar, with ?size=N, "
            "?buffer=N and ?files=N after it or not."
        )
    return Shards([_checked(known.get(url, Shard(url, -1))) for url in urls], **options)


def _inside(folder: str) -> list[str]:
    """A folder's tar files; brackets in its name are no pattern."""
    place = folder if "://" in folder else escape(folder)
    return [url for kind in _TARS for url in _matching(f"{place}/*{kind}")]


def _matching(pattern: str) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    if "://" not in pattern:
        return sorted(glob(pattern))
    system, path = _package("fsspec").core.url_to_fs(pattern)
    return [system.unstrip_protocol(found) for found in sorted(system.glob(path))]


def _index(folder: str) -> dict[str, Shard]:
    """The shards that the folder's index lists, by where they are; none where there is no index."""
    path = f"{folder}/{INDEX}"
    try:
        with _package("fsspec").open(path, "rb") as stream:
            content = stream.read(CHUNK + 1)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # as a server may answer for what is not there
        return {}
    try:
        listed: Any = json.loads(content) if len(content) <= CHUNK else None
        shards = [
            Shard(
                e["url"] if "://" in e["url"] or e["url"].startswith("/") else f"{folder}/{e['url']}",
                int(e["nsamples"]),
                e.get("filesize"),
                e.get("md5sum"),
            )
            for e in listed["shardlist"]
        ]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise InputError(
            f'{path} is no index of shards; it takes {{"shardlist": [{{"url": "0.tar", "nsamples": 1000}}]}}.'
        ) from None
    return {shard.url: shard for shard in shards}


def _checked(shard: Shard) -> Shard:
    """The shard, counted if need be. Raises InputError where it is missing, cut short or empty."""
    url, count, size, md5 = shard
    if "://" not in url:
        if not os.path.isfile(url):
            raise InputError(f"There is no shard {url}; each that is listed has to be there.")
        here = os.path.getsize(url)
        if size not in (None, here):
            raise InputError(f"{url} has {here:,} bytes and its index says {size}; it takes a whole one.")
        size = here
    if count < 0:
        count = sum(1 for _ in _pictures(url))
    if count < 1:
        raise InputError(f"{url} has no pictures in it ({', '.join(SUFFIXES)}); each shard needs at least one.")
    return Shard(url, count, size, md5)


def _pictures(url: str) -> Generator[Picture, None, None]:
    """The pictures of a shard, in a stream. Raises InputError for a damaged one."""
    tars = _package("webdataset.tariterators")
    with _refusing(url), _package("fsspec").open(url, "rb") as stream:
        source = [{"url": url, "stream": stream}]
        files = tars.tar_file_expander(source, select_files=lambda name: name.lower().endswith(SUFFIXES))
        for sample in tars.group_by_keys(files):
            key, pictures = sample["__key__"], {kind: one for kind, one in sample.items() if not kind.startswith("__")}
            named = [kind for kind in pictures if _BESIDE.fullmatch(kind)] if len(pictures) > 1 else []
            if len(pictures) - len(named) != 1:
                raise InputError(
                    f"{url} has {len(pictures)} pictures of the name {key} ({', '.join(f'{key}.{kind}' for kind in pictures)}); it "
                    "takes one of each name, which ends at the first dot."
                )
            [kind] = pictures.keys() - {*named}
            yield f"{key}.{kind} of {url}", pictures[kind]
        # What tarfile takes for the end may be damage; after a real end there are but zeros.
        while url.endswith(".tar") and (chunk := stream.read(CHUNK)):
            if chunk.count(0) != len(chunk):
                raise InputError(f"{url} is damaged: more follows after its end; it takes a whole one.")


@contextmanager
def _refusing(url: str) -> Iterator[None]:
    """A damaged file or a server that is gone raises many kinds of error in tarfile, zlib and fsspec; all mean one thing."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of any kind, see above; WebDataset adds objects to what it was told
        said = " ".join(next((a for a in reversed(error.args[:2]) if isinstance(a, str)), "").split(" @ <")[0].split())
        raise InputError(
            f"{url} cannot be read ({said[:150] or type(error).__name__}); it takes a tar file of pictures."
        ) from None


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(
            f"Shards need the package {name.split('.')[0]}; it takes pip install 'saccade[stream]'."
        ) from None


def write_shards(images: "ImageSet", out: Path, per: int = 10_000) -> Path:
    """Write pictures as shards of `per` PNG files, with their index, in the new folder `out`, which is returned.

    Labels are not written. Raises InputError where the folder is there, or `per` is less than one.
    """
    from PIL import Image

    if per < 1:
        raise InputError(f"per is {per}; it takes a whole number of pictures, at least 1.")
    if out.exists() or not out.parent.is_dir():
        raise InputError(f"{out} cannot be written; it takes a new folder in one that exists.")
    writer = _package("webdataset").TarWriter
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        folder = Path(work) / out.name
        folder.mkdir()
        for number, rows in enumerate(torch.arange(len(images)).split(per)):
            with (folder / f"{number:06d}.tar").open("wb") as stream, writer(stream, mtime=0) as shard:
                for index in rows.split(RUN):
                    for row, picture in zip(index.tolist(), images.batch(index).cpu().numpy(), strict=True):
                        content = BytesIO()
                        Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(
                            content, "png"
                        )
                        shard.write({"__key__": f"{row:09d}", "png": content.getvalue()})
        write_index(folder)
        folder.rename(out)
    return out


def write_index(folder: Path) -> Path:
    """Count the pictures of a folder's shards, and list them in its `index.json`, which is returned.

    Raises InputError where there are no shards, or one is empty or damaged.
    """
    listed = []
    for url in _inside(str(folder)):
        _, count, size, _ = _checked(Shard(url, -1))
        with open(url, "rb") as stream:
            md5 = hashlib.file_digest(stream, "md5").hexdigest()
        listed.append({"url": os.path.basename(url), "nsamples": count, "filesize": size, "md5sum": md5})
    if not listed:
        raise InputError(f"{folder} holds no shards; it takes a folder of tar files.")
    path = folder / INDEX
    write_whole(path, (json.dumps({"wids_version": 1, "shardlist": listed}, indent=1) + "\n").encode())
    return path
