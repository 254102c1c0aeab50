"""Losses that read labels, for the supervised baselines."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .common import full


class CrossEntropy(nn.Module):
    """Softmax cross-entropy, a mean over images; the head has one output a class, with a bias, as the probe has.

    Called with scores (batch, classes) and labels (batch,).
    """

    layout, labels, head, reduction = "single", True, True, "mean"

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(full(scores), labels)


def supervised_hinge(scores: Tensor, labels: Tensor, *, mu: float = 0.1) -> Tensor:
    """Mean over images of [1 - h_y]+ + mu * sum over the other classes c of [1 + h_c]+; h are scores, y the label.

    Each output unit's error, -1, mu or 0, needs its own activity and whether it is the target, so that the top layer's
    update is local (Amit 2019, "Deep learning with asymmetric connections and Hebbian updates", Front. Comput.
    Neurosci. 13:18). mu and the mean follow the public code of the paper's authors, where mu is 1/10.

    Args:
        scores: (batch, classes).
        labels: (batch,), int64.
        mu: weight of each class that is not the image's.

    >>> h = torch.tensor([[0.5, -2.0, 1.0]])
    >>> float(supervised_hinge(h, torch.tensor([0]), mu=0.25))  # [1 - 0.5]+ + 0.25 * (0 + 2)
    1.0
    """
    h = full(scores)
    target = F.one_hot(labels, h.shape[1]).bool()
    return torch.where(target, (1 - h).relu(), mu * (1 + h).relu()).sum() / len(h)


class SupervisedHinge(nn.Module):
    """`supervised_hinge` as a module, called with scores (batch, classes) and labels (batch,)."""

    layout, labels, head, reduction = "single", True, True, "mean"

    def __init__(self, *, mu: float = 0.1):
        super().__init__()
        self.mu = mu

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        return supervised_hinge(scores, labels, mu=self.mu)
