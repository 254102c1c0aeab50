"""Self-supervised learning in deep networks by biologically plausible rules.

What a user imports is here by name; it is imported when first asked for, so that the command line's help
need not wait for torch.
"""

__version__ = "0.1.0"

_API = (
    "TrainConfig",
    "audit",
    "brainscore_model",
    "compare",
    "embed",
    "evaluate",
    "export",
    "load_encoder",
    "load_images",
    "margins",
    "page",
    "probe",
    "reproduce",
    "tensorboard",
    "train",
    "verify",
)
_ELSEWHERE = {
    "SelfSupervisedEncoder": "adapters.sklearn",
    "convert": "rules",
    "from_pretrained": "adapters.huggingface",
}
__all__ = [*_API, *_ELSEWHERE, "__version__"]


def __getattr__(name: str):
    if name == "TrainConfig":  # needs no torch, and help asks for it
        from .config.run import TrainConfig

        return TrainConfig
    if name in _API or name in _ELSEWHERE:
        from importlib import import_module

        return getattr(import_module(f".{_ELSEWHERE.get(name, 'api')}", __name__), name)
    raise AttributeError(f"module 'saccade' has no attribute {name!r}")
