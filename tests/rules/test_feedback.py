"""Feedback rules against loops over single connections and against backpropagation. float64; tolerance 1e-12."""

import copy
import pickle
from itertools import pairwise, product

import pytest
import torch
from slow import NETS, gradients, layer, make_site
from torch import nn

from saccade import draws
from saccade.errors import InputError
from saccade.losses import make as make_loss
from saccade.networks import LocallyConnected2d
from saccade.rules import Batch, Site, convert, make, plain
from saccade.rules.feedback import Direct, Feedback, maps_of

RULES = ["rf", "urf", "kolen-pollack", "weight-mirrors", "sign-symmetry", "sign-symmetry(magnitudes=uniform)"]


def trained(site, rule, x, target):
    """The gradients of one step, by name."""
    site.zero_grad()
    for _ in rule.phases(site, Batch(x, target)):
        pass
    return {name: p.grad.clone() for name, p in site.named_parameters() if p.grad is not None}


def carriers(site):
    """What carries errors down through each map, by the map's name, in the weight's shape."""
    return {
        name: (part.feedback * part.weight.sign() if part.signs else part.feedback).detach().numpy()
        for name, part in site.named_modules()
        if isinstance(part, Feedback)
    }


def assert_same(found, expected, tolerance=1e-12):
    assert expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], torch.as_tensor(gradient), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("net", NETS)
def test_backpropagation_is_eq_9(net):
    site, _, x, target = make_site(net)
    weights = {name: part.weight.detach().numpy() for name, part in site.named_modules() if part in maps_of(site)}
    assert_same(trained(site, make("bp"), x, target), gradients(site, x, target, weights))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", NETS)
def test_any_feedback_is_eq_10(net, rule):
    site, shape, x, target = make_site(net)
    made = make(rule)
    made.prepare(site, shape, seed=5)
    found = trained(site, made, x, target)
    assert len(carriers(site)) == len(site.layers)  # every map but the lowest, which passes nothing on
    assert_same(found, gradients(site, x, target, carriers(site)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", NETS)
def test_with_the_transpose_every_rule_is_backpropagation(net, rule):
    site, shape, x, target = make_site(net)
    expected = trained(site, make("bp"), x, target)
    made = make(rule)
    made.prepare(site, shape, seed=5)
    for part in site.modules():
        if isinstance(part, Feedback):
            part.feedback.data.copy_(part.weight.abs() if part.signs else part.weight)
    assert_same(trained(site, made, x, target), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", NETS)
def test_random_feedback_is_not_backpropagation(net, rule):
    site, shape, x, target = make_site(net, seed=0)  # other draws may leave no unit that passes an error
    expected = trained(site, make("bp"), x, target)
    made = make(rule)
    made.prepare(site, shape, seed=5)
    found = trained(site, made, x, target)
    torch.testing.assert_close(found["head.linear.weight"], expected["head.linear.weight"])  # the top needs no feedback
    assert (found["layers.0.linear.weight"] - expected["layers.0.linear.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("net", NETS)
def test_direct_feedback_is_its_loop(net):
    site, shape, x, target = make_site(net)
    rule = make("dfa")
    rule.prepare(site, shape, seed=5)
    matrices = {name: part.feedback.numpy() for name, part in site.named_modules() if isinstance(part, Direct)}
    assert len(matrices) == len(site.layers)
    assert_same(trained(site, rule, x, target), gradients(site, x, target, matrices, direct=True))


@pytest.mark.parametrize("net", ["linear", "convolution"])
def test_direct_feedback_with_the_jacobian_is_backpropagation(net):
    site, shape, x, target = make_site(net)
    for stage in site.layers:  # in a linear network dz/dx is the same for every x
        for role in ("activation", "pool"):
            if hasattr(stage, role):
                setattr(stage, role, nn.AvgPool2d(2) if role == "pool" else nn.Identity())
    expected = trained(site, make("bp"), x, target)
    stages, below = site.chain(), [shape]
    for stage in stages:
        below.append(tuple(stage(torch.zeros(1, *below[-1]).double()).shape[1:]))
    jacobians = []
    for number in range(1, len(stages)):
        above = nn.Sequential(*stages[number:])
        jacobian = torch.autograd.functional.jacobian(above, torch.zeros(1, *below[number]).double())
        jacobians.append(jacobian.reshape(3, -1))
    rule = make("dfa")
    rule.prepare(site, shape, seed=5)
    parts = [part for part in site.modules() if isinstance(part, Direct)]
    for part, jacobian in zip(parts, jacobians, strict=True):
        part.feedback.data.copy_(jacobian)
    assert_same(trained(site, rule, x, target), expected)


def test_an_interrupted_pass_leaves_nothing_behind():
    site, shape, x, target = make_site("linear")
    rule = make("dfa")
    rule.prepare(site, shape, seed=5)
    expected = trained(site, rule, x, target)
    head, site.head = site.head, nn.Linear(7, 3).double()
    with pytest.raises(RuntimeError):  # fails at the head, after the layers were tapped
        site(x)
    site.head = head
    assert_same(trained(site, rule, x, target), expected)


# URF and Kolen-Pollack: what becomes of B - W


def run(site, rule, optimizer, steps, shape):
    """Differences B - W of every map before the first step and after each."""
    parts = [part for part in site.modules() if isinstance(part, Feedback)]
    differences = [[(part.feedback - part.weight).detach().clone() for part in parts]]
    for _ in range(steps):
        x, target = torch.randn(4, *shape).double(), torch.randn(4, 3).double()
        for _ in rule.phases(site, Batch(x, target)):
            optimizer.step()
            optimizer.zero_grad()
        differences.append([(part.feedback - part.weight).detach().clone() for part in parts])
    return differences


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),  # faster ones blow up now and then
        lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0, foreach=True),
    ],
    ids=["sgd", "adam"],
)
def test_urf_keeps_feedback_and_weights_apart_by_the_same_amount(net, optimizer):
    site, shape, _, _ = make_site(net)
    rule = make("urf")
    rule.prepare(site, shape, seed=5)
    before = {name: p.detach().clone() for name, p in site.named_parameters()}
    differences = run(site, rule, optimizer(p for _, p in rule.groups(site)["weights"]), 12, shape)
    for name, p in site.named_parameters():
        assert (p - before[name]).abs().max() > 1e-6, f"{name} did not move"
    for first, last in zip(differences[0], differences[-1], strict=True):
        assert first.abs().max() > 0.1
        torch.testing.assert_close(last, first, atol=1e-12, rtol=0)


def test_urf_of_maps_that_share_a_weight():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    net[4].weight = net[2].weight
    convert(net, "urf")
    before = (net[2].feedback - net[2].weight).detach().clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0)
    for _ in range(5):
        net(torch.randn(3, 4).double()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(net[4].feedback - net[4].weight, before, atol=1e-12, rtol=0)


def test_urf_leaves_feedback_of_frozen_weights():
    net = convert(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), "urf")
    net[1].weight.requires_grad_(False)
    net(torch.randn(3, 4)).sum().backward()
    assert net[1].feedback.grad is None
    assert net[0].feedback.grad is not None


def test_kolen_pollack_converges_at_the_rate_of_decay():
    rate, decay = 0.02, 1.5
    site, shape, _, _ = make_site("convolution")
    rule = make("kolen-pollack")
    rule.prepare(site, shape, seed=5)
    optimizer = torch.optim.AdamW([p for _, p in rule.groups(site)["weights"]], lr=rate, weight_decay=decay)
    differences = run(site, rule, optimizer, 20, shape)
    for step, now in enumerate(differences):
        for first, last in zip(differences[0], now, strict=True):
            torch.testing.assert_close(last, first * (1 - rate * decay) ** step, atol=1e-12, rtol=0)


def test_kolen_pollack_under_momentum_follows_its_recursion():
    rate, decay, momentum = 0.05, 0.3, 0.8
    site, shape, _, _ = make_site("linear")
    rule = make("kolen-pollack")
    rule.prepare(site, shape, seed=5)
    parameters = [p for _, p in rule.groups(site)["weights"]]
    differences = run(
        site, rule, torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=momentum), 20, shape
    )
    for number, first in enumerate(differences[0]):
        d, velocity = first, torch.zeros_like(first)
        for now in differences[1:]:
            velocity = momentum * velocity + decay * d
            d = d - rate * velocity
            torch.testing.assert_close(now[number], d, atol=1e-12, rtol=0)
        assert d.norm() < 0.5 * first.norm()


# Weight mirrors: B learns W from noise


def uses_and_products(part, x, y):
    """For each synapse, in the weight's shape: its inputs times its map's outputs, summed, and how many inputs there were."""
    products, uses = torch.zeros_like(part.weight), torch.zeros_like(part.weight)
    if not isinstance(part, nn.Conv2d):
        for one, answer in zip(x, y, strict=True):
            products += torch.outer(answer, one)
            uses += 1
        return products, uses
    (stride, _), (padding, _), kernel = part.stride, part.padding, part.kernel_size[0]
    inputs, outputs = part.weight.shape[1], part.weight.shape[0]
    for image, place in product(range(len(x)), product(range(y.shape[2]), range(y.shape[3]))):
        for tap in product(range(kernel), range(kernel)):
            row, column = (stride * place[k] - padding + tap[k] for k in (0, 1))
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                for i, o in product(range(inputs), range(outputs)):
                    synapse = (o, i, *tap)
                    products[synapse] += x[image, i, row, column] * y[(image, o, *place)]
                    uses[synapse] += 1
    return products, uses


@pytest.mark.parametrize(
    ("part", "shape", "images"),
    [
        (nn.Linear(5, 3), (5,), 20),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4), 2),  # of 16 places
        (nn.Conv2d(2, 2, 3, stride=2, padding=2), (2, 5, 4), 4),  # of 6 that use the tap which most do
        (nn.Conv2d(1, 2, 2), (1, 3, 3), 5),
        (nn.Conv2d(1, 2, 2, bias=False).requires_grad_(False), (1, 3, 3), 5),
    ],
)
@torch.no_grad()
def test_feedback_descends_to_the_product_of_noise_and_answer(part, shape, images):
    rule = make("weight-mirrors(samples=20)")
    convert(part.double(), rule, seed=4, example=shape)
    assert rule.mirror(part, seed=7, step=3) == 1
    x = draws.normal((images, *shape), 7, "mirror", 3, 0, dtype=torch.float64)
    bias = 0 if part.bias is None else part.bias.view(-1, *[1] * (part.weight.ndim - 2))
    products, uses = uses_and_products(part, x, part(x) - bias)  # y = W x
    torch.testing.assert_close(part.feedback.grad, part.feedback - products / uses, atol=1e-12, rtol=0)
    again = part.feedback.grad.clone()
    rule.mirror(part, seed=7, step=3)
    assert torch.equal(part.feedback.grad, again)
    rule.mirror(part, seed=7, step=4)
    assert not torch.isclose(part.feedback.grad, again).all()


@pytest.mark.parametrize("net", NETS)
def test_mirrors_converge_to_the_forward_weights_wherever_these_are_used(net):
    site, shape, _, _ = make_site(net)
    rule = make("weight-mirrors")
    rule.prepare(site, shape, seed=5)
    parts = [part for part in site.modules() if isinstance(part, Feedback)]
    before = [part.weight.detach().clone() for part in parts]
    feedback = [p for _, p in rule.groups(site)["mirrors"]]
    mean = [p.detach().clone() for p in feedback]
    for step in range(150):  # the mean of x y^T so far
        rule.mirror(site, step=step)
        for p, average in zip(feedback, mean, strict=True):
            average.add_(average - p.detach() + p.grad, alpha=-1 / (step + 1))
    for part, average, weight in zip(parts, mean, before, strict=True):
        assert torch.equal(part.weight, weight)  # which noise leaves alone
        used = average != 0  # beyond a picture's border a locally connected map has weights that nothing reaches
        assert used.double().mean() > 0.3
        error = (average - weight)[used].square().mean().sqrt()
        assert error < 0.05 * weight.std() + 0.02


def test_mirrors_learn_before_the_weights_and_by_a_rate_of_their_own():
    site, shape, x, target = make_site("convolution")
    rule = make("weight-mirrors(rate=0.01)")
    rule.prepare(site, shape, seed=5)
    assert list(rule.groups(site)) == ["mirrors", "weights"] and rule.rates == {"mirrors": 0.01}
    assert all(name.endswith(".feedback") for name, _ in rule.groups(site)["mirrors"])
    phases = rule.phases(site, Batch(x, target))
    assert next(phases) == "mirrors"
    filled = {name for name, p in site.named_parameters() if p.grad is not None}
    assert filled == {name for name, _ in rule.groups(site)["mirrors"]}
    for _, p in rule.groups(site)["mirrors"]:
        p.data.add_(p.grad, alpha=-0.5)
        p.grad = None
    assert list(phases) == ["weights"]
    found = {name: p.grad for name, p in site.named_parameters() if p.grad is not None}
    assert_same(found, gradients(site, x, target, carriers(site)))  # Eq. 10 by B as it is after the mirrors' step
    assert not any("feedback" in name for name in found)


def test_each_step_site_and_run_has_noise_of_its_own():
    def mirrored(index=1, seed=7, step=3):
        site, shape, x, target = make_site("convolution")
        site.index = 1
        rule = make("weight-mirrors")
        rule.prepare(site, shape, seed=5)
        site.index = index
        assert next(rule.phases(site, Batch(x, target, seed=seed, step=step))) == "mirrors"
        found = [p.grad for _, p in rule.groups(site)["mirrors"]]
        rule.mirror(site, seed, step, index)
        assert all(torch.equal(p.grad, g) for (_, p), g in zip(rule.groups(site)["mirrors"], found, strict=True))
        return found

    first = mirrored()
    for other in (mirrored(index=2), mirrored(seed=8), mirrored(step=4)):
        assert not any(torch.isclose(a, b).all() for a, b in zip(first, other, strict=True))


def test_mirrors_of_maps_that_share_a_weight_share_what_they_learn():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    net[4].weight = net[2].weight
    rule = make("weight-mirrors")
    convert(net, rule, example=(4,))
    assert net[4].feedback is net[2].feedback and rule.mirror(net) == 3
    both = net[2].feedback.grad.clone()
    products = []
    for number, part in ((1, net[2]), (2, net[4])):
        x = draws.normal((256, 4), 0, "mirror", 0, number, dtype=torch.float64)
        products.append((part(x) - part.bias).T @ x / 256)
    torch.testing.assert_close(both, 2 * net[2].feedback - sum(products), atol=1e-12, rtol=0)


# Feedback weights themselves


@pytest.mark.parametrize("rule", RULES)
def test_feedback_has_its_own_seed_draw_and_memory(rule):
    def drawn(seed, **options):
        site, shape, _, _ = make_site("convolution", seed=3)
        site.index = options.get("index", 0)
        make(rule).prepare(site, shape, seed)
        return [(part.weight, part.feedback) for part in site.modules() if isinstance(part, Feedback)]

    first = drawn(5)
    storages = {weight.untyped_storage().data_ptr() for weight, _ in first}
    for weight, feedback in first:
        assert feedback.untyped_storage().data_ptr() not in storages
        assert feedback.shape == weight.shape
        assert feedback.dtype == weight.dtype
        assert not torch.isclose(feedback, weight).any()
        bound = weight[0].numel() ** -0.5
        assert feedback.abs().max() <= bound
        if "uniform" not in rule:
            assert feedback.std() > 0.2 * bound
    for (_, a), (_, b) in zip(first, drawn(5), strict=True):
        assert torch.equal(a, b)
    if "uniform" not in rule:
        for other in (drawn(6), drawn(5, index=1)):
            for (_, a), (_, b) in zip(first, other, strict=True):
                assert not torch.isclose(a, b).any()
        for (_, a), (_, b) in pairwise(first):  # maps draw from different streams
            count = min(a.numel(), b.numel())
            assert not torch.isclose(a.flatten()[:count] / a.abs().max(), b.flatten()[:count] / b.abs().max()).all()


def test_feedback_is_as_wide_as_the_forward_weights_of_its_map():
    for part in (nn.Linear(50, 400), nn.Conv2d(40, 40, 3, groups=4), LocallyConnected2d(6, 7, (9, 9), 3)):
        convert(part, "rf")
        torch.testing.assert_close(part.feedback.std(), part.weight.std(), rtol=0.05, atol=0)
        assert part.feedback.mean().abs() < 0.05 * part.feedback.std()


@pytest.mark.parametrize("magnitudes", ["random", "uniform"])
def test_signs_agree_and_stay_in_agreement(magnitudes):
    site, shape, _, _ = make_site("convolution")
    rule = make(f"sign-symmetry(magnitudes={magnitudes})")
    rule.prepare(site, shape, seed=5)
    before = {name: p.detach().clone() for name, p in site.named_parameters()}
    optimizer = torch.optim.SGD([p for _, p in rule.groups(site)["weights"]], lr=0.3)
    run(site, rule, optimizer, 10, shape)
    parts = {name: part for name, part in site.named_modules() if isinstance(part, Feedback)}
    flipped = 0
    for name, part in parts.items():
        assert torch.equal(part.feedback, before[f"{name}.feedback"])  # magnitudes are fixed
        assert (part.feedback >= 0).all()
        flipped += int((part.weight.sign() != before[f"{name}.weight"].sign()).sum())
        # what the error runs through, read off the way down
        x = torch.randn(2, *part_input(site, name, shape)).double().requires_grad_()
        y = part(x)
        (down,) = torch.autograd.grad(y, x, torch.ones_like(y))
        signed = plain(copy.deepcopy(part))
        signed.weight.data = part.feedback.data * part.weight.data.sign()
        (expected,) = torch.autograd.grad(signed(x), x, torch.ones_like(y))
        torch.testing.assert_close(down, expected, atol=1e-12, rtol=0)
    assert flipped > 0


def part_input(site, name, shape):
    seen = []
    hook = site.get_submodule(name).register_forward_pre_hook(lambda m, args: seen.append(tuple(args[0].shape[1:])))
    site(torch.zeros(1, *shape).double())
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("rule", [*RULES, "dfa"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state"])
def test_copies_and_saved_states_keep_the_rule(rule, how):
    site, shape, x, target = make_site("convolution")
    made = make(rule)
    made.prepare(site, shape, seed=5)
    expected = trained(site, made, x, target)
    if how == "deepcopy":
        twin = copy.deepcopy(site)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(site))
    else:
        twin, _, _, _ = make_site("convolution")
        made.prepare(twin, shape, seed=6)
        twin.load_state_dict(site.state_dict())
    mine = {p.data_ptr() for p in site.parameters()}
    assert not any(p.data_ptr() in mine for p in twin.parameters())
    assert_same(trained(twin, made, x, target), expected, 0)
    if rule == "urf":
        differences = run(twin, made, torch.optim.SGD(twin.parameters(), lr=0.1), 3, shape)
        torch.testing.assert_close(differences[-1][0], differences[0][0], atol=1e-12, rtol=0)
        assert (twin.head.linear.feedback - site.head.linear.feedback).abs().max() > 1e-3


def test_a_block_of_several_maps_below_is_covered_whatever_its_order():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Linear(5, 5), nn.Linear(4, 5)  # not in the order of computation

        def forward(self, x):
            return self.second(self.first(x).tanh())

    site, _, _, target = make_site("linear")
    site.layers = nn.Sequential(Block().double())
    site.head = nn.Linear(5, 3).double()
    rule = make("rf")
    rule.prepare(site, (4,), 5)
    x = torch.randn(3, 4).double()
    trained(site, rule, x, target)
    b2, b3 = site.layers[0].second.feedback, site.head.feedback
    h = site.layers[0].first(x).tanh()
    delta = ((site.head(site.layers[0].second(h)) - target) @ b3 @ b2) * (1 - h**2)
    torch.testing.assert_close(site.layers[0].first.weight.grad, delta.T @ x, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (nn.MultiheadAttention(4, 2), "errors would run down"),
        (nn.ConvTranspose2d(2, 2, 3), "errors would run down"),
        (nn.GRU(3, 3), "errors would run down"),
        (nn.Bilinear(2, 2, 2), "errors would run down"),
        (nn.Conv2d(2, 2, 3, padding="same"), "padding"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "circular"),
        (nn.LazyLinear(3), "plain Linear"),
        (torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "errors would run down"),
    ],
)
@pytest.mark.parametrize("rule", ["rf", "dfa", "dtp"])
def test_refusals_of_what_would_run_by_backpropagation(part, words, rule):
    net = nn.Sequential(nn.Linear(3, 3), part, nn.Linear(3, 2))
    with pytest.raises(InputError, match=words) as caught:
        convert(net, rule, example=(3,), loss=nn.MSELoss() if rule == "dtp" else None)
    assert str(caught.value).count(". ") == 0
    assert not any(isinstance(m, Feedback | Direct) for m in net.modules())


def test_a_part_that_runs_by_itself_taps_nothing():
    site, shape, x, target = make_site("linear")
    rule = make("dfa")
    rule.prepare(site, shape, seed=5)
    expected = trained(site, rule, x, target)
    site.layers(x).sum().backward()
    assert_same(trained(copy.deepcopy(site), rule, x, target), expected, 0)
    assert site.tape == []


@pytest.mark.parametrize("rule", ["rf", "bp"])
@pytest.mark.parametrize("loss", ["hinge", "hinge(m2=9, negatives=2, block=true)", "simclr", "clapp", "cross-entropy"])
def test_fixed_feedback_turns_around_with_the_sign_of_the_embeddings(loss, rule):
    """Losses of two views cannot tell z from -z, and so leave it to the head's first weights whether fixed feedback sends
    errors along backpropagation's or against them. Labels can tell."""
    layers = nn.Sequential(layer(linear=nn.Conv2d(2, 3, 3, padding=1, bias=False), activation=nn.Tanh()))
    head = layer(flatten=nn.Flatten(), linear=nn.Linear(48, 5, bias=False))
    site = Site(0, layers, head, make_loss(loss)).double()
    if hasattr(site.loss, "sized"):
        site.loss.sized((5,))
        site.loss.double()
    made = make(rule)
    made.prepare(site, (2, 4, 4), seed=5)
    x, labels = torch.randn(12, 2, 4, 4).double(), torch.arange(12) % 5
    found = []
    for _ in range(2):
        found.append(trained(site, made, x, labels)["layers.0.linear.weight"])
        site.head.linear.weight.data.neg_()
    turned = -found[0] if rule == "rf" else found[0]
    assert found[0].norm() > 0
    assert torch.allclose(found[1], turned, rtol=1e-12, atol=1e-12) == (loss != "cross-entropy")
