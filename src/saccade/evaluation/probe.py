"""Probe any layer of an encoder: features once, a simple classifier on each layer's, one result a layer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws, networks, views
from ..config.run import TrainConfig
from ..config.view_names import steady
from ..data import ImageSet
from ..errors import InputError, whole
from .features import features, pooled_grid
from .knn import knn_accuracy
from .linear import accuracy, fit_adam, fit_exact

PROTOCOLS = ("exact", "paper", "knn")
POOL_TO = 4096  # features a layer, for the exact probe


@dataclass(frozen=True)
class ProbeResult:
    """One row of a table: which layer, read how, on how much data, and the test accuracy in percent."""

    layer: int
    features: str  # such as "64x8x8 = 4096" or "512x4x4, average-pooled to 512x2x2 = 2048"
    protocol: str
    train_size: int
    test_size: int
    accuracy: float
    seed: int
    details: dict[str, Any] = field(default_factory=dict)  # the protocol's own: epochs and rate, strength, k

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(
    encoder: Iterable[nn.Module],
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    layers: Sequence[int],
    protocol: str = "exact",
    epochs: int = 400,
    rate: float = 1e-3,
    batch: int = 500,
    k: int = 20,
    deform_train: Callable[[Tensor, Tensor], Tensor] | None = None,
    deform_test: Callable[[Tensor, Tensor], Tensor] | None = None,
    seed: int = 0,
    precision: str = "float32",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[ProbeResult]:
    """Fit a probe on each layer's output for the training set and score it on the test set, never the other way round.

    Protocols: "exact" (`fit_exact`, on features pooled to at most 4,096 a layer), "paper" (`fit_adam` on all features
    with `epochs`, `rate` and `batch`), "knn" (cosine, `k` neighbours, on all features). The number of classes is the
    largest training label plus 1.

    Args:
        layers: outputs to probe; k is that of the encoder's k-th layer, counted from 1, and 0 the pixels.
        deform_train, deform_test: deform the images (see `features` and `seen`).
        seed: of the held-out rows ("exact") or of initial weights and order ("paper").
        precision: of the encoder, and of the paper protocol's matrix products: float32 or bfloat16.
        progress: called with (what, done, total).

    Raises:
        InputError: for sets without labels, test labels that the training set does not have, an unknown protocol,
            layer or precision, epochs or a batch below 1, a rate that is not above 0 and at most 1e6.
        RunError: where the protocol paper's weights are no longer finite.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: got {protocol!r}, expected one of {', '.join(PROTOCOLS)}.")
    for name, value in (("epochs", epochs), ("batch", batch)):
        whole(name, value, 1, 2**31)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= 1e6:
        raise InputError(f"rate is {rate!r}; it takes a number above 0 and at most 1e+06.")
    modules, pool_to = list(encoder), POOL_TO if protocol == "exact" else None
    wanted = list(dict.fromkeys(layers)) if isinstance(layers, Iterable) else []
    if not wanted or not all(isinstance(layer, Integral) and 0 <= layer <= len(modules) for layer in wanted):
        raise InputError(
            f"layers: got {layers!r}, expected a list of whole numbers from 0 (the pixels) to {len(modules)}."
        )
    wanted = [int(layer) for layer in wanted]
    classes = class_count(train_set, test_set)
    train_y, test_y = _labels(train_set), _labels(test_set)
    if test_set.shape != train_set.shape:
        raise InputError(
            f"{test_set.name}: images of {test_set.shape}, expected {train_set.shape}, those of {train_set.name}."
        )
    first = torch.zeros(1, dtype=torch.long)
    shape = train_set.shape if deform_train is None else tuple(deform_train(train_set.batch(first), first).shape[1:])
    shapes = networks.shapes(modules, shape)

    def reporter(what: str) -> Callable[[int, int], None] | None:
        return partial(progress, what) if progress else None

    results = []
    # pooled features of all layers fit in memory and need one pass; unpooled ones are made for one layer at a time
    for group in [wanted] if pool_to else [[layer] for layer in wanted]:
        train_x, test_x = (
            features(modules, images, group, pool_to=pool_to, deform=deform, precision=precision, progress=report)
            for images, deform, report in (
                (train_set, deform_train, reporter(f"features of {train_set.name}")),
                (test_set, deform_test, reporter(f"features of {test_set.name}")),
            )
        )
        for layer in group:
            x, held = train_x.pop(layer), test_x.pop(layer)
            y, held_y = train_y.to(x.device), test_y.to(held.device)
            report = reporter(f"probe of layer {layer}")
            details: dict[str, Any] = {"precision": precision}
            if protocol == "knn":
                score = knn_accuracy(x, y, held, held_y, k=k)
                details |= {"k": k, "metric": "cosine"}
            elif protocol == "exact":
                fit = fit_exact(x, y, classes, seed=seed, progress=report)
                score = accuracy(fit.probe, held, held_y)
                details |= {"strength": fit.strength, "held_out": fit.held_out}
            else:
                options: dict[str, Any] = {"epochs": epochs, "rate": rate, "batch": batch}
                head = fit_adam(x, y, classes, **options, seed=seed, precision=precision, progress=report)
                score = accuracy(head, held, held_y)
                details |= options
            what = described(shapes[layer], pool_to)
            results.append(ProbeResult(layer, what, protocol, len(x), len(held), score, seed, details))
    return results


def deformation(policy: str, seed: int = 0, size: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Deformed test images: each picture's one view, drawn once and for all from the seed and its place in the set."""
    deform = views.parse(policy, size)
    base = draws.key(seed, "deformed test")
    return lambda images, index: deform(images, draws.image_keys(base, index).to(images.device))


def seen(trained: TrainConfig, views: str | None = None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """`deformation` by `views`, then by what an encoder's training did to every picture alike, if anything: its size too."""
    policy = " ".join(filter(None, [views, steady(trained.views)]))
    return deformation(policy or "none", size=trained.size) if policy or trained.size else None


def class_count(train_set: ImageSet, test_set: ImageSet) -> int:
    """How many classes a probe of the one set tells apart. Raises InputError where the other's are not among them."""
    train_y, test_y = _labels(train_set), _labels(test_set)
    classes = int(train_y.max()) + 1
    if test_y.max() >= classes:
        raise InputError(
            f"{test_set.name}: label {int(test_y.max())}, expected 0 to {classes - 1}, as in {train_set.name}."
        )
    if train_set.classes and test_set.classes and train_set.classes != test_set.classes:
        raise InputError(
            f"{test_set.name} has other classes than {train_set.name} or in another order, so that their labels do not "
            "mean the same; a probe needs the same ones."
        )
    return classes


def _labels(images: ImageSet) -> Tensor:
    if images.labels is None:
        raise InputError(f"{images.name}: has no labels, and a probe needs them.")
    return images.labels


def described(shape: Sequence[int], pool_to: int | None) -> str:
    """A layer's features, from one image's shape, in words: `ProbeResult.features`."""

    def product(sizes: Sequence[int]) -> str:
        return "x".join(map(str, sizes))

    grid = pooled_grid(shape, pool_to)
    if grid:
        pooled = (shape[0], *grid)
        return f"{product(shape)}, average-pooled to {product(pooled)} = {torch.Size(pooled).numel()}"
    return f"{product(shape)} = {torch.Size(shape).numel()}" if len(shape) > 1 else product(shape)
