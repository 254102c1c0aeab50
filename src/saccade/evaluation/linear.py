"""Linear probes: the paper's (Adam for a number of epochs) and an exact one (regularized regression to convergence)."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import draws
from ..errors import InputError, RunError

STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5)  # the middle one comes first
# Rows at a time: on a processor a block of 500 x 4,096 features stays in the cache between its two matrix products; a GPU
# has more to do at once.
_ROWS, _ROWS_ELSEWHERE = 500, 1 << 14


def accuracy(probe: nn.Linear, x: Tensor, y: Tensor) -> float:
    """Percent of the rows of `x` (n, d) whose largest output is at the label `y` (n,).

    >>> probe = nn.Linear(2, 2, bias=False)
    >>> _ = probe.weight.data.copy_(torch.eye(2))
    >>> accuracy(probe, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    50.0
    """
    with torch.no_grad():
        right = sum((probe(rows).argmax(1) == labels).sum() for rows, labels in zip(*_blocks(x, y), strict=True))
    return 100.0 * float(right) / len(x)


def fit_adam(
    x: Tensor | Callable[[int], Tensor],
    y: Tensor,
    classes: int,
    *,
    epochs: int = 400,
    rate: float = 1e-3,
    batch: int = 500,
    seed: int = 0,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> nn.Linear:
    """The paper's probe: a linear layer with bias, mean cross-entropy, Adam for a fixed number of epochs.

    Args:
        x: features (n, d), float32, used as they are; or a function from an epoch, counted from 0, to those of that epoch.
        y: labels (n,), int64, from 0 to classes - 1.
        epochs, rate, batch: 400 epochs at 1e-3 for CIFAR; the batch is not published. The last, smaller batch is kept.
        seed: draws the initial weights and each epoch's order.
        precision: "bfloat16" rounds the features, and what goes into the two matrix products and comes out of them (logits,
            the weight's gradient); sums, weights, loss and Adam's state stay float32.
        progress: called with (epochs done, epochs) after each epoch.

    Raises:
        InputError: for labels outside the classes, or an unknown precision.
        RunError: where the weights are no longer finite.
    """
    again, x = (x, x(0)) if callable(x) else (None, x)
    _check(x, y, classes)
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision: got {precision!r}, expected float32 or bfloat16.")
    probe = nn.Linear(x.shape[1], classes, device=x.device, dtype=x.dtype)
    bound = x.shape[1] ** -0.5  # PyTorch's default for nn.Linear, drawn from our own generator
    generator = draws.generator(seed, "probe", "weights")
    with torch.no_grad():
        for parameter in (probe.weight, probe.bias):
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    adam = torch.optim.Adam(probe.parameters(), lr=rate, fused=True)
    dtype = torch.bfloat16 if precision == "bfloat16" else x.dtype
    x = x.to(dtype)
    targets = _one_hot(y, classes, probe.weight.dtype)
    buffer = x.new_empty(min(batch, len(x)), x.shape[1])  # index_select into it is 4 times as fast as x[rows]
    for epoch in range(epochs):
        if again is not None and epoch:
            x = again(epoch).to(dtype)
        order = torch.randperm(len(x), generator=draws.generator(seed, "probe", epoch)).to(x.device)
        for rows in order.split(batch):
            inputs = torch.index_select(x, 0, rows, out=buffer[: len(rows)])
            logits = (inputs @ probe.weight.detach().to(x.dtype).T).to(targets.dtype) + probe.bias.detach()
            errors = (_log_softmax(logits).exp_() - targets[rows]) / len(rows)  # the gradient of the mean cross-entropy
            probe.weight.grad = (errors.T.to(x.dtype) @ inputs).to(targets.dtype)
            probe.bias.grad = errors.sum(0)
            adam.step()
        if progress:
            progress(epoch + 1, epochs)
    if not all(bool(p.isfinite().all()) for p in probe.parameters()):
        raise RunError(
            f"The probe's weights are not finite after {epochs} epochs at rate {rate:g}. A lower rate may help."
        )
    return probe.requires_grad_(False)


class ExactFit(NamedTuple):
    """`held_out` maps each strength that was tried to its accuracy (percent) on the held-out training rows."""

    probe: nn.Linear
    strength: float
    held_out: dict[float, float]


def fit_exact(
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    holdout: float | Tensor = 0.1,
    seed: int = 0,
    tolerance: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> ExactFit:
    """L2-regularized multinomial regression to convergence, its strength picked on held-out training rows.

    Minimizes mean cross-entropy + strength / 2 * |W|^2 over W and an unpenalized bias, on features brought to mean 0
    and variance 1 over all rows of `x`; the scaling is folded back into the layer that is returned. (scikit-learn's
    LogisticRegression on the same scaled features has the same optimum at C = 1 / (n * strength).)

    The strengths are tried on the rows not held out, from the middle one down, then, if none of those was better, up;
    two in a row that are no better end a direction. The best, of equals the strongest, is fitted again on all rows.
    The result depends on the seed only by which rows are held out. A warning says where the best is the weakest of
    several, so that weaker ones might be better.

    Args:
        x: features (n, d), float32 or float64; the work is done in that type, with one scaled copy of `x`.
        y: labels (n,), int64, from 0 to classes - 1.
        holdout: the fraction of rows to hold out, drawn by the seed, or the indices of those rows.
        tolerance: the last fit stops where the norm of the objective's gradient is at most tolerance * strength * |W|.
            The penalty makes the objective strongly convex, so W is then off by about tolerance * |W| at most (in
            scaled features). The fits that pick a strength stop at ten times as much. A warning says where rounding
            ends a fit before that.
        progress: called with (fits done, fits at most) after each fit.

    Raises:
        InputError: for labels outside the classes, no or negative strengths, or a holdout that leaves no rows.
    """
    _check(x, y, classes)
    if not strengths or min(strengths) <= 0:
        raise InputError(f"strengths: got {tuple(strengths)}, expected one or more positive numbers.")
    order, kept = _held_out_last(len(x), holdout, seed)
    scale, mean = torch.std_mean(x, 0, correction=0)
    scale = torch.where(scale > 1e-6 * mean.abs(), scale, torch.ones_like(scale))  # a constant feature stays 0
    z = x[order.to(x.device)]
    z.sub_(mean).div_(scale)
    labels = y[order.to(y.device)]
    basis = None
    if len(z) < z.shape[1]:  # the penalty keeps the weights in the span of the rows, so fit in its n coordinates
        basis, triangle = torch.linalg.qr(z.T)
        z = triangle.T.contiguous()
    gram, targets = _gram(z), _one_hot(labels, classes, z.dtype)

    path = sorted(set(strengths), reverse=True)
    middle = picked = path[len(path) // 2]
    best_theta = x.new_zeros(classes, z.shape[1] + 1)
    held_out: dict[float, float] = {}
    for branch in (path[path.index(middle) :], path[: path.index(middle)][::-1]) if len(path) > 1 else ():
        if picked != middle:
            break  # weaker was better: no need to look at the stronger ones
        theta, worse = best_theta, 0
        for strength in branch:
            theta = _minimize(z[:kept], targets[:kept], theta, strength, gram, 10 * tolerance)
            held_out[strength] = accuracy(_layer(theta), z[kept:], labels[kept:])
            if progress:
                progress(len(held_out), len(path) + 1)
            if (held_out[strength], strength) >= (held_out[picked], picked):
                picked, best_theta, worse = strength, theta, 0
            else:
                worse += 1
            if worse == 2:
                break
    if len(path) > 1 and picked == path[-1]:
        warnings.warn(f"The probe's best strength, {picked:g}, is the weakest of those tried.", stacklevel=2)
    theta = _minimize(z, targets, best_theta, picked, gram, tolerance)
    if progress:
        progress(len(path) + 1, len(path) + 1)
    weight = (theta[:, :-1] if basis is None else theta[:, :-1] @ basis.T) / scale
    return ExactFit(_layer(torch.cat([weight, theta[:, -1:] - (weight @ mean)[:, None]], 1)), picked, held_out)


def _check(x: Tensor, y: Tensor, classes: int) -> None:
    if x.dim() != 2 or y.shape != x.shape[:1] or not len(x):
        raise InputError(
            f"probe: got features {tuple(x.shape)} and labels {tuple(y.shape)}, expected (n, d) and (n,), n at least 1."
        )
    if y.min() < 0 or y.max() >= classes:
        raise InputError(f"labels: got {int(y.min())} to {int(y.max())}, expected 0 to {classes - 1}.")


def _blocks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    rows = _ROWS if tensors[0].device.type == "cpu" else _ROWS_ELSEWHERE
    return [tensor.split(rows) for tensor in tensors]


def _one_hot(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    return torch.eye(classes, dtype=dtype, device=y.device)[y]


def _log_softmax(logits: Tensor) -> Tensor:
    """As torch's, which starts all threads even for 500 x 10 numbers: milliseconds each time where cores are shared."""
    shifted = logits - logits.amax(1, keepdim=True)
    return shifted - shifted.exp().sum(1, keepdim=True).log_()


def _layer(theta: Tensor) -> nn.Linear:
    """The nn.Linear of weights and bias side by side, (classes, d + 1)."""
    layer = nn.Linear(theta.shape[1] - 1, len(theta), device=theta.device, dtype=theta.dtype).requires_grad_(False)
    layer.weight.copy_(theta[:, :-1])
    layer.bias.copy_(theta[:, -1])
    return layer


def _held_out_last(n: int, holdout: float | Tensor, seed: int) -> tuple[Tensor, int]:
    """An order of the rows with the held-out ones last, and how many come before them."""
    if isinstance(holdout, Tensor):
        held = torch.zeros(n, dtype=torch.bool)
        held[holdout.cpu()] = True
        order, kept = held.long().sort(stable=True).indices, n - int(held.sum())
    else:
        order = torch.randperm(n, generator=draws.generator(seed, "probe", "holdout"))
        kept = n - round(n * holdout)
    if not 0 < kept < n:
        raise InputError(f"holdout: {n - kept} of {n} rows, expected at least 1 held out and 1 kept.")
    return order, kept


def _gram(z: Tensor) -> Tensor:
    """Lower blocks of z^T z / n (d, d): what a Cholesky factorization reads."""
    d = z.shape[1]
    step = max(256, d // 8)
    gram = z.new_zeros(d, d)
    for left in range(0, d, step):
        gram[left:, left : left + step] = z[:, left:].T @ z[:, left : left + step] / len(z)
    return gram


def _objective(z: Tensor, targets: Tensor, theta: Tensor, strength: float) -> tuple[float, Tensor, float]:
    """Mean cross-entropy + strength / 2 |W|^2, its gradient (classes, d + 1), and the mean of p (1 - p)."""
    weight, bias = theta[:, :-1], theta[:, -1]
    gradient = torch.zeros_like(theta)
    loss, spread = theta.new_zeros((), dtype=torch.float64), theta.new_zeros(())
    for rows, wanted in zip(*_blocks(z, targets), strict=True):
        logs = _log_softmax(rows @ weight.T + bias)
        loss -= (logs * wanted).sum(dtype=torch.float64)
        errors = logs.exp_()
        spread += (errors * (1 - errors)).sum()
        errors -= wanted
        gradient[:, :-1] += errors.T @ rows
        gradient[:, -1] += errors.sum(0)
    gradient /= len(z)
    gradient[:, :-1] += strength * weight
    value = float(loss) / len(z) + 0.5 * strength * float(weight.double().square().sum())
    return value, gradient, float(spread) / (len(z) * len(theta))


def _minimize(z: Tensor, targets: Tensor, theta: Tensor, strength: float, gram: Tensor, tolerance: float) -> Tensor:
    """L-BFGS (Nocedal 1980) from `theta`, started by the inverse of an approximate Hessian.

    Where all classes are equally likely the Hessian is, on the space where it is not zero (columns that sum to 0 over
    the classes), exactly gram / classes + strength; elsewhere 1 / classes becomes the mean of p (1 - p), rescaled.
    One Cholesky factorization a strength then brings the iterations from thousands to tens.
    """
    classes, d, noise = len(theta), len(gram), torch.finfo(theta.dtype).eps
    value, gradient, spread = _objective(z, targets, theta, strength)
    curvature = max(spread * classes / max(classes - 1, 1), 1e-6)
    hessian = curvature * gram
    hessian.diagonal().add_(max(strength, noise * d * curvature))  # above the rounding of the largest eigenvalue, <= d
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # steps, changes of the gradient, their inner products
    for _ in range(1000):
        left, penalty = float(gradient.norm()), strength * float(theta[:, :-1].norm())
        error = left / max(penalty, noise)
        if error <= tolerance or max(left, penalty) <= noise:  # the latter where features are constant, and W is 0
            return theta
        direction, weights = gradient.clone(), []
        for moved, changed, product in reversed(pairs):
            weights.append((moved * direction).sum() / product)
            direction -= weights[-1] * changed
        direction[:, :-1] = direction[:, :-1] @ inverse
        direction[:, -1] /= curvature
        for (moved, changed, product), weight in zip(pairs, reversed(weights), strict=True):
            direction += (weight - (changed * direction).sum() / product) * moved
        slope, step = float((gradient * direction).sum()), 1.0
        while step > 1e-4:
            next_theta = theta - step * direction
            next_value, next_gradient, _ = _objective(z, targets, next_theta, strength)
            if next_value <= value - 1e-4 * step * slope:
                break
            # near the end rounding hides the decrease: a flatter slope shows it (Hager and Zhang 2005)
            if (
                next_value <= value + noise * abs(value)
                and abs(float((next_gradient * direction).sum())) <= 0.9 * slope
            ):
                break
            step /= 2
        else:
            break  # no step lowers the objective any more: what is left is rounding
        pair = (next_theta - theta, next_gradient - gradient)
        product = (pair[0] * pair[1]).sum()
        if product > 0:
            pairs = [*pairs[-19:], (*pair, product)]
        theta, value, gradient = next_theta, next_value, next_gradient
    warnings.warn(
        f"exact probe: stopped within {100 * error:.2g} % of the optimum, strength {strength:g}.", stacklevel=3
    )
    return theta
