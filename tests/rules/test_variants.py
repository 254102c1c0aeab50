"""The same step in bfloat16, in channels-last memory, compiled: every rule against its float32 step."""

import copy

import pytest
import torch

from saccade.losses.hinge import ContrastiveHinge
from saccade.networks import build, head
from saccade.rules import Batch, Site, make

RULES = ["bp", "rf", "urf", "weight-mirrors", "sign-symmetry", "dfa", "dtp", "dtp(steps=2, head=random)"]
SHAPE = (3, 16, 16)
NET = "conv32 hardtanh | conv32 maxpool | conv64 hardtanh | conv64 maxpool"


def smooth(count):
    """Pictures made of a few waves, as natural ones are, in [0, 1]."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, SHAPE[1])] * 2, indexing="ij")
    wave = torch.randn(count, 3, 4, 2, 1, 1) * 6
    phase = torch.rand(count, 3, 4, 1, 1) * 6.3
    return (torch.sin(wave[..., 0, :, :] * x + wave[..., 1, :, :] * y + phase).mean(2) + 1) / 2


def make_site(rule, loss=None, net=NET):
    encoder = build(net, SHAPE, seed=1)
    shape = (64, 4, 4) if net == NET else (64, 8, 8)
    site = Site(0, encoder, head("flatten linear64", shape, None, 1, 0), loss or ContrastiveHinge())
    rule.prepare(site, SHAPE, 1)
    return site


def updates(site, rule, x, autocast=False):
    """Each phase's gradients under small steps, by name."""
    found = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for group in rule.phases(site, Batch(x, seed=3)):
            for name, p in site.named_parameters():
                if p.grad is not None and name.startswith("inverses") == (group == "inverses"):
                    found[name] = p.grad.clone()
            if group == "inverses":
                with torch.no_grad():
                    for p in site.inverses.parameters():
                        p -= 1e-6 * p.grad
                site.inverses.zero_grad()
    return found


@pytest.mark.parametrize("rule", RULES)
def test_bfloat16_updates_point_the_same_way(rule):
    torch.manual_seed(0)
    made = make(rule)
    site = make_site(made)
    pictures = smooth(64)
    x = torch.cat([pictures, (pictures + 0.1 * smooth(64)).clamp(0, 1)])
    low = copy.deepcopy(site)
    expected, found = updates(site, made, x), updates(low, made, x, autocast=True)
    assert found.keys() == expected.keys()
    assert len(expected) >= 5
    for name, update in expected.items():
        assert found[name].dtype == torch.float32
        cosine = torch.cosine_similarity(found[name].flatten(), update.flatten(), dim=0)
        assert cosine >= 0.95, (name, float(cosine))


def test_bfloat16_inverses_learn_from_their_last_step():
    """Autocast keeps casts of the weights; the second inverse step must not see those of the first."""
    made = make("dtp(steps=2, noise=0)")
    site = make_site(made)
    x = torch.cat([smooth(4), smooth(4)])
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        for group in made.phases(site, Batch(x)):
            if group == "inverses":
                seen.append(site.inverses[0].map.weight.grad.clone())
                with torch.no_grad():
                    for p in site.inverses.parameters():
                        p.zero_()
            site.zero_grad()
    assert (seen[0] - seen[1]).norm() > 0.1 * seen[0].norm()


def test_bfloat16_targets_come_from_the_inverses_as_they_are_now():
    """Inverses that have just become zero let no target through to the layers below the top."""
    made = make("dtp")
    site = make_site(made)
    with torch.autocast("cpu", torch.bfloat16):
        for group in made.phases(site, Batch(torch.cat([smooth(4), smooth(4)]))):
            if group == "inverses":
                with torch.no_grad():
                    for p in site.inverses.parameters():
                        p.zero_()
    *below, top = (layer[0].weight.grad.abs().max() for layer in site.layers)
    assert top > 0
    assert max(below) == 0


def test_bfloat16_errors_at_the_embedding_are_equal_away_from_thresholds():
    torch.manual_seed(0)
    n, m1, m2, near = 32, 11.0, 22.0, 0.05
    site = make_site(make("bp"), ContrastiveHinge(m1=m1, m2=m2, negatives=1))
    pictures = smooth(n)
    x = torch.cat([pictures, (pictures + 0.3 * smooth(n)).clamp(0, 1)])
    with torch.no_grad():
        z = site(x)[1]
        site.head.linear.weight.mul_(0.3 / z.std(0).mean())  # distances on both sides of the margins
    errors, embeddings = [], []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            z = site(x)[1]
        z = z.float().detach().requires_grad_()
        (error,) = torch.autograd.grad(site.loss(*z.chunk(2)), z)
        errors.append(error.chunk(2))
        embeddings.append(z.detach())
    assert (embeddings[0] - embeddings[1]).abs().max() < near / 2
    a, b = embeddings[0].chunk(2)
    safe = []  # for each anchor's positive and negative pair: (n, width), that no threshold or sign of it is near
    for other, margin, below in ((b, m1, False), (b.roll(-1, 0), m2, True)):
        distance = (a - other).abs().sum(1, keepdim=True)
        active = (distance < margin) == below
        safe.append(((distance - margin).abs() > near) & (~active | ((a - other).abs() > near)))
    for number, each in enumerate((safe[0] & safe[1], safe[0] & safe[1].roll(1, 0))):  # A's units, then B's
        exact, low = errors[0][number][each], errors[1][number][each]
        assert each.float().mean() > 0.2
        assert exact.unique().numel() >= 3
        assert torch.equal(exact, low)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", [NET, "local8 hardtanh maxpool | conv64 tanh"])
def test_channels_last_memory_changes_nothing(rule, net):
    torch.manual_seed(0)
    made = make(rule)
    site = make_site(made, net=net)
    last = copy.deepcopy(site).to(memory_format=torch.channels_last)
    x = torch.cat([smooth(6), smooth(6)])
    expected = updates(site, made, x)
    found = updates(last, made, x.contiguous(memory_format=torch.channels_last))
    assert expected
    for name, update in expected.items():
        scale = float(update.abs().max())
        torch.testing.assert_close(found[name], update, atol=2e-5 * scale, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_compiled_layers_take_the_same_step(rule):
    torch._dynamo.reset()
    torch.manual_seed(0)
    made = make(rule)
    site = make_site(made)
    x = torch.cat([smooth(4), smooth(4)])
    expected = updates(copy.deepcopy(site), made, x)
    if rule == "dfa":  # its taps belong to one pass through the whole site
        site.compile()
    else:
        for stage in [*site.chain(), *site.inverses]:
            stage.compile()
    found = updates(site, made, x)
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        scale = float(update.abs().max())
        torch.testing.assert_close(found[name], update, atol=2e-5 * scale, rtol=1e-4)
