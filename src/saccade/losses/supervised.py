"""Losses that read labels, for the supervised baselines."""

from torch import Tensor, nn
from torch.nn import functional as F


class CrossEntropy(nn.Module):
    """Softmax cross-entropy, a mean over images; the head has one output a class, with a bias, as the probe has.

    Called with scores (batch, classes) and labels (batch,).
    """

    layout, labels, head, reduction = "single", True, True, "mean"

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels)
