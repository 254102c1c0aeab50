"""How far embeddings separate into classes: numbers for what the eye sees in a map, and the map."""

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError


def silhouette(x: Tensor, y: Tensor) -> float:
    """Mean silhouette of embeddings `x` (n, d) by their labels `y` (n,), Euclidean, from -1 to 1.

    (b - a) / max(a, b), where a is an embedding's mean distance to its own class and b to the nearest other (Rousseeuw 1987,
    "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis").

    >>> silhouette(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1])) > 0.8
    True
    """
    from sklearn.metrics import silhouette_score

    _check(x, y)
    return float(silhouette_score(x.double().cpu().numpy(), y.cpu().numpy()))


def nearest_agreement(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Percent of embeddings `x` (n, d) whose `k` nearest others (Euclidean) are mostly of their class; of classes that tie,
    the smallest counts.

    >>> nearest_agreement(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1]), k=1)
    100.0
    """
    _check(x, y)
    if not 1 <= k < len(x):
        raise InputError(f"k is {k}; of {len(x)} embeddings it takes 1 to {len(x) - 1}.")
    distances = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.fill_diagonal_(float("inf")).topk(k, largest=False).indices
    votes = torch.nn.functional.one_hot(y)[nearest].sum(1)
    return 100 * float((votes.argmax(1) == y).double().mean())


def tsne(x: Tensor, seed: int = 0) -> np.ndarray:
    """Places (n, 2) of embeddings (n, d) in a map of the plane (van der Maaten and Hinton 2008), float64."""
    from sklearn.manifold import TSNE

    if len(x) < 5:
        raise InputError(f"A map was asked of {len(x)} embeddings; it takes at least 5.")
    state = seed % 2**32
    made = TSNE(perplexity=min(30, (len(x) - 1) / 3), init="pca", random_state=state)
    return made.fit_transform(x.cpu().numpy()).astype(np.float64)


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or not 2 <= len(y.unique()) < len(x):
        raise InputError(
            f"A separation was asked of embeddings {tuple(x.shape)} with labels {tuple(y.shape)}; it takes (n, d) and (n,), of "
            "two classes or more, and not of as many as embeddings."
        )
