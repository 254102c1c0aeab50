"""An encoder as a file that other programs run: ONNX, or torch's own `.pt2`.

Both take float32 images (batch, channels, height, width) in [0, 1], any number of them, and give the last layer's
features. The file is run once and held against the encoder before it is written.
"""

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import draws
from ..errors import InputError, RunError
from ..files import write_whole

TOLERANCE = 1e-4  # of the largest difference, in units of the largest feature (float32)


def write_onnx(encoder: nn.Sequential, shape: tuple[int, ...], path: Path) -> float:
    """Write `encoder`, for images of `shape`, as ONNX; returns the largest relative difference of the file's output.

    >>> import saccade.networks, tempfile
    >>> encoder = saccade.networks.build("conv4 tanh | conv8 maxpool", (3, 8, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_onnx(encoder, (3, 8, 8), Path(folder) / "encoder.onnx") < 1e-5
    True

    Raises InputError without the packages of the extra `onnx`, or for a network that ONNX cannot say.
    """
    try:
        import onnx  # noqa: F401  (onnx and onnxscript are called by torch: missing ones are named here)
        import onnxruntime
        import onnxscript  # noqa: F401  (likewise)
    except ImportError as error:
        raise InputError(
            f"ONNX is written with onnx, onnxscript and onnxruntime, and {error.name} is not installed; "
            'it takes pip install "saccade[onnx]".'
        ) from None
    with _refusing("ONNX"):
        program = torch.onnx.export(
            encoder,
            (_images(shape, 2),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["features"],
            verbose=False,
        )
        assert program is not None
        content = program.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["features"], {"images": x.numpy()})[0])

    return _written(content, run, encoder, shape, path)


def write_pt2(encoder: nn.Sequential, shape: tuple[int, ...], path: Path) -> float:
    """Write `encoder`, for images of `shape`, as `torch.export` saves it; `torch.export.load(path).module()` runs it.

    Returns the largest relative difference of the file's output, 0 as a rule. Raises InputError for a network that
    torch.export cannot trace.
    """
    with _refusing("torch.export"):
        program = torch.export.export(encoder, (_images(shape, 2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        stream = io.BytesIO()
        torch.export.save(program, stream)
        loaded = torch.export.load(io.BytesIO(stream.getvalue())).module()
    return _written(stream.getvalue(), loaded, encoder, shape, path)


def _images(shape: tuple[int, ...], count: int) -> Tensor:
    return torch.rand(count, *shape, generator=draws.generator(0, "export"))


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """The exporters' warnings are for their authors, and whatever they raise is about the network."""
    before = logging.root.manager.disable
    try:
        logging.disable(max(before, logging.WARNING))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # exporters raise kinds of their own, which change between versions
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{what} cannot export this network ({type(error).__name__}: {reason}).") from None
    finally:
        logging.disable(before)


def _written(
    content: bytes, run: Callable[[Tensor], Tensor], encoder: nn.Sequential, shape: tuple[int, ...], path: Path
) -> float:
    difference = 0.0
    for count in (1, 3):  # other batches than the one it was traced with
        x = _images(shape, count)
        with torch.no_grad():
            expected, found = encoder(x), run(x)
        scale = float(expected.abs().max()) or 1.0
        difference = max(difference, float((found - expected).abs().max()) / scale)
    if not difference < TOLERANCE or math.isnan(difference):
        raise RunError(f"The exported encoder differs by {difference:.2g} of its largest feature; nothing is written.")
    write_whole(path, content)
    return difference
