from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from saccade.data import load
from saccade.errors import InputError
from saccade.losses.hinge import contrastive_hinge
from saccade.plausibility.circuit import NEGATIVE, POSITIVE, Circuit, learn_by_episodes
from saccade.training import build, train_step

numbers = st.floats(-6, 6, allow_nan=False, width=32)


def _gradients(anchor, positive, negative, m1, m2):
    """The hinge's gradient at a positive and at one negative, by autograd on a batch of two with the rest out of play."""
    found = []
    for z, is_positive in ((positive, True), (negative, False)):
        z = z.clone().requires_grad_()
        distance = (anchor - z).abs().sum()
        (distance - m1 if is_positive else m2 - distance).relu().backward()
        found.append(z.grad)
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=12),
    st.floats(0, 3),
    st.floats(0.5, 5),
    st.sampled_from([50.0, 1000.0]),
)
def test_errors_are_the_gradient(coordinates, m1, above, gain):
    m2 = m1 + above
    anchor, positive, negative = torch.tensor(coordinates, dtype=torch.float64).T
    circuit = Circuit(len(anchor), m1, m2, gain)
    expected = _gradients(anchor, positive, negative, m1, m2)
    for z, phase, margin, gradient in (
        (positive, POSITIVE, m1, expected[0]),
        (negative, NEGATIVE, m2, expected[1]),
    ):
        error = circuit.errors(z[None], anchor[None], phase)[0]
        assert bool((error.abs() <= 1).all())  # bounded everywhere
        differences = (anchor - z).abs()
        if bool((differences > 1.001 / gain).all()) and abs(float(differences.sum()) - margin) > 1.001 / gain:
            torch.testing.assert_close(error, gradient, rtol=0, atol=1e-9)
        assert bool((error * gradient >= 0).all())  # and never the wrong way


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_errors_add_up_to_those_of_the_batch_loss(seed):
    generator = torch.Generator().manual_seed(seed)
    z_a, z_b = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) / 2
    distances = torch.cat([(z_a - z_b).abs().sum(1) - 1, (z_a - z_b.roll(-1, 0)).abs().sum(1) - 3])
    assume(float(distances.abs().min()) > 0.002)
    circuit = Circuit(5, 1.0, 3.0, gain=1e6)
    negative = circuit.errors(z_b.roll(-1, 0), z_a, NEGATIVE).roll(1, 0)
    z_b.requires_grad_()
    contrastive_hinge(z_a, z_b, negatives=1).backward()
    torch.testing.assert_close(circuit.errors(z_b.detach(), z_a, POSITIVE) + negative, z_b.grad, rtol=0, atol=1e-9)


def test_units_have_weights_of_one_sign_and_rates_within_bounds():
    circuit = Circuit(4)
    assert all(weight >= 0 for p in circuit.populations for _, weight, _ in p.inputs)  # the sign is the unit's
    kinds = {p.name: p.excitatory for p in circuit.populations}
    assert not kinds["far"] and kinds["above"]
    z, anchor = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    rates = circuit.respond(z, anchor, POSITIVE)
    for population in circuit.populations:
        rate = rates[population.name]
        assert bool((rate >= 0).all() and (rate <= population.ceiling).all())
        assert rate.shape == (3, 4 if population.wide else 1)


def test_ties_give_no_error():
    circuit = Circuit(3)
    z = torch.tensor([[1.0, -2.0, 0.5]])
    assert circuit.errors(z, z, NEGATIVE).abs().sum() == 0  # as the loss's subgradient
    assert circuit.errors(z, z, POSITIVE).abs().sum() == 0


def test_over_time_settles_at_the_steady_rates():
    circuit = Circuit(3, gain=50.0)
    anchor, positive, negative = torch.tensor([[[0.9, -0.4, 0.2]], [[-0.5, 0.3, 0.7]], [[0.6, -0.1, 0.5]]]).double()
    course = list(circuit.over_time(anchor, positive, negative, steps=300, blank=120))
    assert len(course) == 4 * 300 + 120
    for end, z, phase in ((599, positive, POSITIVE), (1019, negative, NEGATIVE)):
        steady = circuit.respond(z, anchor, phase)
        for name in ("kept on", "kept off", "above", "far", "near", "up", "down"):
            torch.testing.assert_close(course[end][name], steady[name], rtol=0, atol=1e-4)
    assert all(float(course[t][name].abs().max()) < 1e-3 for t in (299, 719, 1319) for name in ("up", "down"))


def test_the_memory_loads_without_overshooting_holds_and_forgets():
    circuit = Circuit(2)
    anchor, other = torch.tensor([[[0.9, -2.0]], [[-5.0, 0.3]]]).double()
    course = list(circuit.over_time(anchor, other, other, steps=150, blank=50))
    kept = torch.cat([rates["kept on"] - rates["kept off"] for rates in course])
    assert bool((kept.abs() <= anchor.abs() * (1 + 1e-3)).all())
    assert bool((kept[:150].abs().diff(dim=0) >= -1e-3).all())
    held = kept[150:500]  # whatever is seen meanwhile
    torch.testing.assert_close(held, anchor.expand_as(held), rtol=0, atol=5e-3)
    assert float(kept[-1].abs().max()) < 0.02


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 3, "m1": 3.0, "m2": 3.0}, {"width": 3, "gain": 0.4}])
def test_what_is_no_circuit_is_refused(options):
    with pytest.raises(InputError, match="The circuit has"):
        Circuit(**options)


@pytest.mark.parametrize("rule", ["bp", "rf"])
def test_image_after_image_it_learns_what_the_batch_learns(tiny, rule):
    """Where steps are so small that the order of the images makes no difference."""
    loss, images = "hinge(m1=0.1, m2=3, negatives=1, block=true)", load(tiny.data)
    config = replace(tiny, loss=loss, rule=rule, optimizer="sgd", rate=1e-7, precision="float64")
    start, batches, episodes = build(config, images), build(config, images), learn_by_episodes(config, images, gain=1e6)
    for step in range(batches.total_steps):
        train_step(batches, images, step)
    for parameters in zip(*(model.encoder.parameters() for model in (start, batches, episodes)), strict=True):
        old, one, other = (p.detach() for p in parameters)
        if parameters[0].requires_grad:
            assert float((one - old).abs().max()) > 0
            torch.testing.assert_close((other - old) / 1e-7, (one - old) / 1e-7, rtol=1e-3, atol=1e-3)
