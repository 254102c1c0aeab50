"""Pictures of what flows where: what is drawn is what the modules do."""

import xml.etree.ElementTree as ET

import pytest
import torch

from saccade.config.run import TrainConfig
from saccade.data import ImageSet, load
from saccade.errors import InputError
from saccade.plausibility.audit import thin_model
from saccade.report.schematic import flow, pairs, schematic, timeline
from saccade.rules.gradient import Backpropagation

SMALL = {
    "data": "digits:train[:64]",
    "views": "digits",
    "network": "conv4 maxpool tanh | conv6 tanh | conv8 tanh",
    "head": "flatten linear8",
    "loss": "hinge(negatives=2, block=true)",
    "batch": 8,
    "epochs": 3,
}
W3, B3 = "layers.2.linear.weight", "layers.2.linear.feedback"
W, B = "head.linear.weight", "head.linear.feedback"
# From layer 2 to layer 3 to the head: through what, which of it carries signals too, which of it learns.
WAYS = {
    "bp": [({W3}, {W3}, {W3}), ({W}, {W}, {W})],
    "rf": [({B3}, set(), set()), ({B}, set(), set())],
    "urf": [({B3}, set(), {B3}), ({B}, set(), {B})],
    "weight-mirrors": [({B3}, set(), {B3}), ({B}, set(), {B})],
    "sign-symmetry": [({B3, W3}, {W3}, {W3}), ({B, W}, {W}, {W})],
    "dfa": [({B3}, set(), set()), ({B}, set(), set())],
    "dtp": [({"inverses.1.map.weight"}, set(), {"inverses.1.map.weight"}), ({W}, {W}, {W})],
    "dtp(head=random)": [({"inverses.1.map.weight"}, set(), {"inverses.1.map.weight"}), ({B}, set(), set())],
}


def seen(site=0, **options):
    config = TrainConfig(**SMALL | options)
    return flow(*thin_model(config, load(config.data)), site)


def words(svg):
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("rule", WAYS)
def test_the_error_goes_through_what_the_rule_says(rule):
    found = seen(rule=rule)
    _, *above = found.errors[0]
    assert [(set(one.names), set(one.shared), set(one.moving)) for one in above] == WAYS[rule]
    assert [one.above for one in found.errors[0]] == ([None, None, 3] if rule == "dfa" else [1, 2, 3])
    assert {f"0.layers.{k}.linear.weight" for k in range(3)} | {f"0.{W}"} <= found.moved


class Hidden(Backpropagation):
    """Backpropagation under another name."""


def test_a_rule_of_ones_own_is_seen_for_what_it_does():
    assert [one.shared for one in seen(rule=f"{__name__}.Hidden").errors[0]][1:] == [{W3}, {W}]


def test_layer_by_layer_one_site_moves():
    found = seen(site=1, schedule="gll", rule="rf")
    assert found.turns == (1,)
    assert {name.split(".")[0] for name in found.moved} == {"1"}
    [head] = found.errors[1]
    assert head.names == (B,) and head.above == 1
    every = seen(schedule="simultaneous")
    assert every.turns == (0, 1, 2) and {name.split(".")[0] for name in every.moved} == {"0", "1", "2"}


def test_the_picture_tells_sizes_and_is_the_same_again():
    config = TrainConfig(**SMALL | {"schedule": "rll", "rule": "urf"})
    drawn = schematic(config, site=0)
    assert {"layer 3", "conv 8, tanh", "4 × 14 × 14", "view B; A is remembered", "B, learns"} <= set(words(drawn))
    assert words(drawn).count("hinge") == 1  # one site learns
    assert drawn == schematic(config, site=0)


def test_a_step_that_moves_nothing_is_not_drawn():
    blank = ImageSet(torch.zeros(8, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(InputError, match="moved no weight"):
        schematic(TrainConfig(**SMALL), images=blank)


def test_a_site_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="site is 3; it takes a whole number from 0 to 2"):
        schematic(TrainConfig(**SMALL | {"schedule": "gll"}), site=3)


def filled(svg, colour):
    cells = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
    return [c for c in cells if c.get("fill") == colour and c.get("height") != "12"]  # the legend's are 12 high


@pytest.mark.parametrize(
    ("schedule", "length", "learning"),
    [("e2e", 4, 4 * 3), ("gll", 12, 12), ("rll", 12, 12), ("simultaneous", 4, 4 * 3), ("gll(block=2)", 8, 4 * 2 + 4)],
)
def test_timeline(schedule, length, learning):
    drawn = timeline(schedule, layers=3, steps=4)
    assert f"{length} steps" in words(drawn)
    assert len(filled(drawn, "#0072b2")) == learning


@pytest.mark.parametrize(
    ("loss", "others", "errors"),
    [
        ("hinge", 6 * 5, 2),
        ("hinge(negatives=2, block=true)", 6 * 2, 1),
        ("hinge(negatives=3, reading=authors)", 5 + 4, 2),  # no wrap-around
        ("clapp(negatives=1, gradient=context_detached)", 6, 1),
        ("simclr", 6 * 5 + 2 * 15, 2),
    ],
)
def test_pairs(loss, others, errors):
    drawn = pairs(loss)
    assert len(filled(drawn, "#d55e00")) == 2 * others
    assert len(filled(drawn, "#009e73")) == 2 * 6
    assert words(drawn).count("gets an error") == errors


def test_pairs_of_a_loss_on_patches_are_refused():
    with pytest.raises(InputError, match="two lists of views"):
        pairs("hinge-patches")


def test_torchs_generator_is_left_alone():
    torch.manual_seed(1)
    first = torch.rand(1)
    torch.manual_seed(1)
    pairs("clapp")
    schematic(TrainConfig(**SMALL))
    assert torch.equal(torch.rand(1), first)
