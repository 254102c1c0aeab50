"""Losses that read labels, for the supervised baselines."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from .common import full


def check_labels(scores: Tensor, labels: Tensor) -> None:
    """Raise InputError unless scores are (batch, classes), of an image or more, and labels (batch,), each one of the classes;
    those on a GPU are believed, for a look at them would wait for it."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise InputError(
            f"The loss got scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)}; it takes (batch, classes) "
            "and (batch,), of at least 1 image."
        )
    if labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise InputError(
            f"The loss got labels from {int(labels.min())} to {int(labels.max())}; it takes 0 to {scores.shape[1] - 1}, one for each "
            "score of an image."
        )


class CrossEntropy(nn.Module):
    """Softmax cross-entropy, a mean over images; the head has one output a class, with a bias, as the probe has.

    Called with scores (batch, classes) and labels (batch,); raises InputError for other shapes or labels.
    """

    layout, labels, head, reduction = "single", True, True, "mean"

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        check_labels(scores, labels)
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

    Raises InputError for other shapes, and for a label that is none of the classes.

    >>> h = torch.tensor([[0.5, -2.0, 1.0]])
    >>> float(supervised_hinge(h, torch.tensor([0]), mu=0.25))  # [1 - 0.5]+ + 0.25 * (0 + 2)
    1.0
    """
    check_labels(scores, labels)
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
