"""The table of losses against the classes, losses by dotted path, and every loss in a short training."""

import inspect
import sys

import pytest
import torch
from torch import nn

from saccade import losses
from saccade.config.grammar import imported
from saccade.config.names import LOSSES
from saccade.config.run import TrainConfig
from saccade.data import load
from saccade.errors import InputError
from saccade.losses.clapp import CLAPP
from saccade.losses.hinge import ContrastiveHinge, contrastive_hinge
from saccade.losses.simclr import SimCLR
from saccade.training import build, train_step


@pytest.mark.parametrize("name", LOSSES)
def test_options_and_defaults_are_the_constructors(name):
    entry = LOSSES[name]
    made = imported(entry.path, "loss")
    signature = {} if made.__init__ is nn.Module.__init__ else inspect.signature(made).parameters
    assert {k: p.default for k, p in signature.items()} == {k: o.default for k, o in entry.options.items()}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in signature.values())
    assert all(o.valid(o.default) for o in entry.options.values())


@pytest.mark.parametrize("name", LOSSES)
def test_facts_are_what_the_class_declares(name):
    needs = losses.needs(losses.make(name))
    declared = {"labels": needs.labels, "patches": needs.layout == "patches", "no-head": not needs.head}
    assert LOSSES[name].facts == {fact for fact, holds in declared.items() if holds}
    assert needs.reduction in ("sum", "mean")


@pytest.mark.parametrize(
    "text",
    [
        "hinge(m1=3, m2=3)",
        "simclr(temperature=0)",
        "clapp(gradient=none)",
        "byol(momentum=1)",
        "clapp-patches(steps=0)",
    ],
)
def test_refuses_values_out_of_range(text):
    with pytest.raises(InputError, match="it takes"):
        losses.make(text)


def test_a_loss_that_refuses_is_refused_in_its_own_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(InputError, match=r"^The loss byol is made of"):
        losses.make("byol")


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("lightly.loss.BarlowTwinsLoss(lambda_param=0.01)", "lambda_param", 0.01),
        ("lightly.loss.VICRegLoss", "nu_param", 1),
    ],
)
def test_anothers_module_by_dotted_path(text, attribute, value):
    loss = losses.make(text)
    assert getattr(loss, attribute) == value
    assert losses.needs(loss) == losses.Needs()
    z_a, z_b = torch.randn(2, 8, 4, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(loss(z_a, z_b), z_a)[0]).all()


def test_a_function_by_dotted_path():
    z_a, z_b = torch.randn(2, 8, 4)
    loss = losses.make("saccade.losses.hinge.contrastive_hinge")
    assert loss(z_a, z_b) == contrastive_hinge(z_a, z_b)


class Plain:
    """A loss that is no module."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, z_a, z_b, **more):
        assert not more
        return self.scale * (z_a - z_b).abs().sum()


def test_options_of_a_class_that_is_no_module_make_it():
    z_a, z_b = torch.randn(2, 8, 4)
    assert losses.make(f"{__name__}.Plain(scale=2)")(z_a, z_b) == 2 * (z_a - z_b).abs().sum()


def test_options_of_a_function_reach_it():
    z_a, z_b = torch.randn(2, 8, 4)
    loss = losses.make("saccade.losses.hinge.contrastive_hinge(m2=0.5)")
    assert loss(z_a, z_b) == contrastive_hinge(z_a, z_b, m2=0.5) != contrastive_hinge(z_a, z_b)


@pytest.mark.parametrize(
    "text",
    ["lightly.loss.Nothing", "lightly.loss.VICRegLoss(nothing=1)", "saccade.losses.hinge.contrastive_hinge(nothing=2)"],
)
def test_refuses_what_is_not_there(text):
    with pytest.raises(InputError, match=r"it takes|cannot be made: .*unexpected keyword argument 'nothing'"):
        losses.make(text)


@pytest.mark.parametrize("loss", [ContrastiveHinge(m1=0.5, m2=1.0), SimCLR(), CLAPP()])
def test_our_losses_in_a_loop_of_ones_own(loss):
    """As lightly's are used: a model, two views, `loss(z0, z1)`, an optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
    if hasattr(loss, "sized"):
        loss.sized((8,))
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=1e-3)
    x = torch.randn(12, 1, 4, 4)
    x0, x1 = x, x + 0.1 * torch.randn(12, 1, 4, 4)
    values = []
    for _ in range(10):
        value = loss(model(x0), model(x1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]


PAIRS = [
    "hinge(negatives=5, block=true)",
    "simclr",
    "clapp",
    "clapp(negatives=1, reduction=mean, gradient=context_detached)",
    "clapp(gradient=targets_detached)",
    "clapp(gradient=fixed_weight)",
    "byol(hidden=16)",
    "simsiam(hidden=16)",
    "moco(queue=64)",
    "barlow-twins",
    "cross-entropy",
    "supervised-hinge",
    "lightly.loss.VICRegLoss",
    "saccade.losses.hinge.contrastive_hinge",
]
PATCHES = [
    "clapp-patches(negatives=2)",
    "clapp-patches(negatives=1, place=same, coin=true, gradient=split)",
    "clapp-patches(reading=authors, negatives=8)",
    "hinge-patches(block=true)",
]


@pytest.fixture(scope="module")
def digits():
    return load("digits:train")


def config(loss, schedule):
    patches = "patches" in loss
    return TrainConfig(
        data="digits:train",
        views="digits",
        size=40 if patches else None,
        network="conv8 maxpool tanh | conv8 maxpool tanh",
        head="flatten linear16",
        loss=loss,
        schedule=schedule,
        rule="bp",
        rate=1e-3,
        epochs=1,
        batch=6 if patches else 24,
        precision="float32",
    )


@pytest.mark.parametrize("schedule", ["e2e", "gll"])
@pytest.mark.parametrize("loss", PAIRS + PATCHES)
def test_trains(loss, schedule, digits):
    model = build(config(loss, schedule), digits)
    site = model.sites[0]
    before = {name: p.detach().clone() for name, p in site.named_parameters()}
    for step in range(2):
        train_step(model, digits, step)
    assert torch.isfinite(model.sums).all()
    moved = {name for name, p in site.named_parameters() if not torch.equal(p, before[name])}
    still = {name for name in before if name not in moved}
    frozen = {name for name, p in site.named_parameters() if not p.requires_grad and not name.startswith("slow.")}
    assert still == frozen  # the slow copy follows; of the weights only those held fixed stay
    assert frozen == ({"loss.weight"} if "fixed_weight" in loss else set())


@pytest.mark.parametrize(
    "loss", ["moco(queue=64)", "byol(hidden=16)", "clapp", "clapp-patches(coin=true)", "hinge-patches"]
)
def test_a_run_is_a_function_of_its_seed(loss, digits):
    states = []
    for disturbance in (0, 1):
        torch.manual_seed(disturbance)  # whatever the caller has drawn before
        model = build(config(loss, "e2e"), digits)
        for step in range(2):
            torch.rand(disturbance)
            train_step(model, digits, step)
        states.append(model.modules().state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z_a, z_b):
        return self.scale * (z_a - z_b).square().sum()


READY = Learned()


def test_a_module_at_a_path_stays_as_it_is_there():
    one, other = (losses.make(f"{__name__}.READY") for _ in range(2))
    assert len({id(one), id(other), id(READY)}) == 3 and one.scale.equal(READY.scale)
    with pytest.raises(InputError, match="is made already and takes no options"):
        losses.make(f"{__name__}.READY(margin=100)")


def test_options_of_a_function_have_names():
    with pytest.raises(InputError, match="has an option without a name"):
        losses.make("saccade.losses.hinge.contrastive_hinge(1.0)")
