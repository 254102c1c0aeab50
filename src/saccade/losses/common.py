"""What several losses share: full precision, the next images of the batch, draws that belong to a step."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import draws
from ..config.names import LOSSES
from ..errors import InputError


def full(x: Tensor) -> Tensor:
    """`x` in at least float32: sums of distances lose too much in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def check_negatives(negatives: int | str, batch: int, one_less: bool = False) -> None:
    """Raise InputError unless `negatives` is "all" or between 1 and the others of the batch, or where it counts `one_less`."""
    least, most = 1 + one_less, batch - 1 + one_less
    if negatives != "all" and not (type(negatives) is int and least <= negatives <= most):
        raise InputError(
            f"The loss wants negatives={negatives}, and a batch of {batch} images takes all or {least} to {most}."
        )


def check_words(loss: str, **words: str) -> None:
    """Raise InputError for an option that is none of the words that `config.names` lists for the loss."""
    for name, word in words.items():
        option = LOSSES[loss].options[name]
        if not option.valid(word):
            raise InputError(f"The loss {loss} has {name}={word!r}; it takes {option.accepts}.")


def check_pair(z_a: Tensor, z_b: Tensor, *, flat: bool = True, least: int = 1) -> None:
    """Raise InputError unless both lists have the same shape, (batch, width) or (batch, channels, ...) where not `flat`, with
    at least `least` images."""
    axes = z_a.ndim == 2 if flat else z_a.ndim >= 2
    if z_a.shape != z_b.shape or not axes or len(z_a) < least:
        raise InputError(
            f"The loss got embeddings of shapes {tuple(z_a.shape)} and {tuple(z_b.shape)}; it takes two lists of one shape, (batch, "
            f"{'width' if flat else 'channels, ...'}), of at least {least} image{'s' * (least > 1)}."
        )


def there(x: Tensor, device: torch.device) -> Tensor:
    """What the processor has drawn, on the device: from pinned memory, of which a GPU takes its copy in its own time."""
    return (
        x.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda" and x.device.type == "cpu"
        else x.to(device)
    )


def following(z: Tensor, count: int) -> Tensor:
    """The `count` rows after each row, wrapping around: (batch, width) gives (batch, width, count).

    >>> following(torch.tensor([[0], [1], [2]]), 2).squeeze(1).tolist()
    [[1, 2], [2, 0], [0, 1]]
    """
    return torch.cat([z[1:], z[:count]]).unfold(0, count, 1)


def l1_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|_1 of all rows, (n, width) and (m, width), as (n, m), without a tensor of all n x m x width differences.

    >>> l1_distances(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 2.0], [0.0, 1.0]])).tolist()
    [[3.0, 0.0]]
    """
    return torch.cdist(a, b, p=1) if a.device.type == "cpu" else Distances.apply(a, b)


class Distances(torch.autograd.Function):
    """`torch.cdist(a, b, p=1)` whose backward pass takes some rows of a at a time: on a GPU torch's own makes the tensor of
    all differences. The derivative at a tie is 0."""

    block = 1 << 22  # differences at a time

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return torch.cdist(a, b, p=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, error):
        a, b = ctx.saved_tensors
        to_a, to_b = torch.zeros_like(a), torch.zeros_like(b)
        step = max(1, Distances.block // b.numel())
        for rows in (slice(start, start + step) for start in range(0, len(a), step)):
            moves = (a[rows, None] - b).sign_().mul_(error[rows, :, None])  # (rows, m, width)
            if ctx.needs_input_grad[0]:
                to_a[rows] = moves.sum(1)
            to_b -= moves.sum(0)
        return to_a, to_b


def check_grid(rows: int, columns: int, batch: int) -> None:
    """Raise InputError for a grid of patches that holds no positive pair, two rows apart, or a batch of one image."""
    if rows < 3 or batch < 2:
        raise InputError(
            f"The loss got {batch} images cut into {rows}x{columns} patches; it takes at least 2 images and 3 rows, "
            "which larger views have (size=64 gives 7x7)."
        )


def check_sized(loss: nn.Module, part: str) -> None:
    """Raise InputError unless `sized` has made the loss's `part`."""
    if not hasattr(loss, part):
        raise InputError(
            f"The loss {type(loss).__name__} has no weights yet; call its sized(shape) with the shape of one image's "
            "features or embedding."
        )


class Drawing(nn.Module):
    """A loss that draws its negatives.

    A site calls `draw` before each evaluation, so that one step's draws are the same whenever it is looked at; without
    such a call they come from torch's global generator.
    """

    _key: tuple[int, int] | None = None

    def draw(self, seed: int, step: int) -> None:
        """Key the draws of the calls that follow."""
        self._key = (seed, step)

    def generator(self) -> torch.Generator | None:
        """The generator of one call's draws, on the processor."""
        return None if self._key is None else draws.generator(self._key[0], "negatives", self._key[1])
