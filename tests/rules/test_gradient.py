"""The hinge loss through a site: hand-derived errors at the top (Eq. 3 to 7), and what the block keeps from moving."""

import copy

import numpy as np
import pytest
import torch
from slow import layer
from torch import nn

from saccade.losses.hinge import ContrastiveHinge
from saccade.losses.simclr import SimCLR
from saccade.rules import Batch, Site, make

N, M1, M2 = 7, 1.0, 3.0


def make_site(**options):
    layers = nn.Sequential(
        layer(linear=nn.Conv2d(2, 3, 3, padding=1, bias=False), activation=nn.Tanh(), pool=nn.MaxPool2d(2)),
        layer(linear=nn.Conv2d(3, 4, 3, padding=1, bias=False), activation=nn.Hardtanh()),
    )
    head = layer(flatten=nn.Flatten(), linear=nn.Linear(36, 5, bias=False))
    site = Site(0, layers, head, ContrastiveHinge(m1=M1, m2=M2, **options)).double()
    with torch.no_grad():  # distances on both sides of the margins
        head.linear.weight.mul_(4)
    return site, torch.randn(2 * N, 2, 6, 6).double()


def errors_by_hand(a, b, negatives):
    """dL/dz at every unit of A and of B, from Eq. 4 to 6, as loops; Eq. 4's d is -dL/dz."""
    to_a, to_b, active = np.zeros_like(a), np.zeros_like(b), [0, 0]
    for s in range(N):
        others = (
            [t for t in range(N) if t != s] if negatives == "all" else [(s + k) % N for k in range(1, negatives + 1)]
        )
        p = float(np.abs(a[s] - b[s]).sum() > M1)
        active[0] += p
        for i in range(a.shape[1]):
            d_b = -p * np.sign(a[s, i] - b[s, i]) * -1
            d_a = p * np.sign(a[s, i] - b[s, i])
            to_b[s, i] += -d_b
            to_a[s, i] += d_a
        for t in others:
            q = float(np.abs(a[s] - b[t]).sum() < M2)
            active[1] += q
            for i in range(a.shape[1]):
                to_b[t, i] += q * np.sign(a[s, i] - b[t, i])
                to_a[s, i] += -q * np.sign(a[s, i] - b[t, i])
    return to_a, to_b, active


@pytest.mark.parametrize("rule", ["bp", "rf", "urf", "weight-mirrors", "sign-symmetry", "dfa", "dtp"])
@pytest.mark.parametrize("negatives", ["all", 1, 3])
@pytest.mark.parametrize("block", [False, True])
def test_the_top_update_is_error_times_presynaptic_activity(block, negatives, rule):
    site, x = make_site(negatives=negatives, block=block)
    made = make(rule)
    made.prepare(site, (2, 6, 6), 0)
    features = site.layers(x).detach()
    z = site.head(features).detach().numpy()
    presynaptic = features.flatten(1).numpy()
    to_a, to_b, active = errors_by_hand(z[:N], z[N:], negatives)
    assert min(active) > 0, "no pair within a margin: nothing would be tested"
    expected = np.zeros((5, 36))
    for s in range(N):
        if not block:
            expected += np.outer(to_a[s], presynaptic[s])
        expected += np.outer(to_b[s], presynaptic[N + s])
    for group in made.phases(site, Batch(x)):
        if group == "inverses":
            site.inverses.zero_grad()
    found = site.head.linear.weight.grad
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("rule", ["bp", "rf", "urf", "weight-mirrors", "sign-symmetry", "dfa", "dtp"])
def test_with_the_block_nothing_changes_when_the_anchors_path_is_cut(rule):
    site, x = make_site(block=True)
    made = make(rule)
    made.prepare(site, (2, 6, 6), 0)
    a, b = x.chunk(2)
    memory = site.head(site.layers(a)).detach()

    cut = copy.deepcopy(site)  # the anchor's embedding comes out of a memory, whatever the network makes of it now
    cut.loss.forward = lambda z_a, z_b: ContrastiveHinge.forward(site.loss, memory, z_b)
    for group in made.phases(site, Batch(x)):
        if group == "inverses":
            site.inverses.zero_grad()
    for group in made.phases(cut, Batch(torch.cat([torch.zeros_like(a), b]))):
        if group == "inverses":
            cut.inverses.zero_grad()
    names = [name for name, p in site.named_parameters() if p.grad is not None]
    assert len(names) >= 3
    for name, p in site.named_parameters():
        if name in names:
            torch.testing.assert_close(p.grad, dict(cut.named_parameters())[name].grad, atol=1e-13, rtol=0)


@pytest.mark.parametrize("rule", ["bp", "rf", "dfa", "dtp"])
def test_without_the_block_the_anchors_path_counts(rule):
    site, x = make_site(block=False)
    made = make(rule)
    made.prepare(site, (2, 6, 6), 0)
    blocked = copy.deepcopy(site)
    blocked.loss.block = True
    blocked.needs = type(site.needs)(**{**vars(site.needs), "gradient": "b"})
    gradients = []
    for each in (site, blocked):
        for _ in made.phases(each, Batch(x)):
            pass
        gradients.append(each.layers[0].linear.weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_what_a_step_leaves_in_its_batch():
    for block in (False, True):
        site, x = make_site(block=block)
        for rule in ("bp", "dtp"):
            batch, made = Batch(x), make(rule)
            made.prepare(site, (2, 6, 6), 0)
            features = site.layers(x).detach()
            z = site.head(features).detach()
            for _ in made.phases(site, batch):
                pass
            assert torch.equal(batch.outputs, features)
            assert not batch.outputs.requires_grad
            torch.testing.assert_close(batch.loss, site.loss(z[:N], z[N:]).detach(), atol=1e-12, rtol=1e-12)
            assert torch.equal(torch.cat(batch.views), z)


@pytest.mark.parametrize("rule", ["bp", "rf", "dtp"])
@pytest.mark.parametrize("kind", [SimCLR, ContrastiveHinge])
def test_in_bfloat16_the_loss_is_differentiated_in_float32(kind, rule):
    site, x = make_site()
    site = site.float()
    site.loss, made, embeddings = kind(), make(rule), []
    made.prepare(site, (2, 6, 6), 0)
    site.head.register_forward_hook(lambda head, args, z: embeddings.append(z) or z.retain_grad())
    with torch.autocast("cpu", torch.bfloat16):
        for _ in made.phases(site, Batch(x.float())):
            pass
    [z] = embeddings
    alone = z.detach().float().requires_grad_()
    site.loss(*alone.chunk(2)).backward()
    assert z.dtype == torch.bfloat16
    assert torch.equal(z.grad, alone.grad.bfloat16())
