"""Losses that the paper compares with, made of lightly's parts: BYOL, SimSiam, MoCo, Barlow Twins.

lightly comes with the extra `baselines`. What a loss needs beyond two embeddings (a predictor, a queue, the slow copy's
decay) it holds or declares; `sized` makes it once the embedding's width is known.
"""

from typing import Any

from torch import Tensor, nn

from ..config.grammar import imported
from ..errors import InputError
from .common import check_sized, full


def lightly(path: str, loss: str) -> Any:
    """The part of lightly at `path`, for the named loss. Raises InputError where lightly is not installed."""
    try:
        return imported(f"lightly.{path}", "part")
    except InputError:
        raise InputError(
            f"The loss {loss} is made of lightly's parts, and lightly cannot be imported; it takes "
            "pip install 'saccade[baselines]'."
        ) from None


def width(shape: tuple[int, ...]) -> int:
    """The width of an embedding of `shape`. Raises InputError for one that is not flat."""
    if len(shape) != 1:
        raise InputError(
            f"The loss got embeddings of shape {shape}; it takes flat ones, from a head such as 'flatten linear64'."
        )
    return shape[0]


class BYOL(nn.Module):
    """Half of -cos(p(zA), slow zB) - cos(p(zB), slow zA), mean over images.

    Grill et al. 2020, "Bootstrap your own latent". The slow embeddings come from a copy of the network that follows it;
    p is lightly's BYOLPredictionHead.

    Args:
        momentum: decay of the slow copy.
        hidden: width of the predictor's hidden layer.
    """

    layout, labels, head, gradient, reduction = "pair", False, True, "ab", "mean"

    def __init__(self, *, momentum: float = 0.996, hidden: int = 4096):
        super().__init__()
        self.momentum, self.hidden = momentum, hidden
        self.similarity = lightly("loss.NegativeCosineSimilarity", "byol")()

    def sized(self, shape: tuple[int, ...]) -> None:
        """Make the predictor for embeddings of `shape` (width,), from torch's global generator."""
        self.predictor = lightly("models.modules.heads.BYOLPredictionHead", "byol")(
            width(shape), self.hidden, width(shape)
        )

    def forward(self, z_a: Tensor, z_b: Tensor, slow_a: Tensor, slow_b: Tensor) -> Tensor:
        check_sized(self, "predictor")
        p_a, p_b = self.predictor(full(z_a)), self.predictor(full(z_b))
        return (self.similarity(p_a, full(slow_b).detach()) + self.similarity(p_b, full(slow_a).detach())) / 2


class SimSiam(nn.Module):
    """Half of -cos(p(zA), zB) - cos(p(zB), zA), no gradient through the second of each, mean over images.

    Chen and He 2021, "Exploring simple siamese representation learning"; p is lightly's SimSiamPredictionHead.

    Args:
        hidden: width of the predictor's hidden layer.
    """

    layout, labels, head, gradient, reduction = "pair", False, True, "ab", "mean"

    def __init__(self, *, hidden: int = 512):
        super().__init__()
        self.hidden = hidden
        self.similarity = lightly("loss.NegativeCosineSimilarity", "simsiam")()

    def sized(self, shape: tuple[int, ...]) -> None:
        """Make the predictor for embeddings of `shape` (width,), from torch's global generator."""
        self.predictor = lightly("models.modules.heads.SimSiamPredictionHead", "simsiam")(
            width(shape), self.hidden, width(shape)
        )

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        check_sized(self, "predictor")
        z_a, z_b = full(z_a), full(z_b)
        p_a, p_b = self.predictor(z_a), self.predictor(z_b)
        return (self.similarity(p_a, z_b.detach()) + self.similarity(p_b, z_a.detach())) / 2


class MoCo(nn.Module):
    """InfoNCE of view A against the slow copy's view B, with a queue of its earlier embeddings as negatives.

    He et al. 2020, "Momentum contrast"; lightly's NTXentLoss with its memory bank. View B itself carries no gradient; a
    call with gradients puts the slow copy's embeddings in the queue.

    Args:
        momentum: decay of the slow copy.
        temperature: of the softmax over cosines.
        queue: embeddings in it; at first random directions. It is saved with the run.
    """

    layout, labels, head, gradient, reduction = "pair", False, True, "a", "mean"

    def __init__(self, *, momentum: float = 0.999, temperature: float = 0.07, queue: int = 4096):
        super().__init__()
        self.momentum, self.temperature, self.queue = momentum, temperature, queue
        self.kind = lightly("loss.NTXentLoss", "moco")

    def sized(self, shape: tuple[int, ...]) -> None:
        """Make the queue for embeddings of `shape` (width,), from torch's global generator."""
        self.contrast = self.kind(self.temperature, memory_bank_size=(self.queue, width(shape)))
        bank = self.contrast.memory_bank
        for name, buffer in list(bank.named_buffers()):
            bank.register_buffer(name, buffer, persistent=True)  # lightly leaves them out of what is saved

    def forward(self, z_a: Tensor, z_b: Tensor, slow_a: Tensor, slow_b: Tensor) -> Tensor:
        check_sized(self, "contrast")
        return self.contrast(full(z_a), full(slow_b).detach())


class BarlowTwins(nn.Module):
    """Cross-correlation of the two views' embeddings against the identity, lightly's BarlowTwinsLoss.

    Zbontar et al. 2021, "Barlow Twins: self-supervised learning via redundancy reduction".

    Args:
        redundancy: weight of the terms off the diagonal, lambda.
    """

    layout, labels, head, gradient, reduction = "pair", False, True, "ab", "mean"

    def __init__(self, *, redundancy: float = 0.005):
        super().__init__()
        self.correlation = lightly("loss.BarlowTwinsLoss", "barlow-twins")(lambda_param=redundancy)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return self.correlation(full(z_a), full(z_b))
