"""A scikit-learn estimator: features learned without labels, inside a `Pipeline` or `cross_val_score`."""

import math
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import networks
from ..config.run import from_dict
from ..data import ImageSet
from ..errors import InputError, RunError
from ..evaluation.features import features
from ..evaluation.probe import seen
from ..losses import make, needs
from ..rules import plain
from ..training import build, train_step


class SelfSupervisedEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learns features of images without labels; `transform` gives them as rows.

    X holds images as rows of pixels (n, pixels), or as (n, height, width) or (n, height, width, channels). Bytes
    (uint8) are pixels as they are; other numbers are scaled so that the training images span black to white, and
    rounded to 256 levels; `transform` scales as `fit` did, and refuses what seems to be on another
    scale. Labels reach a loss that asks for them, such as cross-entropy, and no other.

    Args:
        image_shape: of X's rows of pixels: (height, width) or (height, width, channels). None: the grey square of as
            many pixels, or one row of pixels where no square has as many.
        layer: whose output `transform` gives, counted from 1; None: the last.
        random_state: an integer is the run's seed, as in `saccade.train`; of None or a RandomState one is drawn.

    The others are the fields of `saccade.TrainConfig` of the same names; epochs (10) and batch (50) have defaults of their own. A
    batch larger than X is all of X.

    Attributes: `encoder_`, the layers as an `nn.Sequential`; `config_`, the configuration that was trained;
    `image_shape_`, (channels, height, width); `n_features_in_`.

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> X, y = load_digits(n_class=3, return_X_y=True)  # 8x8 pixels, 0 to 16
    >>> encoder = SelfSupervisedEncoder(network="conv16 maxpool tanh", views="digits", epochs=2, random_state=0)
    >>> model = make_pipeline(encoder, LogisticRegression(max_iter=1000)).fit(X[:400], y[:400])
    >>> bool(model.score(X[400:], y[400:]) > 0.9), model[:-1].transform(X[:2]).shape
    (True, (2, 256))

    Raises InputError, which is a ValueError, for what cannot be trained, and RunError where training diverges.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, ...] | None = None,
        layer: int | None = None,
        views: str = "paper",
        size: int | None = None,
        network: str = "cifar",
        head: str | None = None,
        loss: str = "hinge",
        schedule: str = "e2e",
        rule: str = "bp",
        optimizer: str = "adam",
        rate: float = 1e-4,
        epochs: float = 10,
        batch: int = 50,
        random_state: Any = None,
        device: str = "auto",
        precision: str = "auto",
    ):
        self.image_shape = image_shape
        self.layer = layer
        self.views = views
        self.size = size
        self.network = network
        self.head = head
        self.loss = loss
        self.schedule = schedule
        self.rule = rule
        self.optimizer = optimizer
        self.rate = rate
        self.epochs = epochs
        self.batch = batch
        self.random_state = random_state
        self.device = device
        self.precision = precision

    def fit(self, X: Any, y: Any = None) -> "SelfSupervisedEncoder":
        X = validate_data(self, X, allow_nd=True, ensure_min_samples=2)
        self.image_shape_ = self._shape(X)
        self._bytes = X.dtype == np.uint8
        self._range = (0.0, 255.0) if self._bytes else (float(X.min()), float(X.max()))
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        own = ("image_shape", "layer", "random_state")
        options = {name: value for name, value in self.get_params().items() if name not in own}
        options = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
        config = from_dict(options | {"data": "X", "seed": int(seed)}, "SelfSupervisedEncoder")
        self.config_ = replace(config, batch=min(config.batch, len(X)))
        images = self._images(X)
        if needs(make(self.loss)).labels:
            if y is None:
                raise InputError(
                    f"The loss {self.loss} learns from labels, and y is None; it takes one label an image."
                )
            images = ImageSet(images.images, torch.from_numpy(np.unique(y, return_inverse=True)[1]), name="X")
        model = build(self.config_, images)
        images = images.to(model.device)
        if self.layer is not None and self.layer not in range(1, len(model.encoder) + 1):
            raise InputError(f"layer is {self.layer}; the network {self.network} has layers 1 to {len(model.encoder)}.")
        for step in range(model.total_steps):
            train_step(model, images, step)
        if model.broken.any():
            raise RunError("The loss or the weights are no longer finite; a lower rate may help.")
        plain(model.encoder).requires_grad_(False)
        self.encoder_ = model.encoder.float().cpu().eval()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features of one layer for every image: float32 (n, features), flattened."""
        check_is_fitted(self)
        images = self._images(validate_data(self, X, allow_nd=True, reset=False))
        layer = len(self.encoder_) if self.layer is None else self.layer
        return features(self.encoder_, images, [layer], deform=seen(self.config_))[layer].numpy()

    def _shape(self, X: np.ndarray) -> tuple[int, int, int]:
        """(channels, height, width) of the images in X."""
        shape: Any = self.image_shape
        if X.ndim > 2:
            shape = X.shape[1:]
        elif shape is None:
            side = math.isqrt(X.shape[1])
            shape = (side, side) if side * side == X.shape[1] else (1, X.shape[1])
        sizes = isinstance(shape, tuple | list) and all(isinstance(n, Integral) for n in shape)
        if not sizes or len(shape) not in (2, 3) or math.prod(shape) != math.prod(X.shape[1:]):
            raise InputError(
                f"image_shape is {shape} and X is {X.shape}; it takes images (n, height, width) or (n, height, width, "
                "channels), or rows of as many pixels as image_shape has."
            )
        height, width, channels = (*shape, 1)[:3]
        if height in (1, 3) and width > 3 and channels > 4 and (X.ndim > 2 or width == channels):
            raise InputError(f"X has images of shape {tuple(shape)}, channels first as it seems; it takes them last.")
        return channels, height, width

    def _images(self, X: np.ndarray) -> ImageSet:
        channels, height, width = self.image_shape_
        if math.prod(X.shape[1:]) != channels * height * width:
            raise InputError(f"X is {X.shape}; it takes images of {height}x{width} in {channels} channels, as in fit.")
        low, high = self._range
        least, most = X.min(), X.max()
        if self._bytes and X.dtype.kind == "f" and (least < 0 or 0 < most <= 1):
            raise InputError(
                f"X has numbers from {least:g} to {most:g}, and fit saw bytes; it takes numbers from 0 to 255."
            )
        if X.dtype == np.uint8 and (low < 0 or high <= 1) and most > high:
            raise InputError(
                f"X is uint8 up to {most}, and fit saw numbers from {low:g} to {high:g}; it takes such, too."
            )
        levels = np.rint((X.astype(np.float64) - low) * (255 / ((high - low) or 1))).clip(0, 255).astype(np.uint8)
        pixels = levels.reshape(len(X), height, width, channels).transpose(0, 3, 1, 2)
        return ImageSet(torch.from_numpy(np.ascontiguousarray(pixels)), name="X")

    @property
    def _n_features_out(self) -> int:
        channels, *sides = self.image_shape_
        shape = (channels, *((self.size, self.size) if self.size else sides))
        return math.prod(networks.shapes(self.encoder_[: self.layer], shape)[-1])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # features are float32
        tags.input_tags.three_d_array = True
        return tags
