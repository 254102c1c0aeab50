"""The full product of schedules, rules, losses and networks: each trains, or is refused before anything is written; and
where it trains it can be stopped anywhere."""

from itertools import product

import pytest
import torch

import saccade
from combinations import ALL, config_of
from saccade.config.names import LOSSES, RULES, SCHEDULES
from saccade.errors import InputError
from saccade.training import loop

NETWORKS = [
    "conv4 maxpool tanh | conv6 maxpool tanh",
    "conv4(stride=2) relu | local3 avgpool sigmoid | flatten linear5 hardtanh",
    "flatten linear6 gelu",
    "torch.nn.Identity",
]
# What is refused with the first of the networks: no map stands above another, or no head, for the rule.
REFUSED = {
    (schedule, rule, loss)
    for schedule, rule, loss in ALL
    if "no-head" in LOSSES[loss].facts and (rule == "dfa" or (schedule != "e2e" and rule not in ("bp", "dtp")))
}


@pytest.fixture(scope="module")
def images():
    return saccade.load_images("digits:train[:60]")


def trains(config, folder, images) -> bool:
    try:
        run = saccade.train(config, out=folder, images=images)
    except InputError as error:
        said = str(error)
    else:
        assert (run / "weights.safetensors").exists()
        return True
    assert not folder.exists(), "refused after the folder was made"
    assert "\n" not in said and said.endswith(".")
    return False


@pytest.mark.parametrize("loss", LOSSES)
def test_every_schedule_and_rule_trains_or_is_refused(loss, tmp_path, images):
    for schedule, rule in product(SCHEDULES, RULES):
        config = config_of(schedule, rule, loss, epochs=2 / 3)
        trained = trains(config, tmp_path / f"{schedule}-{rule}", images)
        assert trained == ((schedule, rule, loss) not in REFUSED), (schedule, rule)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd(momentum=0.9)"])
def test_every_combination_with_a_network_trains_or_is_refused(network, optimizer, tmp_path, images):
    trained = [
        trains(config_of(*case, optimizer, network=network, epochs=2 / 3), tmp_path / "-".join(case), images)
        for case in ALL
    ]
    assert any(trained) == (network != "torch.nn.Identity")


class Interrupted(Exception):
    pass


def interrupted(config, folder, images, monkeypatch, step: int):
    """A run that is left after `step` steps, with a checkpoint some steps before."""
    with monkeypatch.context() as patch:

        def cut(model, images, at, watch, real=loop.train_step):
            if at == step:
                raise Interrupted
            real(model, images, at, watch)

        patch.setattr(loop, "train_step", cut)
        with pytest.raises(Interrupted):
            saccade.train(config, out=folder, images=images)


def stopped_anywhere(case, tmp_path, images, monkeypatch, **changes):
    config = config_of(*case, epochs=3, checkpoint_seconds=1e-9, **changes)
    name = "-".join([*case, config.optimizer])
    try:
        whole = saccade.train(config, out=tmp_path / f"{name}-whole", images=images)
    except InputError:
        return
    for step in (2, 7):
        torch.rand(3)  # whatever else the process draws
        interrupted(config, tmp_path / name, images, monkeypatch, step)
    again = saccade.train(config, out=tmp_path / name, images=images)
    for file in ("weights.safetensors", "metrics.jsonl"):
        assert (again / file).read_bytes() == (whole / file).read_bytes(), (case, file)


FEW = [
    ("gll", "dtp", "hinge"),
    ("rll", "urf", "moco"),
    ("simultaneous", "kolen-pollack", "byol"),
    ("e2e", "dfa", "hinge-patches"),
    ("rll", "sign-symmetry", "simsiam"),
    ("gll", "weight-mirrors", "simclr"),
    ("e2e", "rf", "clapp-patches"),
]


@pytest.mark.parametrize("case", FEW, ids="-".join)
def test_a_run_stopped_twice_ends_as_one_that_was_not(case, tmp_path, images, monkeypatch):
    stopped_anywhere(case, tmp_path, images, monkeypatch, optimizer="sgd(momentum=0.9)", diagnostics=2)
    stopped_anywhere(case, tmp_path, images, monkeypatch, precision="bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd(momentum=0.9)"])
def test_every_combination_stopped_twice_ends_as_one_that_was_not(loss, optimizer, tmp_path, images, monkeypatch):
    for case in ALL:
        if case[2] == loss:
            stopped_anywhere(case, tmp_path, images, monkeypatch, optimizer=optimizer)


@pytest.mark.parametrize("optimizer", ["torch.optim.RMSprop", "no.such.Thing", "mine.Own(momentum=0.5)", "rmsprop"])
def test_an_optimizer_is_one_of_two(optimizer, images, tmp_path):
    with pytest.raises(InputError, match=f"Unknown optimizer '{optimizer.partition('(')[0]}'; it takes adam or sgd."):
        saccade.train(config_of(*next(iter(ALL)), optimizer), out=tmp_path / "run", images=images)
    assert not (tmp_path / "run").exists()
