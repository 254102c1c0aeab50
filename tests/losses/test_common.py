"""L1 distances whose backward pass goes by blocks, as on a GPU, against loops and against torch's own."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saccade.errors import InputError
from saccade.losses.clapp import CLAPP, clapp
from saccade.losses.clapp_patches import CLAPPPatches, clapp_patches, terms
from saccade.losses.common import Distances, check_grid, l1_distances
from saccade.losses.hinge import ContrastiveHinge, contrastive_hinge
from saccade.losses.hinge_patches import hinge_patches, pairs
from saccade.losses.simclr import SimCLR, simclr


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


def zeros(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ContrastiveHinge(reading="autors"), "loss hinge has reading='autors'; it takes paper or authors"),
        (lambda: contrastive_hinge(zeros(3, 4), zeros(3, 4), reading="autors"), "it takes paper or authors"),
        (lambda: SimCLR(reduction="none"), "loss simclr has reduction='none'; it takes sum or mean"),
        (lambda: simclr(zeros(3, 4), zeros(3, 4), reduction="none"), "it takes sum or mean"),
        (lambda: CLAPP(reduction="avg"), "loss clapp has reduction='avg'; it takes sum or mean"),
        (lambda: CLAPP(gradient="split"), "loss clapp has gradient='split'; it takes both or context_detached"),
        (lambda: clapp(zeros(3, 4), zeros(3, 4), zeros(4, 4), reduction="avg"), "it takes sum or mean"),
        (lambda: CLAPPPatches(reading="paper"), "loss clapp-patches has reading='paper'; it takes original or authors"),
        (lambda: CLAPPPatches(place="here"), "it takes any or same"),
        (lambda: CLAPPPatches(gradient="none"), "it takes both or"),
        (
            lambda: clapp_patches(zeros(2, 4, 2, 3), zeros(2, 4, 2, 3), zeros(1, 3, 3), [], reading="mine"),
            "original or authors",
        ),
    ],
)
def test_words_that_are_none_are_refused_in_python_too(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize(
    "loss",
    [contrastive_hinge, lambda a, b: contrastive_hinge(a, b, negatives=2), simclr, ContrastiveHinge(), SimCLR()],
)
@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((0, 4), (0, 4)), ((3, 4, 2), (3, 4, 2)), ((3,), (3,))],
)
def test_lists_that_are_no_pair_are_refused(loss, a, b):
    with pytest.raises(InputError, match=r"it takes two lists of one shape, \(batch, width\), of at least 1 image"):
        loss(zeros(*a), zeros(*b))


@pytest.mark.parametrize(
    ("a", "b", "reduction"),
    [((3, 4), (2, 4), "sum"), ((3, 4, 2, 2), (3, 4, 2, 3), "sum"), ((0, 4), (0, 4), "sum"), ((1, 4), (1, 4), "mean")],
)
def test_features_that_are_no_pair_are_refused(a, b, reduction):
    with pytest.raises(InputError, match=r"two lists of one shape, \(batch, channels, ...\), of at least [12] image"):
        clapp(zeros(*a), zeros(*b), zeros(4, 4), reduction=reduction)


def test_grids_that_are_no_pair_are_refused():
    a, b = zeros(2, 4, 2, 3), zeros(2, 4, 2, 5)
    with pytest.raises(InputError, match="two lists of one shape"):
        hinge_patches(a, b, torch.zeros(2, 3, 2, 1, dtype=torch.int64))
    with pytest.raises(InputError, match="two lists of one shape"):
        clapp_patches(a, b, zeros(1, 3, 3), [])


def test_the_least_that_a_loss_takes():
    one = torch.ones(1, 4)
    assert clapp(one, one, torch.eye(4)) == 0 and contrastive_hinge(one, one) == 0 == simclr(one, one)
    assert clapp(torch.ones(2, 4), torch.ones(2, 4), torch.eye(4), reduction="mean") == 5  # the other image, at 1 + 4
    check_grid(3, 1, 2)


def test_places_of_patches_are_made_on_the_device():
    """A copy from the processor would have a GPU's host wait."""
    made = [pairs(5, "meta")]
    for reading in ("original", "authors"):
        made += [x for term in terms(5, 3, reading, "meta") for x in (term.contexts, term.targets)]
    assert {x.device.type for x in made} == {"meta"}
