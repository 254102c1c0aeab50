"""One run over several processes: equal to one process, alike on all, and whole when one of them dies."""

import json
import os
import signal
from dataclasses import replace
from itertools import product

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import saccade
from combinations import config_of
from one_and_two import FLOAT32, apart, compare, end, ends, together, trainable
from saccade.cli import main
from saccade.config.names import LOSSES, RULES, SCHEDULES
from saccade.errors import InputError, Lost, RunError, Stopped
from saccade.ranks import Ranks, joined
from saccade.rules.site import Site
from saccade.training import build, checkpoint, loop, stages
from saccade.training.folder import read_metrics

CPU = torch.device("cpu")
SQUARE = [(schedule, rule, "hinge") for schedule in SCHEDULES for rule in RULES]


@pytest.fixture(scope="module")
def images():
    return saccade.load_images("digits:train[:60]")


# ---------------------------------------------------------------------------------------------- equal to one process


@pytest.mark.parametrize(("precision", "least", "changes"), [("float64", 1e-10, {}), ("float32", 1e-5, FLOAT32)])
def test_two_ranks_end_where_one_process_ends_for_every_schedule_and_rule(images, precision, least, changes):
    cases = trainable(SQUARE, images, precision=precision, **changes)
    assert len(cases) == len(SQUARE)
    if precision == "float32":  # two inputs of a max pool differ by rounding there, and another one wins: 5e-5
        case = ("e2e", "weight-mirrors", "hinge")
        cases[case] = replace(cases[case], network=cases[case].network.replace("maxpool", "avgpool"))
    found = dict(zip(cases, compare(list(cases.values()), images), strict=True))
    assert max(found.values()) < least, found


def test_two_ranks_end_where_one_process_ends_for_every_loss(images):
    cases = [(("e2e", "simultaneous", "rll")[k % 3], ("dtp", "bp")[k % 2], loss) for k, loss in enumerate(LOSSES)]
    chosen = trainable(cases, images, precision="float64")
    assert list(chosen) == cases
    found = compare(list(chosen.values()), images)
    assert max(found) < 1e-10, dict(zip(chosen, found, strict=True))


def test_a_rule_of_ones_own_without_copies_ends_where_one_process_ends(images):
    [found] = compare([config_of("e2e", "own.Bare", "hinge", precision="float64")], images)
    assert found < 1e-10


@pytest.mark.parametrize("loss", ["hinge-patches(negatives=15)", "hinge(negatives=10, reading=authors)"])
def test_as_many_negatives_as_a_process_has_are_taken(images, loss):
    size = 32 if "patches" in loss else None
    config = replace(config_of("e2e", "bp", "hinge"), loss=loss, size=size, negatives="local")
    assert build(config, images, Ranks(0, 2, 20, "local", "batch"))


def test_what_is_compared_has_moved(images):
    config = config_of("e2e", "dtp", "hinge", epochs=20 / 3, precision="float64")
    assert apart(end(config, images), end(replace(config, epochs=19 / 3), images)) > 1e-4
    assert apart(end(config, images), end(replace(config, seed=1), images)) > 1e-2


def test_shares_need_not_be_even(images):
    configs = [config_of(*case, epochs=2, precision="float64") for case in (("simultaneous", "dtp", "hinge"),
               ("e2e", "rf", "hinge-patches"), ("gll", "urf", "cross-entropy"), ("e2e", "weight-mirrors", "hinge"))]  # fmt: skip
    assert max(compare(configs, images, count=3)) < 1e-10


@pytest.mark.parametrize(
    ("loss", "reduction"), [("hinge(m2=1.5, negatives=4)", "sum"), ("simclr(reduction=mean)", "mean")]
)
def test_local_negatives_are_those_of_a_ranks_own_share(images, loss, reduction):
    config = replace(config_of("e2e", "bp", "hinge", epochs=2, precision="float64"), loss=loss)
    halved = replace(config, loss=f"own.Halves(reduction={reduction})")
    [ours, _] = together(2, ends, [replace(config, negatives="local")], images)
    assert apart(end(halved, images), ours[0]) < 1e-10
    assert apart(end(config, images), ours[0]) > 1e-6


@pytest.mark.parametrize("count", [2, 3])
def test_a_pipeline_of_layers_ends_where_one_process_ends(images, count):
    network = "conv4 maxpool tanh | conv6 maxpool tanh | conv5 tanh"
    cases = [(schedule, rule, "hinge") for schedule in ("simultaneous", "rll", "gll") for rule in ("bp", "dtp", "urf")]
    cases += [("simultaneous", "bp", loss) for loss in ("cross-entropy", "moco", "clapp-patches")]
    chosen = trainable(cases, images, precision="float64", network=network, divide="layers")
    assert list(chosen) == cases
    found = compare([*chosen.values(), replace(chosen[cases[0]], network="own.dropping")], images, count)
    assert max(found) < 1e-10, dict(zip([*cases, "dropout"], found, strict=True))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4 * 6 * 6))], ids=str)
def test_a_site_is_as_it_was_when_its_operations_are_counted(norm):
    site = Site(0, nn.Sequential(nn.Conv2d(1, 4, 3), norm), None, nn.Identity())
    before = {name: tensor.clone() for name, tensor in site.state_dict().items()}
    assert stages.operations(site, (1, 8, 8)) == 2 * 4 * 9 * 36 and site.training
    assert all(torch.equal(before[name], tensor) for name, tensor in site.state_dict().items())


@pytest.mark.parametrize("costs", [[1, 9, 5, 9, 19], [5, 1, 1, 1], [1, 1, 1, 30]])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_stages_are_as_even_as_can_be(monkeypatch, costs, count):
    monkeypatch.setattr(stages, "operations", lambda site, shape: site)
    found = stages.stages(costs, costs, count)
    assert [k for stage in found for k in stage] == list(range(len(costs))) and all(found) and len(found) == count
    worst = max(sum(costs[k] for k in stage) for stage in found)
    for marks in product(range(count), repeat=len(costs)):  # each site's process, in every way
        if list(marks) == sorted(marks) and len(set(marks)) == count:
            assert worst <= max(sum(c for c, m in zip(costs, marks, strict=True) if m == k) for k in range(count))


# ------------------------------------------------------------------------------------------------- a run and its folder


def trained(config, out, images, at=None, what=None):
    """Train on this rank; `what(rank)` is done before the step `at`."""

    def step(model, images, number, watch, real=loop.train_step):
        if number == at:
            what(model.ranks.rank)
        real(model, images, number, watch)

    loop.train_step = step
    saccade.train(config, out=out, images=images)


def kill(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def ask_to_stop(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def tamper(rank):
    if rank == 1:
        checkpoint.agree.__globals__["digest"] = lambda state: "another"


@pytest.fixture
def config():
    return config_of("simultaneous", "dtp", "hinge", epochs=4, precision="float64", diagnostics=5)


@pytest.fixture
def untouched(config, images, tmp_path):
    run = saccade.train(config, out=tmp_path / "untouched", images=images)
    return load_file(run / "weights.safetensors"), read_metrics(run)


def alike(run, untouched) -> bool:
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (read_metrics(run), untouched[1])]
    measured = [
        [row["angle_to_bp"] for row in rows if "angle_to_bp" in row] for rows in (read_metrics(run), untouched[1])
    ]
    assert measured[0] == measured[1] and losses[0] == pytest.approx(losses[1], rel=1e-10)
    return apart(load_file(run / "weights.safetensors"), untouched[0]) < 1e-10


@pytest.mark.parametrize("divide", ["batch", "layers"])
def test_a_run_on_two_ranks_writes_what_one_process_writes(config, images, tmp_path, untouched, divide):
    config = replace(config, divide=divide)
    assert together(2, trained, config, tmp_path / "run", images) == [None, None]
    assert alike(tmp_path / "run", untouched)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2


def test_a_layer_that_collapses_on_another_rank_is_warned_of(images, tmp_path):
    changes = {"loss": "own.collapsing", "head": "flatten linear8 hardtanh", "rate": 0.1, "epochs": 20}
    config = replace(config_of("simultaneous", "bp", "hinge"), **changes)
    saccade.train(config, out=tmp_path / "one", images=images)
    assert together(2, trained, replace(config, divide="layers"), tmp_path / "two", images) == [None, None]
    one, two = ([row for row in read_metrics(tmp_path / name) if "warning" in row] for name in ("one", "two"))
    assert one == two and {row["site"] for row in one} == {0, 1}


def trained_again(config, out, images):
    for seed in (0, 1):
        saccade.train(replace(config, seed=seed), out=out / str(seed), images=images)


def test_ranks_that_have_trained_may_train_again(config, images, tmp_path):
    config = replace(config, epochs=1)
    assert together(2, trained_again, config, tmp_path, images) == [None, None]
    assert all((tmp_path / seed / "weights.safetensors").exists() for seed in "01")


@pytest.mark.parametrize(("seconds", "count"), [(1e-9, 3), (60, 1)])
def test_a_rank_that_dies_ends_the_run_which_any_number_of_ranks_continue(
    config, images, tmp_path, untouched, seconds, count
):
    out = tmp_path / "run"
    config = replace(config, checkpoint_seconds=seconds)
    left, killed = together(2, trained, config, out, images, 7, kill)
    assert killed is None and isinstance(left, Lost) and left.first
    newest = checkpoint.found(out)[0]
    assert int(newest.name.split("-")[1]) in ((6, 7) if seconds < 1 else (0,))
    assert str(left).startswith("Process 0 of 2: another process of this run has died or cannot be reached (")
    assert str(left).endswith(f"; the same command, on any number of processes, continues from {newest.name}.")
    assert "\n" not in str(left)
    together(count, trained, config, out, images)
    assert alike(out, untouched)


@pytest.mark.parametrize("divide", ["batch", "layers"])
def test_one_rank_that_is_asked_to_stop_stops_all_at_the_same_step(config, images, tmp_path, untouched, divide):
    config = replace(config, divide=divide)
    first, second = together(2, trained, config, tmp_path / "run", images, 7, ask_to_stop)
    assert isinstance(first, Stopped) and isinstance(second, Stopped) and str(first) == str(second)
    saccade.train(config, out=tmp_path / "run", images=images)
    assert alike(tmp_path / "run", untouched)


def test_ranks_whose_weights_differ_are_found(config, images, tmp_path):
    found = together(2, trained, replace(config, checkpoint_seconds=1e-9), tmp_path, images, 3, tamper)
    assert [str(error) for error in found] == ["The weights of process 1 of this run are not those of process 0."] * 2
    assert all(isinstance(error, RunError) for error in found)


def test_what_one_rank_is_refused_is_refused_by_all(config, images, tmp_path):
    (tmp_path / "other").write_text("no run")
    found = together(2, trained, config, tmp_path, images)
    assert all(isinstance(error, InputError) and "holds other files and no run" in str(error) for error in found)
    found = together(2, other_images, config, tmp_path / "run")
    assert [str(error) for error in found] == ["The images of process 1 of this run are not those of process 0."] * 2
    assert not (tmp_path / "run").exists()


def other_images(config, out):
    saccade.train(
        replace(config, data="digits:train[:60]" if os.environ["RANK"] == "0" else "digits:train[:80]"), out=out
    )


# -------------------------------------------------------------------------------------------------------- what is sent


def sent(config, images):
    with joined(CPU, config.batch, config.negatives) as ranks:
        end(config, images, ranks)
        return ranks.sent


@pytest.mark.parametrize("rule", ["bp", "urf", "dtp"])
def test_only_what_was_trained_is_sent(images, rule):
    alone = build(config_of("rll", rule, "hinge"), images)
    config = config_of("rll", rule, "hinge", epochs=20 / 3)
    turns = [alone.schedule.sites(0, step, 2, 20)[0] for step in range(20)]
    names = [[n for n, p in site.named_parameters() if p.requires_grad] for site in alone.sites]
    assert all(any("feedback" in n for n in own) == (rule == "urf") for own in names)
    sizes = [
        sum(4 * p.numel() for n, p in site.named_parameters() if p.requires_grad and "feedback" not in n)
        for site in alone.sites
    ]
    [ours, theirs] = together(2, sent, config, images)
    assert ours["gradients"] == theirs["gradients"] == sum(sizes[turn] for turn in turns)
    assert ours["embeddings"] == 20 * (20 * 8 * 4)  # ten pictures, two views each, of 8 numbers


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "count", "said"),
    [
        ({"network": "own.Normalized"}, 2, "BatchNorm2d would normalize by each process's share of the batch"),
        ({"loss": "moco(queue=50)", "negatives": "local"}, 2, "keeps what it has seen"),
        ({"negatives": "local"}, 4, "5 negatives, and each of 4 processes with negatives=local of 5 pictures has 4"),
        ({"divide": "layers"}, 2, "found 1 groups of layers for 2 processes"),
        ({}, 21, "A batch of 20 leaves 21 processes 0 pictures each"),
    ],
)
def test_what_several_processes_could_not_do_is_refused(images, changes, count, said):
    config = replace(config_of("e2e", "bp", "hinge"), **changes)
    build(config, images)
    with pytest.raises(InputError, match=said):
        build(config, images, Ranks(0, count, 20, config.negatives, config.divide))


def test_the_command_line_speaks_once(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--batch", "1"]) == 2 and capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "--negatives", "far"]) == 2
    assert capsys.readouterr().err == "saccade: Unknown negatives 'far'; it takes gathered or local.\n"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["list"]) == 2
    assert (
        capsys.readouterr().err
        == "saccade: saccade list was started as several processes; it takes one (train takes several).\n"
    )
