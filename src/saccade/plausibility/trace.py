"""Which operations stand between what was seen and what is learned: every one that torch runs, forward and backward.

Tensors are followed by the memory that they occupy, so that views, copies and whatever a backward pass hands on are
all seen. Numbers that leave torch (`.item()`, numpy) are not followed further; `item` keeps what they were read from.
"""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


@dataclass
class Op:
    """One operation. `arguments` are what it was called with, tensors replaced by nodes (`Node`)."""

    name: str
    arguments: list[Any]
    reads: list[int]
    offsets: list[int]  # where in its memory each tensor read begins
    writes: list[int]
    shape: tuple[int, ...]
    backward: bool
    place: str
    module: str = ""  # that ran it, in a forward pass, where the trace was told (`within`)
    values: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Node:
    """A tensor's memory between two writes."""

    number: int


class Trace(TorchDispatchMode):
    """Records what runs inside `with Trace() as trace`; `values` keeps a copy of every result."""

    def __init__(self, values: bool = False):
        super().__init__()
        self.ops: list[Op] = []
        self.external: dict[int, Tensor] = {}  # nodes that nothing in the trace has made
        self.item: list[int] = []
        self.within: list[str] = []  # the modules whose forward pass is under way
        self._made_by: dict[int, Op] = {}
        self._node: dict[int, int] = {}
        self._count = 0
        self._alive: list[Tensor] = []  # so that no memory is used twice
        self._values = values

    def __enter__(self):
        self._anomaly = torch.autograd.set_detect_anomaly(True, check_nan=False)  # nodes remember who made them
        return super().__enter__()

    def __exit__(self, *args):
        self._anomaly.__exit__(None, None, None)
        return super().__exit__(*args)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        name = re.sub(r"^_foreach_|_$", "", function.overloadpacket.__name__)
        # A tensor that is only as large as another depends on none of its numbers: each backward pass begins with one.
        reads = [] if name.startswith("new_") or name.endswith("_like") else [self.node(x) for x in inputs]
        arguments = tree_map(lambda x: Node(self.node(x)) if isinstance(x, Tensor) else x, [*args, *kwargs.values()])
        written = {id(x) for x in _mutated(function, args, kwargs)}
        before = {_memory(x) for x in inputs}
        result = function(*args, **kwargs)
        outputs = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        if name == "_local_scalar_dense":
            self.item += reads
        changed = [x for x in inputs if id(x) in written] + [x for x in outputs if _memory(x) not in before]
        if changed:
            backward = torch._C._current_graph_task_id() != -1
            writes = [self._fresh(x) for x in changed]
            op = Op(
                name,
                arguments,
                reads,
                [int(x.storage_offset()) for x in inputs],
                writes,
                tuple(changed[0].shape),
                backward,
                _place(backward),
                self.within[-1] if self.within and not backward else "",
            )
            if self._values:
                op.values = [x.detach().clone() for x in changed]
            self.ops.append(op)
            self._made_by |= dict.fromkeys(writes, op)
        return result

    def node(self, x: Tensor) -> int:
        """The node of a tensor as it is now."""
        memory = _memory(x)
        if memory not in self._node:
            self.external[self._fresh(x)] = x
        return self._node[memory]

    def _fresh(self, x: Tensor) -> int:
        self._alive.append(x)
        self._count += 1
        self._node[_memory(x)] = self._count
        return self._count

    def behind(self, nodes: Iterable[int], follow: Callable[[int], bool] = lambda node: True) -> list[Op]:
        """The operations that `nodes` depend on, in the order in which they ran, following nodes that `follow` allows."""
        waiting, seen, found = [n for n in nodes if follow(n)], set(), set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            op = self._made_by.get(node)
            if op is not None:
                found.add(id(op))
                waiting += [n for n in op.reads if follow(n)]
        return [op for op in self.ops if id(op) in found]

    def after(self, nodes: Iterable[int]) -> set[int]:
        """The nodes that depend on `nodes`, and these."""
        found = set(nodes)
        for op in self.ops:
            if found.intersection(op.reads):
                found.update(op.writes)
        return found

    def sources(self, node: int) -> list[Tensor]:
        """The tensors from outside that a node is made of."""
        ops = self.behind([node])
        return [self.external[n] for n in {node, *(n for op in ops for n in op.reads)} if n in self.external]


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _mutated(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes to."""
    found = []
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [x for x in tree_flatten(value)[0] if isinstance(x, Tensor)]
    return found


def _place(backward: bool) -> str:
    """The line of code that an operation belongs to; in a backward pass, of the operation whose error it computes."""
    frame: Any = sys._getframe(2)
    torchs = ""
    while frame is not None and not frame.f_code.co_filename.startswith(_HERE):
        name = frame.f_code.co_filename
        if backward and name.startswith(f"{_TORCH}/autograd/graph"):
            break  # above it stands only who called backward()
        if not name.startswith(_TORCH) and "<" not in name:
            return _short(name, frame.f_lineno)
        if not torchs and name.startswith(f"{_TORCH}/optim/"):
            torchs = _short(name, frame.f_lineno)
        frame = frame.f_back
    node: Any = torch._C._current_autograd_node() if backward else None
    lines = re.findall(r'File "([^"<]+)", line (\d+)', "".join((node.metadata if node else {}).get("traceback_", [])))
    own = [(name, int(line)) for name, line in lines if not name.startswith(_TORCH) and not name.startswith(_HERE)]
    return _short(*own[-1]) if own else torchs


def _short(name: str, line: int) -> str:
    """File and line, the file below its package."""
    parts = Path(name).parts
    start = next((len(parts) - k for k, p in enumerate(reversed(parts), 1) if p in ("site-packages", "src")), -2)
    return f"{'/'.join(parts[start + 1 :] if start >= 0 else parts[-2:])}:{line}"
