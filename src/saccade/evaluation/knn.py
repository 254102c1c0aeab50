"""k nearest neighbours: a probe with nothing to fit."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ..errors import InputError

_METRICS = ("cosine", "l1", "l2")
_DISTANCES = 2**25  # held at a time: 128 MiB in float32


@torch.no_grad()
def knn_accuracy(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, *, k: int = 20, metric: str = "cosine"
) -> float:
    """Percent of test rows whose label most of their k nearest training rows have, one vote each.

    Ties: of training rows at the same distance the one that comes first is nearer; of classes with as many votes the
    smallest label wins.

    Args:
        train_x, test_x: features (n, d) and (m, d); train_y, test_y: labels (n,) and (m,), from 0.
        metric: "cosine" (1 minus the cosine), "l1" or "l2" distance.

    Raises:
        InputError: for an unknown metric, or k that is not between 1 and n.

    >>> x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1])
    >>> knn_accuracy(x, y, torch.tensor([[0.4], [4.0]]), torch.tensor([0, 1]), k=1, metric="l1")
    100.0
    """
    if metric not in _METRICS:
        raise InputError(f"metric: got {metric!r}, expected one of {', '.join(_METRICS)}.")
    if not 1 <= k <= len(train_x):
        raise InputError(f"k: got {k}, expected 1 to {len(train_x)}, the number of training rows.")
    if metric == "cosine":
        train_x, test_x = normalize(train_x), normalize(test_x)
    classes = int(train_y.max()) + 1
    right = 0
    for x, y in zip(*(t.split(max(1, _DISTANCES // len(train_x))) for t in (test_x, test_y)), strict=True):
        distances = -(x @ train_x.T) if metric == "cosine" else torch.cdist(x, train_x, p=1 if metric == "l1" else 2)
        votes = one_hot(train_y[_nearest(distances, k)], classes).sum(1)
        right += int((votes.argmax(1) == y).sum())  # argmax gives the first of equals
    return 100.0 * right / len(test_x)


def _nearest(distances: Tensor, k: int) -> Tensor:
    """Columns of the k smallest entries of each row, (rows, k), as a stable sort would give them, in any order."""
    values, columns = distances.topk(min(k + 1, distances.shape[1]), largest=False)
    if values.shape[1] > k:  # topk picks any of equals: sort the rows where that decides who is in
        unsure = values[:, k] == values[:, k - 1]
        columns = columns[:, :k]
        if unsure.any():
            columns[unsure] = distances[unsure].sort(stable=True).indices[:, :k]
    return columns
