"""Activations by layer in the form that Brain-Score asks of a model.

Brain-Score compares models with recordings from the visual system. What it takes of a model (its
`ActivationsExtractorHelper` and `ModelCommitment`, github.com/brain-score/vision) is a callable of stimuli and layers
that returns a `NeuroidAssembly`: an xarray.DataArray of (presentation, neuroid) with coordinates for both.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.folder import opened
from ..errors import InputError
from ..evaluation.features import device_of
from ..networks import evaluating

_ASSEMBLIES = (  # where Brain-Score keeps the class now and kept it before; plain xarray does without it
    ("brainscore_core.supported_data_standards.brainio.assemblies", "NeuroidAssembly"),
    ("brainio.assemblies", "NeuroidAssembly"),
    ("xarray", "DataArray"),
)


class BrainScoreModel:
    """An encoder as Brain-Score's base model: `identifier`, `layers`, and a call that records them.

    `model(stimuli, layers)` gives an assembly of dims (presentation, neuroid). Stimuli are paths of pictures, a
    Brain-Score StimulusSet, or pictures themselves, whole numbers from 0 to 255 (n, channels, height, width). Pictures are resized to the
    encoder's (bilinear, antialiased), made grey where it takes one channel, and divided by 255. Coordinates of the
    presentations: `stimulus_path`, and the columns of a StimulusSet; of the neuroids: `neuroid_id`, `neuroid_num`,
    `model`, `layer`, `channel`, `channel_x` (the row) and `channel_y` (the column).

    Args:
        encoder: layers in order; `layers` are its children's names, in that order, as `create_feature_extractor` has them.
        shape: of one image, (channels, height, width).
        assembly: what makes the result, called (values, coords=..., dims=...); None: Brain-Score's `NeuroidAssembly`,
            or xarray's `DataArray` without Brain-Score.

    With Brain-Score installed, `ModelCommitment(identifier, activations_model=model, layers=model.layers)` takes it.

    >>> import saccade.networks
    >>> encoder = saccade.networks.build("conv4 tanh | conv8 maxpool", (3, 8, 8))
    >>> model = BrainScoreModel(encoder, (3, 8, 8), "mine", assembly=lambda values, coords, dims: (values, coords, dims))
    >>> values, coords, dims = model(torch.zeros(5, 3, 16, 16, dtype=torch.uint8), ["0", "1"])
    >>> model.layers, values.shape, dims, str(coords["neuroid_id"][1][0])
    (['0', '1'], (5, 384), ['presentation', 'neuroid'], 'mine.0.0')

    Raises InputError for layers that the encoder does not have, and where neither Brain-Score nor xarray is installed.
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        shape: tuple[int, ...],
        identifier: str,
        *,
        assembly: Callable[..., Any] | None = None,
        batch: int = 64,
    ):
        self.encoder, self.shape, self.identifier = encoder, tuple(shape), identifier
        self.layers = [name for name, _ in encoder.named_children()]
        self.assembly, self.batch = assembly, batch
        self.visual_degrees: float | None = None
        self._extractor = self  # by this name and the next two Brain-Score's own parts reach into a model
        self._batch_activations_hooks: dict[int, Callable] = {}
        self._stimulus_set_hooks: dict[int, Callable] = {}

    def __call__(
        self,
        stimuli: Any,
        layers: Sequence[str],
        stimuli_identifier: str | None = None,
        number_of_trials: int = 1,
        require_variance: bool = False,
    ) -> Any:
        """Record the layers. The network answers a picture the same at every trial: one trial is given for all, and a
        request for variance is refused."""
        if require_variance:
            raise InputError(
                "require_variance is true, and the encoder answers a picture always alike; it takes false."
            )
        if isinstance(stimuli, np.ndarray | Tensor):
            pictures = torch.as_tensor(stimuli)
            whole = pictures.dtype != torch.bool and not pictures.is_floating_point() and not pictures.is_complex()
            levels = pictures.to(torch.int64) if whole else pictures  # some kinds cannot be compared
            if not whole or pictures.ndim != 4 or ((levels < 0) | (levels > 255)).any():
                raise InputError(
                    f"The stimuli are {str(pictures.dtype).removeprefix('torch.')} of shape {tuple(pictures.shape)}; it takes "
                    "pictures of whole numbers from 0 to 255 (n, channels, height, width)."
                )
            pictures = levels.to(torch.uint8)
            return self._recorded([str(number) for number in range(len(pictures))], layers, lambda part: pictures[part])
        if hasattr(stimuli, "get_stimulus"):
            return self.from_stimulus_set(stimuli, layers, stimuli_identifier)
        return self.from_paths(stimuli, layers, stimuli_identifier)

    def from_paths(
        self, stimuli_paths: Sequence[str | Path], layers: Sequence[str], stimuli_identifier: Any = None
    ) -> Any:
        """Record the layers for pictures in files."""
        paths = [str(path) for path in stimuli_paths]

        def pictures(part: slice) -> list[Tensor]:
            return [_read(path) for path in paths[part]]

        return self._recorded(paths, layers, pictures)

    def from_stimulus_set(self, stimulus_set: Any, layers: Sequence[str], stimuli_identifier: Any = None) -> Any:
        """Record the layers for a StimulusSet; its columns become coordinates of the presentations."""
        for hook in list(self._stimulus_set_hooks.values()):
            stimulus_set = hook(stimulus_set)
        paths = [str(stimulus_set.get_stimulus(one)) for one in stimulus_set["stimulus_id"]]
        found = self.from_paths(paths, layers)
        for column in stimulus_set.columns:
            if column != "stimulus_path":
                found[column] = ("presentation", list(stimulus_set[column]))
        return found

    def register_batch_activations_hook(self, hook: Callable[[dict], dict]) -> "_Handle":
        """Have `hook(activations)`, a mapping from layers to arrays (batch, ...), replace each batch's activations."""
        return _Handle(self._batch_activations_hooks, hook)

    def register_stimulus_set_hook(self, hook: Callable[[Any], Any]) -> "_Handle":
        """Have `hook(stimulus_set)` replace each StimulusSet before it is seen."""
        return _Handle(self._stimulus_set_hooks, hook)

    def set_visual_degrees(self, visual_degrees: float) -> None:
        """How many degrees of the visual field a picture spans; kept, and used by nothing here."""
        self.visual_degrees = visual_degrees

    def _recorded(self, paths: list[str], layers: Sequence[str], pictures: Callable[[slice], Any]) -> Any:
        layers = list(layers)
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown or not layers or not paths:
            raise InputError(
                f"layers are {layers} and stimuli {len(paths)}; it takes some of {', '.join(self.layers)}."
            )
        batches: list[dict[str, np.ndarray]] = []
        for start in range(0, len(paths), self.batch):
            found: dict[str, np.ndarray] = OrderedDict()
            x = torch.stack([self._fitted(one) for one in pictures(slice(start, start + self.batch))])
            x = x.to(device=device_of([self.encoder]))
            with torch.no_grad(), evaluating(self.encoder):
                for name, layer in self.encoder.named_children():
                    x = layer(x)
                    if name in layers:
                        found[name] = x.cpu().numpy()
            found = OrderedDict((name, found[name]) for name in layers)
            for hook in list(self._batch_activations_hooks.values()):
                found = hook(found)
            batches.append(found)
        values = {name: np.concatenate([one[name] for one in batches]) for name in layers}
        coords: dict[str, tuple[str, Any]] = {"stimulus_path": ("presentation", paths)}
        coords |= {name: ("neuroid", np.concatenate(parts)) for name, parts in self._neuroids(values).items()}
        flat = np.concatenate([one.reshape(len(one), -1) for one in values.values()], 1)
        return (self.assembly or _assembly())(flat, coords=coords, dims=["presentation", "neuroid"])

    def _neuroids(self, values: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """The neuroids' coordinates, a piece for each layer; a flat layer's units have no place."""
        coords: dict[str, list[Any]] = {}
        for layer, one in values.items():
            units = one[0].size
            places = np.indices(one.shape[1:]).reshape(one.ndim - 1, -1).astype(float)
            missing = np.full((3 - min(len(places), 3), units), np.nan)
            channel, x, y = np.concatenate([places[:3], missing])
            pieces = {"neuroid_num": np.arange(units), "model": [self.identifier] * units, "layer": [layer] * units}
            pieces |= {"channel": channel, "channel_x": x, "channel_y": y}
            pieces |= {"neuroid_id": [f"{self.identifier}.{layer}.{number}" for number in range(units)]}
            for name, piece in pieces.items():
                coords.setdefault(name, []).append(piece)
        return coords

    def _fitted(self, picture: Tensor) -> Tensor:
        """A picture (channels, height, width), uint8, as the encoder takes it."""
        from torchvision.transforms.v2.functional import resize, rgb_to_grayscale

        x = picture.float() / 255
        if x.shape[0] == 3 and self.shape[0] == 1:
            x = rgb_to_grayscale(x)
        if x.shape[1:] != self.shape[1:]:
            x = resize(x, list(self.shape[1:]), antialias=True).clamp(0, 1)
        return x.expand(self.shape)


class _Handle:
    """What a registered hook is taken out of use by, for a while or for good."""

    _ids = count()

    def __init__(self, hooks: dict[int, Callable], hook: Callable):
        self.hooks, self.hook, self.id = hooks, hook, next(self._ids)
        self.enable()

    def enable(self) -> None:
        self.hooks[self.id] = self.hook

    def disable(self) -> None:
        self.hooks.pop(self.id, None)

    remove = disable


def _assembly() -> Callable[..., Any]:
    for module, name in _ASSEMBLIES:
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    raise InputError(
        "Activations are given as Brain-Score's assemblies, and neither Brain-Score nor xarray is installed; "
        "it takes pip install xarray."
    )


def _read(path: str) -> Tensor:
    """A picture file as uint8 (3, height, width)."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    with opened(Path(path), f"The stimulus {path}") as picture:
        return pil_to_tensor(picture.convert("RGB"))
