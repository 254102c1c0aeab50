"""Random numbers without generators to store: every draw is a pure function of what it is for.

A run has one seed. A draw is keyed by (seed, purpose, step, image), so a resumed run, a data worker or another process
draws the same numbers without anything being saved. Per-image draws hash the image's key with splitmix64 (Steele, Lea
and Flood 2014, "Fast splittable pseudorandom number generators"), in integer arithmetic that every device does alike.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

_ROWS = 64  # that `normal` draws from one generator
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def key(seed: int, *purpose: str | int) -> int:
    """A 63-bit integer that depends on the seed and on every part of the purpose.

    >>> key(0, "views", 3) == key(0, "views", 3), key(0, "views", 3) == key(0, "views", 4)
    (True, False)
    """
    digest = hashlib.blake2b(repr((int(seed), *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for draws that belong to no image (initial weights, orders, noise)."""
    return torch.Generator(device).manual_seed(key(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Within, torch's global generators, which modules draw from, begin at the key; afterwards they are where they were."""
    start = key(seed, *purpose)
    # torch.manual_seed does the same, and looks for every kind of device at each call: 0.2 ms at each site of each step.
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    before = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(start)
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def normal(
    shape: Sequence[int],
    seed: int,
    *purpose: str | int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal numbers in `shape`.

    On a processor torch draws from one generator with one thread. So each 64 rows have a generator of their own, and are
    shared out among as many threads as torch has; the numbers are the same for any number of them. Other devices have
    one generator for all, and other numbers.

    >>> torch.equal(normal((70, 3), 0, "noise"), normal((70, 3), 0, "noise"))
    True
    """
    drawn = torch.empty(tuple(shape), dtype=dtype, device=device)

    def fill(number: int, rows: Tensor) -> None:
        rows.normal_(generator=generator(seed, *purpose, number, device=device))

    parts = drawn.split(_ROWS if drawn.device.type == "cpu" else max(1, len(drawn)))
    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
        for number, rows in enumerate(parts):
            fill(number, rows)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(len(parts)), parts))
    return drawn


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical shift: torch's >> copies the sign


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finalizer on int64 tensors; the products wrap around."""
    x = (x ^ _shifted(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shifted(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shifted(x, 31)


def image_keys(base: int, index: Tensor) -> Tensor:
    """One int64 key an image, from `base` (a `key`) and the images' indices (int64, any shape)."""
    return _mix(_mix(index.long() * _GOLDEN + base) + _GOLDEN)


def substream(keys: Tensor, number: int) -> Tensor:
    """Keys of an independent stream, for the `number`-th use of the same images (a second view, say)."""
    return _mix(keys ^ (((number + 1) * 0x632BE59BD9B4E019) & 0x7FFFFFFFFFFFFFFF))


def uniform(keys: Tensor, count: int) -> Tensor:
    """`count` float32 numbers in [0, 1) for each key: keys of shape (n,) give (n, count), on the keys' device."""
    counter = torch.arange(1, count + 1, device=keys.device) * _GOLDEN
    return _shifted(_mix(keys[:, None] + counter), 40).float() * 2.0**-24
