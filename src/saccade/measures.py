"""Measures of updates and embeddings: pure functions on tensors."""

import torch
from torch import Tensor


def angle(a: Tensor, b: Tensor) -> float:
    """Degrees between two updates of the same shape, each read as one vector; nan where one of them is zero.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    90.0
    """
    a, b = a.double().flatten(), b.double().flatten()
    # Kahan's form: the arc cosine of a normalized product loses half the digits of small angles
    u, v = a * b.norm(), b * a.norm()
    if not u.any() or not v.any():
        return float("nan")
    return float(torch.rad2deg(2 * torch.atan2((u - v).norm(), (u + v).norm())))


def norm_ratio(a: Tensor, b: Tensor) -> float:
    """|a| / |b|, Euclidean over all entries; inf (or nan, for 0 / 0) where b is zero.

    >>> norm_ratio(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 2.0]]))
    2.5
    """
    return float(a.double().norm() / b.double().norm())


def rank_me(z: Tensor) -> float:
    """RankMe of embeddings (n, d): exp of the entropy of the singular values divided by their sum.

    Between 1 (all embeddings on one line through 0) and min(n, d); 0 where all are zero. Garrido et al. 2023, "RankMe:
    Assessing the downstream performance of pretrained self-supervised representations by their rank", Eq. 1 and 2;
    zero singular values add nothing here, in place of the small constant that the paper adds.

    >>> round(rank_me(torch.eye(3)), 6)
    3.0
    """
    values = torch.linalg.svdvals(z.double())
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def participation_ratio(z: Tensor) -> float:
    """(sum of lambda)^2 / sum of lambda^2 over the eigenvalues lambda of the covariance of the embeddings (n, d).

    Between 1 and min(n - 1, d); 0 where all embeddings are equal. Gao et al. 2017, "A theory of multineuronal
    dimensionality, dynamics and measurement".

    >>> round(participation_ratio(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0
    """
    z = z.double()
    centred = z - z.mean(0)
    spread = centred.T @ centred if len(z) > z.shape[1] else centred @ centred.T  # the same nonzero eigenvalues
    total = spread.square().sum()
    return float(spread.trace() ** 2 / total) if total > 0 else 0.0


def embedding_std(z: Tensor) -> float:
    """Standard deviation (over n, not n - 1) of each embedding unit over the batch (n, d), averaged over units.

    >>> embedding_std(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    0.5
    """
    return float(z.double().std(0, correction=0).mean())


def pair_distances(z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distances of positive pairs (n,) and of negative pairs (n * (n - 1),), from two lists of embeddings (n, d).

    Positives are |z_a[s] - z_b[s]|; negatives |z_a[s] - z_b[t]| for t other than s, all t of the first s first.

    >>> positives, negatives = pair_distances(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [3.0]]))
    >>> positives.tolist(), negatives.tolist()
    ([0.5, 2.0], [3.0, 0.5])
    """
    distances = torch.cdist(z_a, z_b, p=1)
    others = ~torch.eye(len(z_a), dtype=torch.bool, device=z_a.device)
    return distances.diagonal().clone(), distances[others]


def dead_units(x: Tensor) -> float:
    """The fraction of units whose value is the same for every image of the batch; `x` is (batch, ...).

    >>> dead_units(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    0.5
    """
    return float((x == x[:1]).all(0).double().mean())
