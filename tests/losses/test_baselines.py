"""Losses made of lightly's parts, against their definitions (1e-10), and what they hold and save."""

import copy
import sys

import pytest
import torch
from torch.nn import functional as F

from saccade.errors import InputError
from saccade.losses.baselines import BYOL, BarlowTwins, MoCo, SimSiam


def embeddings(count=4, n=6, width=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=g, dtype=torch.float64).requires_grad_() for _ in range(count)]


def made(loss, seed=0, width=5):
    torch.manual_seed(seed)
    loss.sized((width,))
    return loss.double()


def cosine(x, y):
    return (F.normalize(x, dim=1) * F.normalize(y, dim=1)).sum(1).mean()


def predicted(head, z):
    """lightly's head in training mode, by definition: linear, batch norm, relu, linear."""
    first, norm, _, last = head.layers
    h = z @ first.weight.T
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    return h.relu() @ last.weight.T + last.bias


def test_byol():
    z_a, z_b, slow_a, slow_b = embeddings()
    loss = made(BYOL(hidden=7))
    found = loss(z_a, z_b, slow_a, slow_b)
    p = loss.predictor
    expected = -(cosine(predicted(p, z_a), slow_b) + cosine(predicted(p, z_b), slow_a)) / 2
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    found.backward()
    assert slow_a.grad is None
    assert slow_b.grad is None
    assert min(z_a.grad.abs().max(), z_b.grad.abs().max()) > 0


def test_simsiam():
    z_a, z_b = embeddings(2)
    loss = made(SimSiam(hidden=7))
    found = loss(z_a, z_b)
    p = loss.predictor
    expected = -(cosine(predicted(p, z_a), z_b.detach()) + cosine(predicted(p, z_b), z_a.detach())) / 2
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, (z_a, z_b)), torch.autograd.grad(expected, (z_a, z_b)), atol=1e-10, rtol=0
    )


def test_moco_by_definition_over_steps_of_its_queue():
    """Each step's keys are the next step's negatives, the oldest leave; the last batch is cut at the queue's end."""
    loss = made(MoCo(queue=14, temperature=0.2))
    queue = loss.contrast.memory_bank.bank.clone()
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(14, dtype=torch.float64), atol=1e-6, rtol=0)
    place = 0
    for step in range(5):
        z_a, z_b, slow_a, slow_b = embeddings(seed=step)
        q, k = F.normalize(z_a, dim=1), F.normalize(slow_b, dim=1).detach()
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.2
        expected = (logits.logsumexp(1) - logits[:, 0]).mean()
        torch.testing.assert_close(loss(z_a, z_b, slow_a, slow_b), expected, atol=1e-10, rtol=0)
        kept = min(6, 14 - place)
        queue[place : place + kept] = k[:kept]
        place = 0 if place + 6 >= 14 else place + 6
        torch.testing.assert_close(loss.contrast.memory_bank.bank, queue, atol=1e-12, rtol=0)


def test_moco_gradient_goes_to_view_a_alone():
    z_a, z_b, slow_a, slow_b = embeddings()
    made(MoCo(queue=8))(z_a, z_b, slow_a, slow_b).backward()
    assert z_a.grad.abs().max() > 0
    assert z_b.grad is slow_a.grad is slow_b.grad is None


def test_mocos_queue_is_seeded_and_saved():
    first, again, other = (made(MoCo(queue=16), seed) for seed in (0, 0, 1))
    assert torch.equal(first.contrast.memory_bank.bank, again.contrast.memory_bank.bank)
    assert not torch.equal(first.contrast.memory_bank.bank, other.contrast.memory_bank.bank)
    for step in range(2):
        first(*embeddings(seed=step))
    saved = copy.deepcopy(first.state_dict())
    assert {"contrast.memory_bank.bank", "contrast.memory_bank.bank_ptr"} <= set(saved)
    other.load_state_dict(saved)
    z = embeddings(seed=9)
    assert first(*z).item() == other(*z).item()
    assert first(*z).item() == other(*z).item()  # both queues have moved on alike


def test_barlow_twins():
    z_a, z_b = embeddings(2)
    a, b = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z_a, z_b))
    c = a.T @ b / 6
    expected = sum((1 - c[i, i]) ** 2 if i == j else 0.02 * c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)))
    torch.testing.assert_close(BarlowTwins(redundancy=0.02)(z_a, z_b), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("loss", [BYOL, SimSiam, MoCo])
def test_not_sized_or_not_flat(loss):
    with pytest.raises(InputError, match="sized"):
        loss()(*embeddings(2 if loss is SimSiam else 4))
    with pytest.raises(InputError, match="flat"):
        loss().sized((3, 4, 4))


@pytest.mark.parametrize("loss", [BYOL, SimSiam, MoCo, BarlowTwins])
def test_without_lightly(loss, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(InputError, match=r"lightly cannot be imported.*saccade\[baselines\]"):
        loss()


@pytest.mark.parametrize("loss", [BYOL(hidden=7), SimSiam(hidden=7), MoCo(queue=8), BarlowTwins()])
def test_bfloat16_is_summed_in_float32(loss):
    if hasattr(loss, "sized"):
        loss.sized((5,))
    z = [z.detach().bfloat16() for z in embeddings(4 if isinstance(loss, BYOL | MoCo) else 2)]
    found = loss(*z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(*(x.float() for x in z)), rtol=1e-6, atol=0)
