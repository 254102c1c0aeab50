"""Self-supervised learning in deep networks by biologically plausible rules.

The functions of `saccade.api` are here by name; they are imported when first asked for, so that the command line's help
need not wait for torch.
"""

__version__ = "0.1.0"

_API = ("TrainConfig", "audit", "embed", "evaluate", "load_encoder", "load_images", "page", "probe", "train", "verify")
__all__ = [*_API, "__version__"]


def __getattr__(name: str):
    if name == "TrainConfig":  # needs no torch, and help asks for it
        from .config.run import TrainConfig

        return TrainConfig
    if name in _API:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'saccade' has no attribute {name!r}")
