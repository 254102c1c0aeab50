"""One run over several processes: each makes its part of every batch, and what they learn is summed.

torchrun starts the processes; torch.distributed joins them, by gloo on processors and by NCCL on GPUs. Every draw is
keyed by what it is for, so a process (a rank) makes exactly its rows of what one process would make. Two things are
sent at a step: the embeddings, so that each rank computes the loss of the whole batch, in which its own rows carry
gradient; and the gradients of what has just learned, whose sum over the ranks is then the whole batch's gradient.
"""

import datetime
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import draws
from .errors import InputError, Lost, RunError


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and of NCCL; there is no narrower kind
        reason = re.sub(r"^\[.*?\.cc:\d+\] ", "", str(error).splitlines()[0]).split(". ")[0]
        lost = Lost(f"another process of this run has died or cannot be reached ({reason})")
        lost.first = _first()
        raise lost from None


def _first() -> bool:
    """Whether no other process has asked this before: of the store that torchrun keeps, which outlives the processes."""
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(*address, timeout=datetime.timedelta(seconds=5)).add("saccade/lost", 1) == 1
    except (KeyError, RuntimeError):
        return True


@dataclass(eq=False)
class Ranks:
    """The place of this process among those of one run; alone, each method gives back what it was given.

    `images` is the size of the whole batch. `negatives` are "gathered", from the whole batch, or "local", from each
    rank's own images. `divide` says what is shared out: the "batch", or the "layers", where each rank has all images
    (`training.stages`). `sent` counts the bytes handed over to be sent, by what they were.
    """

    rank: int = 0
    count: int = 1
    images: int = 0
    negatives: str = "gathered"
    divide: str = "batch"
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def shares(self) -> bool:
        """Whether a rank has but a share of the batch."""
        return self.count > 1 and self.divide == "batch"

    @property
    def gathers(self) -> bool:
        return self.shares and self.negatives == "gathered"

    def bounds(self, rank: int) -> tuple[int, int]:
        """Where a rank's images begin in the batch, and where the next rank's do; shares differ by one image at most."""
        return rank * self.images // self.count, (rank + 1) * self.images // self.count

    @property
    def share(self) -> slice:
        return slice(*self.bounds(self.rank)) if self.shares else slice(None)

    def whole(self, rows: int) -> int:
        """How many rows the whole batch has where this rank has `rows`: two an image, say, or one a patch."""
        start, stop = self.bounds(self.rank)
        return rows * self.images // (stop - start) if self.shares else rows

    def gather(self, x: Tensor, lists: int = 1) -> Tensor:
        """The rows of all ranks in one process's order, list by list; this rank's own keep their gradient."""
        if not self.shares:
            return x
        rows = x.reshape(lists, len(x) // lists, -1)
        sizes = [
            (stop - start) * rows.shape[1] // (self.share.stop - self.share.start)
            for start, stop in map(self.bounds, range(self.count))
        ]
        padded = rows.new_zeros(lists, max(sizes), rows.shape[2])  # collectives take equal shapes
        padded[:, : rows.shape[1]] = rows.detach()
        found = [torch.empty_like(padded) for _ in sizes]
        self.sent["embeddings"] += padded.nbytes
        with _reaching():
            dist.all_gather(found, padded)
        parts = [part[:, :size] for part, size in zip(found, sizes, strict=True)]
        parts[self.rank] = rows
        return torch.cat(parts, 1).reshape(-1, *x.shape[1:])

    def total(self, x: Tensor) -> Tensor:
        """The sum of `x` over the ranks, without gradient."""
        if not self.shares:
            return x
        x = x.detach().clone()
        self.sent["statistics"] += x.nbytes
        with _reaching():
            dist.all_reduce(x)
        return x

    def std(self, x: Tensor) -> Tensor:
        """`x.std()` of the whole batch, in at least float32."""
        x = x if x.dtype == torch.float64 else x.float()
        if not self.shares:
            return x.var().sqrt()
        count = self.whole(len(x)) * x[0].numel()
        mean = self.total(x.sum()) / count
        return (self.total((x - mean).square().sum()) / (count - 1)).sqrt()

    def normal(self, x: Tensor, lists: int, seed: int, *purpose: str | int) -> Tensor:
        """Standard normal numbers in the shape of `x`: this rank's rows of those of the whole batch."""
        rows = self.whole(len(x))
        drawn = draws.normal((rows, *x.shape[1:]), seed, *purpose, dtype=x.dtype, device=x.device)
        if not self.shares:
            return drawn
        each = rows // lists // self.images
        start, stop = (each * bound for bound in self.bounds(self.rank))
        return drawn.unflatten(0, (lists, -1))[:, start:stop].flatten(0, 1)

    def send(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        copies: Mapping[nn.Parameter, nn.Parameter] = MappingProxyType({}),
    ) -> Callable[[], None]:
        """Begin to sum gradients over the ranks; what comes back waits for the sums and puts them in their places.

        `named` are a site's parameters by name; what a key of `copies` receives is its value's gradient, unsent.
        """
        if not self.shares:
            return lambda: None
        filled: dict[nn.Parameter, Tensor] = {}
        for name, p in named:
            if p.grad is not None:
                filled[p] = p.grad
                if self.gathers and name.startswith("loss."):  # of the whole batch already, on each rank
                    p.grad /= self.count
        copied = {p: original for p, original in copies.items() if p in filled and original in filled}
        gradients = [gradient for p, gradient in filled.items() if p not in copied]
        flat = torch.cat([g.flatten() for g in gradients])
        self.sent["gradients"] += flat.nbytes
        with _reaching():
            work = dist.all_reduce(flat, async_op=True)

        def put() -> None:
            with _reaching():
                work.wait()
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
            for p, original in copied.items():
                filled[p].copy_(filled[original])

        return put

    def ask(self, flags: Callable[[], list[bool]]) -> Callable[[], list[bool]]:
        """Begin to ask whether any rank raises each of the flags; what comes back waits for the answer."""
        if self.count == 1:
            return flags
        word = torch.tensor(flags(), dtype=torch.int32)
        self.sent["flags"] += word.nbytes
        with _reaching():
            work = dist.all_reduce(word, async_op=True)

        def answer() -> list[bool]:
            with _reaching():
                work.wait()
            return [n > 0 for n in word.tolist()]

        return answer

    def together(self, made: Callable[[], Any]) -> Any:
        """What `made` gives here; the InputError or RunError that it raises on any rank is raised on all."""
        if self.count == 1:
            return made()
        result, error = None, None
        try:
            result = made()
        except (InputError, RunError) as raised:
            error = raised
        for first in filter(None, self.each(error)):
            raise first
        return result

    def tell(self, made: Callable[[], Any]) -> Any:
        """What `made` gives on rank 0, on all ranks; the InputError or RunError that it raises, raised on all."""
        if self.count == 1:
            return made()
        said = [self.together(lambda: made() if self.rank == 0 else None)]
        with _reaching():
            dist.broadcast_object_list(said, src=0)
        return said[0]

    def each(self, own: Any) -> list[Any]:
        """What each rank calls `own`, in the order of ranks."""
        found: list[Any] = [own] * self.count
        if self.count > 1:
            with _reaching():
                dist.all_gather_object(found, own)
        return found

    def pass_up(self, x: Tensor, header: bool) -> Callable[[], None]:
        """Begin to send features to the next rank, with their shape if it does not know it; what comes back waits."""
        x = x.contiguous()
        self.sent["features"] += x.nbytes
        with _reaching():
            if header:
                dist.send_object_list([tuple(x.shape), x.dtype], self.rank + 1)
            work: Any = dist.isend(x, self.rank + 1)

        def wait() -> None:
            with _reaching():
                work.wait()

        return wait

    def from_below(self, known: Tensor | None, device: torch.device) -> Tensor:
        """The features that the rank below passes up, in the shape of those `known`, if there were any."""
        with _reaching():
            if known is None:
                header: list[Any] = [None, None]
                dist.recv_object_list(header, self.rank - 1)
                known = torch.empty(header[0], dtype=header[1], device=device)
            x = torch.empty_like(known, memory_format=torch.contiguous_format)
            dist.recv(x, self.rank - 1)
        return x

    def agree(self, what: str, own: str) -> None:
        """Raises RunError, on all ranks, where `own` is not the same on each of them; `what` names it."""
        found = self.each(own)
        other = next((rank for rank, value in enumerate(found) if value != found[0]), None)
        if other is not None:
            raise RunError(f"{what} of process {other} of this run are not those of process 0.")


ALONE = Ranks()


def digest(tensors: dict[str, Tensor]) -> str:
    """A hash of the tensors' names and bits."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


_groups = itertools.count()


@contextmanager
def joined(device: torch.device, images: int, negatives: str = "gathered", divide: str = "batch") -> Iterator[Ranks]:
    """The ranks that torchrun started, joined for a while; `ALONE` where it did not.

    A caller that has joined them already, by a backend of its choice, keeps its group.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    own = not dist.is_initialized()
    if own and count == 1:
        yield ALONE
        return
    if device.type == "cuda":
        place = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if place >= torch.cuda.device_count():
            raise InputError(
                f"{torch.cuda.device_count()} GPUs are here, and process {place} of this machine needs one of its own; "
                "it takes a process a GPU, or device=cpu."
            )
        torch.cuda.set_device(place)
    if own:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with _reaching():
            # Each group has keys of its own: a process that trains again would read what the group before has left there.
            patience = datetime.timedelta(minutes=10)
            store, rank, size = next(dist.rendezvous("env://", timeout=patience))
            keys = dist.PrefixStore(f"saccade {next(_groups)}", store)
            dist.init_process_group(backend, store=keys, rank=rank, world_size=size, timeout=patience)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), images, negatives, divide)
    finally:
        if own:
            dist.destroy_process_group()
