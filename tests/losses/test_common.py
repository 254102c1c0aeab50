"""L1 distances whose backward pass goes by blocks, as on a GPU, against loops and against torch's own."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saccade.losses.common import Distances, l1_distances


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that is made meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        if isinstance(made, torch.Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("block", [1, 24, 60, 1 << 22])  # a row at a time, one, two (uneven), all
def test_distances_by_blocks_are_the_hand_derived_ones(monkeypatch, block):
    monkeypatch.setattr(Distances, "block", block)
    a, b = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 6))
    with torch.no_grad():
        a[2, 1] = b[3, 1]  # a tie
    error = torch.randn(5, 6, dtype=torch.float64)
    found = Distances.apply(a, b)
    to_a, to_b = torch.autograd.grad(found, (a, b), error)
    slow, slow_a, slow_b = torch.zeros(5, 6).double(), torch.zeros_like(a), torch.zeros_like(b)
    with torch.no_grad():
        for i in range(5):
            for j in range(6):
                for k in range(4):
                    slow[i, j] += (a[i, k] - b[j, k]).abs()
                    slow_a[i, k] += error[i, j] * torch.sign(a[i, k] - b[j, k])
                    slow_b[j, k] -= error[i, j] * torch.sign(a[i, k] - b[j, k])
    for one, other in ((found, slow), (to_a, slow_a), (to_b, slow_b)):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    for one, other in zip((to_a, to_b), torch.autograd.grad(l1_distances(a, b), (a, b), error), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_a_remembered_list_gets_no_gradient_and_no_tensor_is_larger_than_a_block(monkeypatch):
    monkeypatch.setattr(Distances, "block", 4096)
    a, b = torch.randn(64, 32), torch.randn(64, 32, requires_grad=True)
    distances = Distances.apply(a, b)
    with Largest() as largest:
        distances.sum().backward()
    assert a.grad is None
    torch.testing.assert_close(b.grad, (b - a[:, None]).sign().sum(0).detach())
    assert largest.numbers == 4096  # of a possible 64 * 64 * 32
