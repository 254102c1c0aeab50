"""CLAPP on whole-image views (Illing et al. 2021, "Local plasticity rules can learn deep representations", as the paper
applies it): one feature map predicts the other, through weights of the loss's own.
"""

import torch
from torch import Tensor, nn

from .common import check_negatives, check_pair, check_sized, check_words, following, full


def predict(weight: Tensor, features: Tensor) -> Tensor:
    """W F: a 1x1 convolution without bias, weight (channels, channels), of features (batch, channels, ...)."""
    return torch.einsum("dc,nc...->nd...", weight, features)


def clapp(f_a: Tensor, f_b: Tensor, weight: Tensor, *, negatives: int | str = "all", reduction: str = "sum") -> Tensor:
    """Sum over images s of [1 - u_ss]+ + sum over t in N_s of [1 + u_st]+, with u_st = <W F^A_s, F^B_t>.

    Args:
        f_a, f_b: features of the two lists of views, (batch, channels, height, width) or (batch, channels); the inner
            product runs over channels and positions.
        weight: W, (channels, channels).
        negatives: "all" others of the batch, as in the authors' code, or T of them: the next T, wrapping around.
        reduction: "sum", or "mean": the mean over positives plus the mean over negatives, as Illing et al. take it
            (whose negatives are 1).

    Returns a scalar. Raises InputError for more negatives than the batch has, lists of different shapes, an empty batch (of a
    mean, one without negatives) and another reduction.
    """
    check_words("clapp", reduction=reduction)
    check_pair(f_a, f_b, flat=False, least=2 if reduction == "mean" else 1)
    n = len(f_a)
    check_negatives(negatives, n)
    predicted, seen = predict(full(weight), full(f_a)).flatten(1), full(f_b).flatten(1)
    if negatives == "all":
        u = predicted @ seen.T
        positives = u.diagonal()
        u = u.flatten()[1:].view(n - 1, n + 1)[:, :-1]  # all but the diagonal
    else:
        positives = (predicted * seen).sum(1)
        u = torch.einsum("sd,sdt->st", predicted, following(seen, int(negatives)))
    wrong, mistaken = (1 - positives).relu(), (1 + u).relu()
    return wrong.sum() + mistaken.sum() if reduction == "sum" else wrong.mean() + mistaken.mean()


class Predicting(nn.Module):
    """A loss with prediction weights W, made by `sized` once the features' shape is known.

    They are (*number, channels, channels), initialized as PyTorch initializes a 1x1 convolution.
    """

    weight: nn.Parameter

    def __init__(self, number: tuple[int, ...], gradient: str):
        super().__init__()
        self.number, self.way = number, gradient

    def sized(self, shape: tuple[int, ...]) -> None:
        """Make W for features of `shape` (channels, height, width) or (channels,), from torch's global generator."""
        weight = torch.empty(*self.number, shape[0], shape[0]).uniform_(-(shape[0] ** -0.5), shape[0] ** -0.5)
        self.weight = nn.Parameter(weight, requires_grad=self.way != "fixed_weight")

    def sides(self, context: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The context and the targets, cut off from the gradient where the published way says so."""
        check_sized(self, "weight")
        return (
            context.detach() if self.way == "context_detached" else context,
            targets.detach() if self.way == "targets_detached" else targets,
        )


class CLAPP(Predicting):
    """`clapp` as a module with its W; it reads the feature map and wants no head.

    gradient: four published ways: "both" sides; "context_detached", none through F^A; "targets_detached", none through
    F^B, positive and negative; "fixed_weight", both sides, W stays at its random start.
    """

    layout, labels, head = "pair", False, False

    def __init__(self, *, negatives: int | str = "all", reduction: str = "sum", gradient: str = "both"):
        super().__init__((), gradient)
        check_words("clapp", reduction=reduction, gradient=gradient)
        self.negatives, self.reduction = negatives, reduction

    @property
    def gradient(self) -> str:
        """Which lists carry gradient."""
        return {"context_detached": "b", "targets_detached": "a"}.get(self.way, "ab")

    def forward(self, f_a: Tensor, f_b: Tensor) -> Tensor:
        f_a, f_b = self.sides(f_a, f_b)
        return clapp(f_a, f_b, self.weight, negatives=self.negatives, reduction=self.reduction)
