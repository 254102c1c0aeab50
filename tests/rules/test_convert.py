"""`convert` on users' own modules: a plain chain, torchvision's networks, and what it refuses."""

import copy
import re

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from saccade.errors import InputError
from saccade.losses.hinge import ContrastiveHinge
from saccade.measures import angle
from saccade.networks import LocallyConnected2d
from saccade.rules import Batch, Site, convert, make
from saccade.rules.feedback import Direct, Feedback

FEEDBACK = ["rf", "urf", "kolen-pollack", "sign-symmetry"]


def users_chain():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Hardtanh(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(16, 5),
    ).double()


def gradients(net, x):
    net.zero_grad()
    loss = net(x).square().sum()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def slow(net):
    """The same network, unconverted, whose maps compute y = W x + (B x - B x).

    The first x and the second B x are cut off from the gradient: autograd then sends every error through B.
    """
    twin, feedback = copy.deepcopy(net), {}
    for name, part in twin.named_modules():
        if isinstance(part, Feedback):
            b = part.feedback.detach() * part.weight.sign().detach() if part.signs else part.feedback.detach()
            feedback[name] = b.clone()
    convert(twin, "bp")
    for name, part in twin.named_modules():
        if name in feedback:
            part.forward = _through(part, feedback[name])
    return twin


def _through(part, b):
    def apply(x, weight, bias):
        if isinstance(part, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, part.stride, part.padding, part.dilation, part.groups)

    def forward(x):
        beside = apply(x, b, None)
        return apply(x.detach(), part.weight, part.bias) + beside - beside.detach()

    return forward


def compare(found, expected, tolerance):
    assert expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("rule", FEEDBACK)
def test_a_users_chain_in_place_activations_and_all(rule):
    net, x = users_chain(), torch.randn(3, 3, 8, 8).double()
    names, output = dict(net.named_parameters()), net(x)
    before = {name: id(p) for name, p in names.items()}
    converted = convert(net, rule)
    assert converted is net
    assert {name: id(p) for name, p in net.named_parameters() if "feedback" not in name} == before
    torch.testing.assert_close(net(x), output, atol=0, rtol=0)
    expected = gradients(slow(net), x)
    found = gradients(net, x)
    compare(found, expected, 1e-12)
    shared = {name for name in found if name.endswith("feedback")}
    assert shared == (set() if rule in ("rf", "sign-symmetry") else {"0.feedback", "4.feedback", "8.feedback"})
    for name in shared:
        assert torch.equal(found[name], found[name.replace("feedback", "weight")])


@pytest.mark.parametrize("rule", FEEDBACK)
def test_resnet18(rule):
    torch.manual_seed(1)
    net, x = torchvision.models.resnet18(num_classes=4).double(), torch.randn(4, 3, 32, 32).double()
    plain = gradients(copy.deepcopy(net), x)
    convert(net, rule)
    expected, found = gradients(slow(net), x), gradients(net, x)
    assert len(expected) == len(plain)
    scale = max(float(g.abs().max()) for g in expected.values())
    compare({k: v / scale for k, v in found.items()}, {k: v / scale for k, v in expected.items()}, 1e-12)
    torch.testing.assert_close(found["fc.weight"], plain["fc.weight"])
    assert not torch.allclose(found["conv1.weight"], plain["conv1.weight"], rtol=0.1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    gap = (net.layer1[0].conv1.feedback - net.layer1[0].conv1.weight).detach().clone()
    optimizer.step()
    if rule == "urf":
        torch.testing.assert_close(net.layer1[0].conv1.feedback - net.layer1[0].conv1.weight, gap, atol=1e-12, rtol=0)


class _Tapped(nn.Module):
    """A map of a user's module that learns at its place: its input arrives without a gradient, and is remembered."""

    def __init__(self, part):
        super().__init__()
        self.part, self.feedback = part, part.feedback.detach().clone()
        convert(part, "bp")

    def forward(self, x):
        self.tap = x
        return self.part(x.detach())


def slow_direct(net, x):
    """Gradients under direct feedback: the loss's error at the output, carried to every map's input by its own matrix.

    What the error does from there, through normalizations, pools and skip connections, autograd is left to say, of the
    sum of tap * (B^T delta) over all taps.
    """
    twin = copy.deepcopy(net)
    taps = {name: _Tapped(part) for name, part in twin.named_modules() if isinstance(part, Direct)}
    convert(twin, "bp")
    for name, tapped in taps.items():
        owner, _, own = name.rpartition(".")
        setattr(twin.get_submodule(owner), own, tapped)
    twin.zero_grad()
    z = twin(x)
    delta = (2 * z).detach()  # of the sum of squares
    sent = [(t.tap * (delta @ t.feedback).view_as(t.tap)).sum() for t in taps.values() if t.tap.requires_grad]
    (z.square().sum() + sum(sent)).backward()
    return {n.replace(".part.", "."): p.grad for n, p in twin.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["resnet18", "a user's chain"])
def test_direct_feedback_step_by_step(kind):
    torch.manual_seed(2)
    if kind == "resnet18":
        net, x = torchvision.models.resnet18(num_classes=4).double(), torch.randn(4, 3, 32, 32).double()
    else:
        net, x = users_chain(), torch.randn(3, 3, 8, 8).double()
    plain = gradients(copy.deepcopy(net), x)
    convert(net, "dfa", example=tuple(x.shape[1:]))
    found, expected = gradients(net, x), slow_direct(net, x)
    assert found.keys() == expected.keys() == plain.keys()
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-9, atol=1e-12 * float(expected[name].abs().max())
        )
    first = "conv1.weight" if kind == "resnet18" else "0.weight"
    assert not torch.allclose(found[first], plain[first], rtol=0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    torch.optim.SGD(net.parameters(), lr=1e-3).step()  # a training step moves the weights by the reference's gradient
    for name, p in net.named_parameters():
        step = -1e-3 * expected[name] if name in expected else torch.zeros_like(p)
        torch.testing.assert_close(p.detach() - before[name], step, rtol=1e-6, atol=1e-12 * float(step.abs().max() + 1))


@pytest.mark.parametrize("rule", ["rf", "dfa"])
def test_mobilenet_runs(rule):
    net = convert(torchvision.models.mobilenet_v3_small(num_classes=2), rule, example=(3, 64, 64))
    assert all(torch.isfinite(g).all() for g in gradients(net, torch.randn(2, 3, 64, 64)).values())


def test_direct_feedback_of_a_module_whose_head_is_defined_first():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(5, 2), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.body(x).tanh())

    net, x = convert(Backwards().double(), "dfa", example=(4,)), torch.randn(3, 4).double()
    found, z = gradients(net, x), net(x)
    h = net.body(x).tanh()
    delta = (2 * z @ net.head.feedback) * (1 - h**2)
    torch.testing.assert_close(found["body.weight"], delta.T @ x, atol=1e-12, rtol=0)


def test_direct_feedback_keeps_every_parts_mode():
    net = users_chain()
    net[1].eval()
    convert(net, "dfa", example=(3, 8, 8))
    assert [part.training for part in net] == [True, False, *[True] * 7]


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 5, 6)])
def test_linear_maps_take_any_leading_shape(shape):
    _transposed_like_autograd(nn.Linear(6, 4), shape)


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 9)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(2, 1)), (2, 4, 9, 10)),
        (nn.Conv2d(4, 6, 3), (4, 7, 7)),  # no batch
        (nn.Conv3d(2, 3, 2, stride=2), (2, 2, 5, 4, 6)),
        (LocallyConnected2d(2, 3, (7, 5), 3, stride=2, padding=1), (2, 2, 7, 5)),
    ],
)
def test_every_kind_of_map_sends_errors_through_its_transpose(part, shape):
    _transposed_like_autograd(part, shape)


def _transposed_like_autograd(part, shape):
    part, x = part.double(), torch.randn(*shape).double().requires_grad_()
    y = part(x)
    error = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, *part.parameters()], error)
    count = len(list(part.parameters()))
    convert(part, "rf").feedback.data.copy_(part.weight)
    found = torch.autograd.grad(part(x), [x, *list(part.parameters())[:count]], error)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("first", [*FEEDBACK, "dfa"])
@pytest.mark.parametrize("second", [*FEEDBACK, "dfa", "bp"])
def test_converting_twice_is_converting_once_and_back_is_back(first, second):
    net, x = users_chain(), torch.randn(3, 3, 8, 8).double()
    once = convert(copy.deepcopy(net), second, example=(3, 8, 8))
    twice = convert(convert(net, first, seed=3, example=(3, 8, 8)), second, example=(3, 8, 8))
    assert list(twice.state_dict()) == list(once.state_dict())
    compare(gradients(twice, x), gradients(once, x), 0)
    if second == "bp":
        assert not any(isinstance(part, Feedback | Direct) for part in net.modules())
        fresh = users_chain()
        for part, new in zip(net.modules(), fresh.modules(), strict=True):
            assert type(part) is type(new)
            assert vars(part).keys() == vars(new).keys()
            assert not part._forward_hooks
            assert not part._forward_pre_hooks


def test_users_hooks_outlive_conversions_and_can_still_be_removed():
    net, seen = users_chain(), []
    handle = net.register_forward_hook(lambda *args: seen.append(1))
    convert(convert(net, "dfa", example=(3, 8, 8)), "bp")
    net(torch.randn(1, 3, 8, 8).double())
    handle.remove()
    net(torch.randn(1, 3, 8, 8).double())
    assert seen == [1, 1]  # one for the example that dfa ran, one for the first call


def one_sentence(text):
    return re.search(r"[.;:] [A-Z]", text) is None and text.endswith((".", ")"))


@pytest.mark.parametrize(
    ("net", "rule", "words"),
    [
        (lambda: nn.TransformerEncoderLayer(4, 2), "rf", "MultiheadAttention"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 3)), "urf", "GRU"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 3)), "sign-symmetry", "ConvTranspose2d"),
        (users_chain, "dfa", "example"),
        (users_chain, "weight-mirrors", "example"),
        (lambda: torchvision.models.resnet18(), "dtp", "ResNet"),
        (users_chain, "dtp", "loss"),
        (lambda: nn.Sequential(nn.Linear(8, 2)), "dtp", "two layers"),
        (users_chain, "backprop", "rf"),
        (lambda: torch.relu, "rf", "takes a torch.nn.Module"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Tanh()), "rf", "this one has none"),
    ],
)
def test_refusals_are_one_sentence(net, rule, words):
    with pytest.raises(InputError, match=words) as caught:
        convert(net(), rule)
    assert one_sentence(str(caught.value)), str(caught.value)


class Picky(nn.Module):
    """Takes four numbers, refuses others by an assert, calls a map by its argument's name and may leave another idle."""

    def __init__(self, idle=False):
        super().__init__()
        self.a, self.b, self.idle = nn.Linear(4, 3), nn.Linear(3, 2), idle

    def forward(self, x):
        assert x.shape[1] == 4
        x = self.a(input=x).tanh()
        return x[:, :2] if self.idle else self.b(x)


@pytest.mark.parametrize("rule", ["dfa", "weight-mirrors"])
@pytest.mark.parametrize(
    ("idle", "example", "words"),
    [
        (False, None, "needs example"),
        (False, (5,), "cannot run an example of shape"),
        (False, 4, "was given example 4"),
        (False, (4.0,), "was given example"),
        (True, (4,), "does not use b"),
    ],
)
def test_a_refused_conversion_leaves_what_the_module_had(rule, idle, example, words):
    net = convert(Picky(idle), "rf")
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(InputError, match=words) as caught:
        convert(net, rule, example=example)
    assert one_sentence(str(caught.value)), str(caught.value)
    assert isinstance(net.a, Feedback) and isinstance(net.b, Feedback)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize("rule", ["rf", "dfa", "weight-mirrors"])
def test_maps_called_by_name_are_converted_like_others(rule):
    net, x = convert(Picky(), rule, example=(4,)), torch.randn(3, 4)
    net(x).sum().backward()
    feedback = net.b.feedback.detach()  # DFA's is (outputs of the network, inputs of the map)
    down = (torch.ones(3, 2) @ feedback) * (1 - (x @ net.a.weight.T + net.a.bias).tanh() ** 2)
    torch.testing.assert_close(net.a.weight.grad, down.T @ x)


def test_mirrors_in_a_loop_of_ones_own_turn_feedback_towards_the_weights():
    torch.manual_seed(0)
    net, rule = users_chain(), make("weight-mirrors")
    assert convert(net, rule, example=(3, 8, 8)) is net
    before = {name: p.detach().clone() for name, p in net.named_parameters() if "feedback" not in name}
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(150):
        assert rule.mirror(net, step=step) == 3
        optimizer.step()
        optimizer.zero_grad()
    for part in (net[0], net[4], net[8]):
        assert angle(part.feedback.detach(), part.weight.detach()) < 15
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters() if name in before)
    convert(net, "bp")
    assert {name for name, _ in net.named_parameters()} == set(before) and not hasattr(net[0], "driven")


def test_mirrors_of_another_rules_feedback_are_refused():
    with pytest.raises(InputError, match="takes one converted to weight-mirrors"):
        make("weight-mirrors").mirror(convert(users_chain(), "rf"))
    with pytest.raises(InputError, match="takes one converted to weight-mirrors"):
        make("weight-mirrors").mirror(convert(users_chain(), "dfa", example=(3, 8, 8)))
    assert make("weight-mirrors").mirror(users_chain()) == 0


def test_dtp_refuses_a_chain_with_a_block_of_two_maps():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with pytest.raises(InputError, match="has 2"):
        convert(nn.Sequential(block, nn.Linear(4, 2)), "dtp", example=(4,), loss=ContrastiveHinge())


def test_dfa_alone_needs_one_output():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return {"z": self.a(x)}

    with pytest.raises(InputError, match="one output tensor; this one gives dict"):
        convert(Named(), "dfa", example=(3,))
    assert make("weight-mirrors").mirror(convert(Named(), "weight-mirrors", example=(3,))) == 1


def test_dtp_trains_a_users_chain():
    chain, rule = users_chain(), make("dtp(eta=0.1)")
    site = convert(chain, rule, example=(3, 8, 8), loss=ContrastiveHinge(m1=0.1, m2=2.0))
    assert isinstance(site, Site)
    assert [p.data_ptr() for p in chain.parameters()] == [
        p.data_ptr() for name, p in site.named_parameters() if not name.startswith("inverses")
    ]
    optimizers = {
        name: torch.optim.Adam([p for _, p in group], lr=rule.rates.get(name, 1e-3))
        for name, group in rule.groups(site).items()
    }
    before, losses = {name: p.detach().clone() for name, p in site.named_parameters()}, []
    x = torch.randn(6, 3, 8, 8).double()
    pairs = torch.cat([x, x + 0.05 * torch.randn_like(x)])
    for step in range(30):
        batch = Batch(pairs, step=step)
        for group in rule.phases(site, batch):
            optimizers[group].step()
            optimizers[group].zero_grad()
        losses.append(float(batch.loss))
    moved = {name for name, p in site.named_parameters() if (p - before[name]).abs().max() > 1e-4}
    assert moved == before.keys() - {
        "layers.0.linear.bias",
        "head.linear.bias",
    }  # which normalization, differences cancel
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        ("rf", {"loss": nn.MSELoss()}, "a loss, which goes with the rule dtp"),
        ("bp", {"loss": 3}, "a loss, which goes with the rule dtp"),
        ("dtp", {"loss": "hinge", "example": (8,)}, "loss, called as"),
        ("rf", {"seed": 1.5}, "seed is 1.5"),
        ("rf", {"seed": None}, "seed is None"),
        ("rf", {"seed": "x"}, "seed is 'x'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(rule, options, words):
    with pytest.raises(InputError, match=words):
        convert(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), rule, **options)
