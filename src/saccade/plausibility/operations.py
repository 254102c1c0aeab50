"""Which operations are not simple: paper, condition (ii). Judged by what an operation is fed with, not by its name alone."""

import re
from collections.abc import Callable
from typing import Any

from .trace import Node, Op

_DIVISIONS = {"div": 1, "divide": 1, "true_divide": 1, "floor_divide": 1, "addcdiv": 2, "remainder": 1, "fmod": 1}
_INVERSES = {"reciprocal", "rsqrt"}
_EXPONENTIALS = (
    "exp exp2 expm1 log log2 log10 log1p logsumexp logaddexp _softmax _log_softmax sigmoid log_sigmoid_forward softplus "
    "sinh cosh _logcumsumexp logcumsumexp"
)
_STATISTICS = (
    "std var var_mean std_mean native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
    "batch_norm_with_update _batch_norm_with_update native_layer_norm native_group_norm _fused_rms_norm"
)
_PRODUCTS = {"mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm", "mul", "addcmul", "convolution"}
_NAMES = dict.fromkeys(_EXPONENTIALS.split(), "exponentials or logarithms")
_NAMES |= dict.fromkeys(_STATISTICS.split(), "normalization, or a statistic of many activities")
_NAMES |= dict.fromkeys(("sqrt", "square"), "squares or square roots")


_TRANSFER = {"sigmoid", "softplus", "pow", "square"}  # what transfer functions and their derivatives are made of


def complexity(op: Op, graded: Callable[[int], bool], *, products: bool, transfer: bool = False) -> str | None:
    """What is not simple about an operation, or None.

    `graded(node)` says whether a tensor carries graded activity; constants and gates do not. `products`: is the product
    of two graded activities to be named too? `transfer`: may a unit's own activity pass through a curve, as it does in a
    transfer function and in its derivative?
    """
    kernel = re.sub(r"_backward(_data)?$", "", op.name)  # a derivative that is one operation counts as its function
    if transfer and kernel in _TRANSFER:
        return None
    nodes = [_nodes(argument) for argument in op.arguments]

    def fed(place: int) -> bool:
        return place < len(nodes) and any(map(graded, nodes[place]))

    if op.name in _DIVISIONS and fed(_DIVISIONS[op.name]):
        return "division"
    if op.name in _INVERSES and fed(0):
        return "division"
    if kernel in _NAMES and (fed(0) or (kernel != op.name and any(map(fed, range(len(nodes)))))):
        return _NAMES[kernel]
    if op.name == "pow" and (fed(1) or (fed(0) and op.arguments[1] not in (0, 1))):
        return "powers"
    if op.name in ("linalg_vector_norm", "norm") and fed(0) and _order(op) != 1:
        return "normalization, or a statistic of many activities"
    if op.name == "_cdist_forward" and op.arguments[2] != 1 and (fed(0) or fed(1)):
        return "inner products (squared distances)"
    if op.name == "mean" and fed(0) and 0 in _axes(op):
        return "a statistic of the batch"
    if products and op.name in _PRODUCTS and sum(map(fed, range(len(nodes)))) - _added(op, fed) > 1:
        return "inner products (activities multiplied with activities)"
    return None


def _nodes(argument: Any) -> list[int]:
    if isinstance(argument, Node):
        return [argument.number]
    return [n for one in argument for n in _nodes(one)] if isinstance(argument, list | tuple) else []


def _order(op: Op) -> Any:
    return op.arguments[1] if len(op.arguments) > 1 and not isinstance(op.arguments[1], list) else 2


def _axes(op: Op) -> list[int]:
    """The axes that a mean is taken over, counted from the first; all, the first among them, where none is named."""
    axes = op.arguments[1] if len(op.arguments) > 1 else None
    if not (isinstance(axes, list | tuple) and axes):
        return [0]
    kept = True in op.arguments[2:]  # its keepdim
    rank = len(op.shape) + (0 if kept else len(axes))
    return [axis % rank for axis in axes]


def _added(op: Op, fed: Callable[[int], bool]) -> bool:
    """Whether the first argument is only added to a product."""
    return op.name in ("addmm", "addmv", "addbmm", "baddbmm", "addcmul") and fed(0)
