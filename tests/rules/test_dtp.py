"""Difference target propagation against Algorithm 1 written out with targets, and against theory. float64."""

import copy
import math

import pytest
import torch
from slow import layer
from torch import nn

from saccade import draws
from saccade.errors import InputError
from saccade.losses.hinge import ContrastiveHinge
from saccade.losses.supervised import CrossEntropy
from saccade.networks import LocallyConnected2d, build, head, shapes
from saccade.rules import Batch, Site, make
from saccade.rules.dtp import Inverse, reconstruction_errors

SEED = 11


def _convolution():
    layers = [
        layer(linear=nn.Conv2d(2, 3, 3, padding=1), activation=nn.Hardtanh(), pool=nn.MaxPool2d(2)),
        layer(linear=nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), activation=nn.Tanh()),
        layer(linear=nn.Conv2d(4, 4, 3, padding=1, bias=False)),
    ]
    return layers, layer(flatten=nn.Flatten(), linear=nn.Linear(16, 3, bias=False)), (2, 7, 7)


def _linear():
    layers = [layer(linear=nn.Linear(i, o), activation=nn.Tanh()) for i, o in ((5, 6), (6, 4), (4, 4))]
    return layers, layer(linear=nn.Linear(4, 3)), (5,)


def _local():
    layers = [
        layer(linear=LocallyConnected2d(2, 3, (7, 6), 3, padding=1), activation=nn.Tanh(), pool=nn.MaxPool2d(2)),
        layer(linear=LocallyConnected2d(3, 2, (3, 3), 3, padding=1), activation=nn.Hardtanh()),
        layer(flatten=nn.Flatten(), linear=nn.Linear(18, 5), activation=nn.Tanh()),
    ]
    return layers, layer(linear=nn.Linear(5, 3)), (2, 7, 6)


NETS = {"convolution": _convolution, "linear": _linear, "local": _local}


class MeanDistance(nn.Module):
    """A mean over images of the squared distance of the views."""

    layout, labels, head, gradient, reduction = "pair", False, True, "ab", "mean"

    def forward(self, z_a, z_b):
        return (z_a - z_b).square().sum(1).mean()


LOSSES = {
    "hinge": lambda: ContrastiveHinge(m1=0.2, m2=2.0),
    "block": lambda: ContrastiveHinge(m1=0.2, m2=2.0, negatives=2, block=True),
    "mean": MeanDistance,
    "labels": CrossEntropy,
}


def make_site(net, loss, rule):
    layers, top, shape = NETS[net]()
    site = Site(0, nn.Sequential(*layers), top, LOSSES[loss]()).double()
    rule.prepare(site, shape, SEED)
    return site, shape


def algorithm_1(site, options, batch, rates):
    """One step of Algorithm 1 on `site`, every weight moved by plain gradient descent."""
    layers, inverses, top = list(site.layers), list(site.inverses), site.head
    lists = list(batch.inputs.chunk(2)) if site.needs.layout == "pair" else [batch.inputs]
    blocked = site.needs.gradient == "b"
    remembered = [top(site.layers(lists[0])).detach()] if blocked else []
    seen = lists[1] if blocked else batch.inputs

    x = [seen]
    for f in layers:
        x.append(f(x[-1]).detach())
    x_top = x[-1].clone().requires_grad_()
    z = top(x_top)
    z.retain_grad()
    if site.needs.layout == "single":
        loss, images = site.loss(z, batch.labels), len(seen)
    else:
        pair = [*remembered, z] if blocked else z.chunk(2)
        loss, images = site.loss(*pair), len(lists[0])
    gradients = torch.autograd.grad(loss, [x_top, z, *top.weights()])
    to_top, error, for_head = gradients[0], gradients[1], gradients[2:]
    if options["head"] == "random":
        to_top = (error @ top.linear.feedback).view_as(x_top)
    per_image = images if site.needs.reduction == "mean" else 1

    def learn_inverses():
        for k in range(options["steps"]):
            moves = []
            for number, g in enumerate(inverses, start=1):
                below = x[number]
                normal = draws.normal(below.shape, batch.seed, "noise", 0, batch.step, number, k, dtype=torch.float64)
                e = options["noise"] * below.std() * normal
                noisy = below + e
                autoencoding = ((g(layers[number](noisy).detach()) - noisy) ** 2).sum()
                weights = list(g.parameters())
                moves += zip(weights, torch.autograd.grad(autoencoding, weights), strict=True)
            descend(moves, rates["inverses"])

    def targets():
        found = {len(layers): x[-1] - options["eta"] * per_image * to_top}
        for number in range(len(layers) - 1, 0, -1):
            g = inverses[number - 1]
            found[number] = (x[number] - g(x[number + 1]) + g(found[number + 1])).detach()
        return found

    if options["order"] == "inverses":
        learn_inverses()
        aims = targets()
    else:
        aims = targets()
        learn_inverses()
    moves = list(zip(top.weights(), for_head, strict=True))
    for number, f in enumerate(layers, start=1):
        weights = list(f.parameters())
        local = ((f(x[number - 1]) - aims[number]) ** 2).sum()
        moves += zip(weights, torch.autograd.grad(local, weights), strict=True)
    descend(moves, rates["weights"])


def descend(moves, rate):
    with torch.no_grad():
        for weight, gradient in moves:
            weight -= rate * gradient


def by_rule(site, rule, batch, rates):
    optimizers = {
        name: torch.optim.SGD([p for _, p in group], lr=rates[name]) for name, group in rule.groups(site).items()
    }
    order = []
    for group in rule.phases(site, batch):
        order.append(group)
        optimizers[group].step()
        optimizers[group].zero_grad()
    return order


DEFAULTS = {"noise": 0.1, "eta": 0.5, "order": "inverses", "steps": 1, "head": "own"}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"order": "targets"},
        {"head": "random", "steps": 2, "eta": 0.2},
        {"order": "targets", "steps": 3, "noise": 0.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("net", NETS)
def test_steps_equal_algorithm_1(net, loss, given):
    options = DEFAULTS | given
    rule = make(f"dtp({', '.join(f'{name}={value}' for name, value in given.items())})")
    site, shape = make_site(net, loss, rule)
    slow, rates = copy.deepcopy(site), {"inverses": 0.003, "weights": 0.05}
    slow.head.weights = lambda: [p for p in slow.head.parameters() if p.requires_grad]
    start = copy.deepcopy(site)
    for step in range(3):
        x = torch.randn(8, *shape).double()
        labels = torch.randint(3, (8,)) if loss == "labels" else None
        assert by_rule(site, rule, Batch(x, labels, seed=4, step=step), rates) == ["inverses"] * options["steps"] + [
            "weights"
        ]
        algorithm_1(slow, options, Batch(x, labels, seed=4, step=step), rates)
        moved = dict(start.named_parameters())
        for (name, p), (_, q) in zip(site.named_parameters(), slow.named_parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-11, rtol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
            if p.requires_grad and name != "head.linear.bias":  # which the hinge's differences cancel
                assert (p - moved[name]).abs().max() > 1e-9, name


def chain(matrices, loss, rule):
    """A site of linear layers with these weights and their exact inverses."""
    size = len(matrices[0])
    layers = nn.Sequential(*(layer(linear=nn.Linear(size, size, bias=False)) for _ in matrices))
    site = Site(0, layers, layer(linear=nn.Linear(size, 3)), loss).double()
    rule.prepare(site, (size,), SEED)
    with torch.no_grad():
        for part, matrix in zip(layers, matrices, strict=True):
            part.linear.weight.copy_(matrix)
        for inverse, matrix in zip(site.inverses, matrices[1:], strict=True):
            inverse.map.weight.copy_(torch.linalg.inv(matrix))
            inverse.map.bias.zero_()
    return site


def gradients(site, rule, batch):
    """What each weight's gradient is when the inverses do not move."""
    site.zero_grad()
    for group in rule.phases(site, batch):
        if group == "inverses":
            site.inverses.zero_grad()
    return {name: p.grad.clone() for name, p in site.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("order", ["inverses", "targets"])
def test_shifts_with_exact_inverses_are_the_inverses_product(order):
    eta = 0.3
    rule = make(f"dtp(eta={eta}, order={order})")
    matrices = [torch.randn(5, 5).double() + 3 * torch.eye(5).double() for _ in range(4)]
    site = chain(matrices, ContrastiveHinge(m1=0.1, m2=5.0), rule)
    x = torch.randn(6, 5).double()
    found = gradients(site, rule, Batch(x))
    activities = [x]
    for matrix in matrices:
        activities.append(activities[-1] @ matrix.T)
    top = activities[-1].clone().requires_grad_()
    (shift,) = torch.autograd.grad(site.loss(*site.head(top).chunk(2)), top)
    shift = -eta * shift
    for number in reversed(range(4)):
        # the gradient of |W x - x^|^2 is -2 shift x^T
        torch.testing.assert_close(
            found[f"layers.{number}.linear.weight"], -2 * shift.T @ activities[number], atol=1e-10, rtol=1e-10
        )
        shift = shift @ torch.linalg.inv(matrices[number]).T


def test_orthogonal_weights_give_backpropagations_direction():
    eta = 0.2
    rule, matrices = make(f"dtp(eta={eta})"), [torch.linalg.qr(torch.randn(5, 5).double())[0] for _ in range(3)]
    site = chain(matrices, ContrastiveHinge(m1=0.1, m2=5.0), rule)
    batch = Batch(torch.randn(6, 5).double())
    found = gradients(site, rule, batch)
    expected = gradients(site, make("bp"), batch)
    for name in expected:
        factor = 1 if name.startswith("head") else 2 * eta
        torch.testing.assert_close(found[name], factor * expected[name], atol=1e-10, rtol=1e-10)


class Pull(nn.Module):
    """Sum or mean over images of each image's mean squared embedding over its patches (one, where there is no grid)."""

    labels, head, gradient = False, True, "ab"

    def __init__(self, layout, reduction):
        super().__init__()
        self.layout, self.reduction = layout, reduction

    def forward(self, first, second):
        z = first if self.layout == "patches" else torch.stack([first, second], 1) if self.layout == "pair" else first
        each = z.square().sum(-1).reshape(len(z), -1).mean(1)
        return each.sum() if self.reduction == "sum" else each.mean()


@pytest.mark.parametrize("layout", ["single", "pair", "patches"])
def test_eta_refers_to_one_image_whatever_the_reduction(layout):
    rule, found = make("dtp"), []
    layers, top, shape = NETS["convolution"]()
    x = torch.randn(12, *shape).double()
    for reduction in ("sum", "mean"):
        site = Site(0, nn.Sequential(*layers), top, Pull(layout, reduction)).double()
        rule.prepare(site, shape, SEED)
        batch = Batch(x, torch.zeros(12), grid=(2, 3) if layout == "patches" else None)
        found.append({k: v for k, v in gradients(site, rule, batch).items() if k.startswith("layers")})
    assert len(found[0]) == 4
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-12, rtol=1e-12)


def test_the_steps_gradient_grows_with_eta_alone():
    layers, top, shape = NETS["linear"]()
    x = torch.randn(6, *shape).double()
    found = []
    for eta in (1e-6, 2e-6):
        rule = make(f"dtp(eta={eta})")
        site = Site(0, nn.Sequential(*layers), top, ContrastiveHinge(m2=6.0)).double()
        rule.prepare(site, shape, SEED)
        found.append(gradients(site, rule, Batch(x)))
    for name in found[0]:
        factor = 2 if name.startswith("layers") else 1
        torch.testing.assert_close(found[1][name], factor * found[0][name], atol=1e-11, rtol=1e-4)


def test_with_the_block_the_remembered_list_gets_no_target():
    rule = make("dtp")
    site, shape = make_site("convolution", "block", rule)
    a, b = torch.randn(2, 4, *shape).double()
    expected = gradients(site, rule, Batch(torch.cat([a, b])))
    calls = []
    for part in site.layers:
        part.register_forward_hook(lambda m, args, out: calls.append(out.requires_grad))
    remembered = site.head(site.layers(a)).detach()
    calls.clear()
    found = gradients(site, rule, Batch(torch.cat([a, b])))
    assert calls.count(True) == len(site.layers)  # one pass with a graph: that of list B
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=0, rtol=0)
    # the same embedding from elsewhere in A's place changes nothing below the head
    other = copy.deepcopy(site)
    other.loss.forward = lambda z_a, z_b: ContrastiveHinge.forward(site.loss, remembered, z_b)
    found = gradients(other, rule, Batch(torch.cat([torch.randn_like(a), b])))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize("net", NETS)
def test_a_site_of_one_layer_has_a_head_target_and_no_inverse(net):
    layers, top, shape = NETS[net]()
    first = layers[0]
    features = math.prod(shapes([first.double()], shape)[1])
    top = layer(flatten=nn.Flatten(), linear=nn.Linear(features, 3))
    site = Site(0, nn.Sequential(first), top, ContrastiveHinge(m2=6.0)).double()
    rule = make("dtp(eta=0.4)")
    rule.prepare(site, shape, SEED)
    assert list(rule.groups(site)) == ["weights"]
    batch = Batch(torch.randn(6, *shape).double())
    found, expected = gradients(site, rule, batch), gradients(site, make("bp"), batch)
    assert found.keys() == expected.keys()
    for name in expected:
        factor = 1 if name.startswith("head") else 0.8
        torch.testing.assert_close(found[name], factor * expected[name], atol=1e-12, rtol=1e-12)


def test_no_error_passes_from_layer_to_layer_but_as_a_target():
    """With inverses of zero, no target reaches below the top layer, and nothing there has a gradient."""
    rule = make("dtp")
    site, shape = make_site("convolution", "hinge", rule)
    for p in site.inverses.parameters():
        p.data.zero_()
    found = gradients(site, rule, Batch(torch.randn(8, *shape).double()))
    for name, gradient in found.items():
        below = name.startswith(("layers.0", "layers.1"))
        assert bool((gradient == 0).all()) == below or name == "head.linear.bias", name


@pytest.mark.parametrize("net", NETS)
def test_held_out_reconstruction_improves_as_the_inverses_train(net):
    torch.manual_seed(0)
    rule = make("dtp")
    site, shape = make_site(net, "hinge", rule)
    optimizer = torch.optim.Adam([p for _, p in rule.groups(site)["inverses"]], lr=1e-2)
    smooth = torch.randn(2, *shape).double()

    def images(count):
        return torch.randn(count, 2).double() @ smooth.flatten(1) / 2

    held_out = images(20).unflatten(1, shape)
    before = reconstruction_errors(site, held_out)
    for step in range(150):
        for group in rule.phases(site, Batch(images(20).unflatten(1, shape), step=step)):
            if group == "inverses":
                optimizer.step()
            site.zero_grad()
    after = reconstruction_errors(site, held_out)
    assert len(after) == len(site.layers) - 1
    assert all(a < 0.5 * b for a, b in zip(after, before, strict=True)), (before, after)


def test_reconstruction_errors_are_ratios_of_squares():
    rule = make("dtp")
    site, shape = make_site("linear", "hinge", rule)
    x = torch.randn(4, *shape).double()
    for p in site.inverses.parameters():
        p.data.zero_()
    assert reconstruction_errors(site, x) == pytest.approx([1.0, 1.0], abs=1e-12)
    site.inverses[0].map.bias.data.fill_(0.3)
    below = site.layers[0](x).detach()
    assert reconstruction_errors(site, x)[0] == pytest.approx(
        float((0.3 - below).square().sum() / below.square().sum()), abs=1e-12
    )


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2)), (2, 32, 32)),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2)), (2, 7, 7)),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(3)), (2, 11, 14)),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 8)),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 3)),
        (nn.Conv2d(2, 3, 4, stride=2, padding=1), (2, 9, 12)),
        (nn.Conv2d(2, 3, 5), (2, 12, 9)),
        (nn.Conv2d(2, 3, (3, 1), stride=(3, 1)), (2, 11, 4)),
        (nn.Conv2d(2, 3, 3, dilation=2), (2, 9, 9)),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1)), (2, 6, 5)),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.AdaptiveAvgPool2d((14, 13))), (2, 20, 20)),
        (nn.Conv1d(2, 3, 3, stride=2), (2, 9)),
        (nn.Conv3d(2, 3, 2, stride=2), (2, 5, 4, 6)),
        (nn.Sequential(LocallyConnected2d(2, 3, (7, 7), 3, padding=1), nn.MaxPool2d(2)), (2, 7, 7)),
        (LocallyConnected2d(2, 3, (7, 6), 3, stride=2), (2, 7, 6)),
        (nn.Sequential(nn.Flatten(), nn.Linear(24, 5)), (2, 3, 4)),
        (nn.Linear(4, 5), (4,)),
        (nn.Linear(4, 5), (2, 4)),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 3, 3)), (2, 4, 3)),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(2)), (2, 5, 6)),
    ],
)
def test_inverses_lead_back_to_the_shape_below(part, shape):
    above = tuple(part(torch.zeros(1, *shape)).shape[1:])
    inverse = Inverse(part, shape, above)
    back = inverse(torch.randn(3, *above))
    assert back.shape == (3, *shape)
    if not isinstance(inverse.map, nn.Linear):  # every unit below is reached, by a path that is no constant
        assert (back.std(0) > 0).all()


@pytest.mark.parametrize("name", ["cifar", "cifar-strided", "emnist", "emnist-strided"])
def test_the_papers_networks_have_inverses_that_stride_where_they_pool(name):
    shape = (1, 28, 28) if "emnist" in name else (3, 32, 32)
    encoder = build(name, shape)
    below = shapes(encoder, shape)
    top = head("flatten linear8", below[-1], None, 0, 0)
    site = Site(0, encoder, top, ContrastiveHinge())
    rule = make("dtp")
    rule.prepare(site, shape, SEED)
    for number, inverse in enumerate(site.inverses, start=1):
        assert inverse.map.kernel_size == (3, 3)
        pools = below[number][1] != below[number + 1][1]
        assert inverse.map.stride == ((2, 2) if pools else (1, 1))
        assert inverse(torch.zeros(2, *below[number + 1])).shape == (2, *below[number])
    again = Site(0, build(name, shape), head("flatten linear8", below[-1], None, 0, 0), ContrastiveHinge())
    rule.prepare(again, shape, SEED)
    for p, q in zip(site.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    rule.prepare(again, shape, SEED + 1)
    assert not torch.isclose(again.inverses[0].map.weight, site.inverses[0].map.weight).any()


def test_refusals():
    rule = make("dtp(head=random)")
    layers = nn.Sequential(layer(linear=nn.Linear(3, 3)), layer(linear=nn.Linear(3, 3)))
    with pytest.raises(InputError, match="no head"):
        rule.prepare(Site(0, layers, None, ContrastiveHinge()), (3,), 0)
    layers = nn.Sequential(layer(linear=nn.Linear(3, 3)), layer(activation=nn.Tanh()))
    with pytest.raises(InputError, match="layer 2 of the site has 0"):
        make("dtp").prepare(Site(0, layers, None, ContrastiveHinge()), (3,), 0)


def test_random_feedback_of_the_head_is_not_its_weights():
    rule = make("dtp(head=random)")
    site, shape = make_site("convolution", "hinge", rule)
    batch = Batch(torch.randn(8, *shape).double())
    random = gradients(site, rule, batch)
    site.head.linear.feedback.data.copy_(site.head.linear.weight)
    own = gradients(site, rule, batch)
    torch.testing.assert_close(own["head.linear.weight"], random["head.linear.weight"], atol=1e-12, rtol=0)
    assert (own["layers.2.linear.weight"] - random["layers.2.linear.weight"]).abs().max() > 1e-3
