"""A GPU's place without one: torch's meta device, beside which the processor's tensors may not be used unawares."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saccade import draws
from saccade.training import pick_device

META = torch.device("meta")


class _Apart(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        with self:  # in inference mode what is made of other operations comes whole
            if (made := function.decompose(*args, **kwargs)) is not NotImplemented:
                return made
        if name == "_local_scalar_dense" and args[0].device == META:
            return torch.zeros((), dtype=args[0].dtype).item()
        if name == "_to_copy" and args[0].device == META and kwargs.get("device") not in (None, META):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "copy_" and args[1].device == META != args[0].device:
            return args[0].zero_()
        if name == "index" and args[0].device == META and any(t is not None and t.dtype == torch.bool for t in args[1]):
            masks = [t if t is None else torch.ones(t.shape, dtype=t.dtype) for t in args[1]]
            return function(torch.zeros(args[0].shape, dtype=args[0].dtype), masks).to(META)
        places = {t.device for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim()}
        if len(places) > 1 and name not in ("_to_copy", "copy_"):
            raise RuntimeError(f"{function} of tensors on different devices")
        return function(*args, **kwargs)


@contextmanager
def apart() -> Iterator[None]:
    """Let the device auto be one that is not the processor; an operation that mixes them raises RuntimeError, as on a GPU.

    Tensors there have shapes and no values; copied back to the processor they are zeros, and masks let all pass.
    """

    autocast, generator = torch.autocast, draws.generator
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("saccade") and getattr(module, "pick_device", None) is pick_device:
                patch.setattr(module, "pick_device", lambda name: META if name == "auto" else pick_device(name))
        patch.setattr(torch, "autocast", lambda kind, *a, **k: autocast("cpu" if kind == "meta" else kind, *a, **k))
        patch.setattr(draws, "generator", lambda *key, device="cpu": generator(*key))
        with _Apart():
            yield
