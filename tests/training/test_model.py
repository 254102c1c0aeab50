"""One training step of everything together: what it touches, what it leaves, and that the same seed gives the same run.

float64; "touches nothing" is meant bit for bit.
"""

import copy
import math
import traceback
from dataclasses import replace

import pytest
import torch
from own import Counting
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from saccade import networks
from saccade.data import ImageSet, load
from saccade.errors import InputError
from saccade.losses.hinge import ContrastiveHinge
from saccade.training import build, train_step
from saccade.training.checkpoint import restore, save
from saccade.training.model import make_batch

NET = "conv3 maxpool tanh | conv4 hardtanh | conv4 maxpool tanh | conv5(stride=2)"
RULES = ["bp", "rf", "urf", "weight-mirrors", "sign-symmetry", "dfa", "dtp"]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randint(0, 256, (40, 1, 12, 12), dtype=torch.uint8, generator=generator)
    return ImageSet(pictures, torch.randint(0, 4, (40,), generator=generator))


@pytest.fixture
def config(tiny):
    return replace(
        tiny,
        views="similarity(rotation=20)",
        network=NET,
        head="flatten linear6",
        loss="hinge(m1=0.1, m2=2, negatives=3)",
        precision="float64",
        batch=8,
        rate=1e-2,
    )


def state(model):
    """Every tensor of the model and its optimizers, by site, copied."""
    kept = []
    for site in model.sites:
        tensors = {name: p.detach().clone() for name, p in site.state_dict().items()}
        for (index, group), optimizer in model.optimizers.items():
            if index == site.index:
                for number, p in enumerate(optimizer.param_groups[0]["params"]):
                    for name, value in optimizer.state.get(p, {}).items():
                        tensors[f"optimizer.{group}.{number}.{name}"] = torch.as_tensor(value).clone()
        kept.append(tensors)
    return kept


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("schedule", ["gll", "rll"])
def test_a_step_touches_the_drawn_site_and_nothing_else(config, images, schedule, block, rule):
    config = replace(config, rule="dtp(head=random)" if (rule, block) == ("dtp", 2) else rule)
    model = build(replace(config, schedule=f"{schedule}(block={block})"), images)
    assert [len(site.layers) for site in model.sites] == [block] * (4 // block)
    seen = set()
    for step in range(min(model.total_steps, 12)):
        before = state(model)
        (turn,) = model.schedule.sites(config.seed, step, len(model.sites), model.steps_per_site)
        train_step(model, images, step)
        after = state(model)
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            if index != turn:
                assert same(old, new), (step, index)
        fixed = {"rf", "sign-symmetry", "dfa", "dtp"}
        for name, old in before[turn].items():
            if "optimizer" in name or (name.endswith("feedback") and rule in fixed):
                continue
            changed = not torch.equal(old, after[turn][name])
            assert changed, (step, name)
        assert any(name.startswith("optimizer") for name in after[turn])
        assert all(p.grad is None for p in model.modules().parameters())
        seen.add(turn)
    assert len(seen) > 1


def test_every_site_has_an_optimizer_and_parameters_of_its_own(config, images):
    for schedule in ("gll", "rll(block=2)", "simultaneous"):
        model = build(replace(config, schedule=schedule, rule="dtp"), images)
        optimizers = list(model.optimizers.values())
        owned = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert len({id(optimizer) for optimizer in optimizers}) == len(optimizers)
        assert len(owned) == len(set(owned))
        assert set(owned) == {id(p) for p in model.modules().parameters() if p.requires_grad}
        for (index, group), optimizer in model.optimizers.items():
            mine = {id(p) for p in model.sites[index].parameters()}
            assert all(id(p) in mine for p in optimizer.param_groups[0]["params"])
            assert optimizer.param_groups[0]["lr"] == (1e-3 if group == "inverses" else config.rate)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("block", [1, 2])
def test_a_simultaneous_step_is_the_sum_of_its_sites_separate_steps(config, images, block, rule):
    config = replace(config, rule=rule)
    together = build(replace(config, schedule=f"simultaneous(block={block})"), images)
    assert len(together.sites) == 4 // block
    for step in range(3):  # from the states that a run passes through
        alone = []
        for index in range(len(together.sites)):
            model = copy.deepcopy(together)
            model.schedule.sites = lambda *args, index=index: (index,)
            train_step(model, images, step)
            alone.append(state(model)[index])
        train_step(together, images, step)
        for separate, joint in zip(alone, state(together), strict=True):
            assert same(separate, joint)


def test_no_gradient_passes_between_sites(config, images):
    model = build(replace(config, schedule="simultaneous"), images)
    made, _ = make_batch(model, images, 0)
    seen = []
    for site in model.sites:
        site.layers.register_forward_pre_hook(lambda module, args: seen.append(args[0].requires_grad))
    train_step(model, images, 0)
    assert seen == [False] * 4
    assert made.x.dtype == torch.float32


@pytest.mark.parametrize("rule", [*RULES, "kolen-pollack", "dtp(head=random)"])
def test_diagnostics_of_every_rule(config, images, rule):
    """The angle to backpropagation's update, against the gradients of a model that learns by it at the same weights."""
    decay = "adam(weight_decay=0.1)" if rule == "kolen-pollack" else "adam"
    config = replace(config, rule=rule, optimizer=decay, schedule="simultaneous(block=2)")
    model, reference = build(config, images), build(replace(config, rule="bp", optimizer="adam"), images)
    updates = {}  # by rule, site and weight: the gradients that its optimizer was given
    for which, each in (("rule", model), ("bp", reference)):
        for (index, _), optimizer in each.optimizers.items():

            def noted(optimizer, args, kwargs, which=which, index=index, site=each.sites[index]):
                given = {id(p) for p in optimizer.param_groups[0]["params"]}
                found = {name: p.grad.clone() for name, p in site.named_parameters() if id(p) in given}
                updates.setdefault((which, index), {}).update(found)

            optimizer.register_step_pre_hook(noted)
    rows = []
    train_step(model, images, 0, rows)
    train_step(reference, images, 0)
    assert [row["site"] for row in rows] == [0, 1]
    for row in rows:
        weights = [name for name in updates["bp", row["site"]] if name.endswith("weight")]
        assert sorted(row["angle_to_bp"]) == sorted(weights) and len(weights) == 3
        for name in weights:
            own, theirs = (updates[which, row["site"]][name] for which in ("rule", "bp"))
            cosine = float((own * theirs).sum() / own.norm() / theirs.norm())
            angle = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
            assert row["angle_to_bp"][name] == pytest.approx(angle, abs=1e-3)
        assert {"embedding_std", "rank_me", "participation_ratio"} <= set(row)
        assert ("reconstruction" in row) == rule.startswith("dtp")
        given = {"dtp(head=random)": ["head.linear"], "bp": [], "dfa": [], "dtp": []}
        expected = given.get(rule, ["layers.1.linear", "head.linear"])
        assert list(row.get("feedback_angle", {})) == list(row.get("feedback_ratio", {})) == expected
    top = [row["angle_to_bp"]["layers.0.linear.weight"] for row in rows]
    assert max(top) < 1e-3 if rule == "bp" else min(top) > 1


@pytest.mark.parametrize("schedule", ["e2e", "rll", "simultaneous"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd(momentum=0.9)"])
def test_urf_keeps_feedback_apart_by_the_same_amount(config, images, schedule, optimizer):
    model = build(replace(config, rule="urf", schedule=schedule, optimizer=optimizer, epochs=3), images)
    start = _differences(model)
    before = state(model)
    for step in range(model.total_steps):
        train_step(model, images, step)
    moved = [
        (state(model)[i][name] - old).abs().max()
        for i, site in enumerate(before)
        for name, old in site.items()
        if name.endswith("feedback")
    ]
    assert min(moved) > 1e-3
    for first, last in zip(start, _differences(model), strict=True):
        torch.testing.assert_close(last, first, atol=1e-12, rtol=0)


def _differences(model):
    parts = [part for part in model.modules().modules() if hasattr(part, "feedback")]
    return [(part.feedback - part.weight).detach().clone() for part in parts]


def test_kolen_pollack_converges_as_predicted(config, images):
    config = replace(config, rule="kolen-pollack", optimizer="adam(weight_decay=2)", epochs=4)
    model = build(config, images)
    start = _differences(model)
    for step in range(20):
        train_step(model, images, step)
    for first, last in zip(start, _differences(model), strict=True):
        torch.testing.assert_close(last, first * (1 - config.rate * 2) ** 20, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_features_of_two_axes_learn_by_every_rule(config, images, rule):
    model = build(replace(config, network="own.Lines", rule=rule), images)
    weights = [p for name, p in model.encoder.named_parameters() if name.endswith("weight")]
    before = [p.detach().clone() for p in weights]
    train_step(model, images, 0)
    assert not any(torch.equal(p, old) for p, old in zip(weights, before, strict=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("schedule", ["e2e", "rll", "simultaneous"])
def test_the_same_seed_is_the_same_run_and_another_is_not(config, images, schedule, rule):
    runs = []
    for seed in (0, 0, 1):
        model = build(replace(config, schedule=schedule, rule=rule, seed=seed, precision="float32"), images)
        torch.rand(seed + len(runs))  # the global generator is nobody's source
        for step in range(4):
            train_step(model, images, step)
        runs.append(state(model))
    assert all(same(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not any(same(a, b) for a, b in zip(runs[0], runs[2], strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_saved_and_loaded_training_goes_on_bit_for_bit(config, images, rule, tmp_path):
    config = replace(config, schedule="rll(block=2)", rule=rule)
    straight, halted = build(config, images), build(config, images)
    for step in range(8):
        train_step(straight, images, step)
    for step in range(4):
        train_step(halted, images, step)
    save(halted, 4, tmp_path)
    resumed = build(replace(config, seed=0), images)
    with torch.no_grad():  # whatever is there before loading is overwritten, feedback weights too
        for p in resumed.modules().parameters():
            p.add_(1)
    assert restore(resumed, tmp_path) == 4
    for step in range(4, 8):
        train_step(resumed, images, step)
    assert all(same(a, b) for a, b in zip(state(straight), state(resumed), strict=True))


@pytest.mark.parametrize("rule", ["bp", "dtp"])
def test_labels_reach_no_loss_that_does_not_declare_them(config, images, rule, monkeypatch):
    runs = []
    for labels in (images.labels, images.labels.flip(0), None):
        model = build(replace(config, rule=rule), replace(images, labels=labels))
        assert make_batch(model, images, 0)[1] is None
        for step in range(3):
            train_step(model, replace(images, labels=labels), step)
        assert all(batch.labels is None for _, batch in model.recent)
        runs.append(state(model))
    assert all(same(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))

    reached = []

    def spy(self, z_a, z_b, *rest):
        reached.append((z_a, z_b, *rest))
        return (z_a - z_b).square().sum()

    monkeypatch.setattr(ContrastiveHinge, "forward", spy)
    train_step(build(replace(config, rule=rule), images), images, 0)
    assert [len(arguments) for arguments in reached] == [2]
    assert all(z.shape == (8, 6) and z.is_floating_point() for z in reached[0])


def test_labels_reach_a_loss_that_does(config, images):
    model = build(replace(config, loss="cross-entropy"), images)
    _, labels = make_batch(model, images, 0)
    assert labels.shape == (8,)
    other = build(replace(config, loss="cross-entropy"), images)
    for step in range(3):
        train_step(model, images, step)
        train_step(other, replace(images, labels=images.labels.flip(0)), step)
    assert not same(state(model)[0], state(other)[0])


def test_a_layers_learning_sees_the_layers_below_as_they_are_now(config, images):
    """RLL: site 2's input runs through the current weights of sites 0 and 1."""
    model = build(replace(config, schedule="rll"), images)
    for step in range(6):
        train_step(model, images, step)
    model.schedule.sites = lambda *args: (2,)
    before = copy.deepcopy(model.encoder)
    train_step(model, images, 6)
    site, batch = model.recent[0]
    made, _ = make_batch(model, images, 6)
    torch.testing.assert_close(batch.inputs, before[1](before[0](made.x.double())), atol=1e-12, rtol=0)
    assert site.index == 2


def test_the_encoder_is_what_the_sites_train(config, images):
    for schedule in ("e2e", "gll", "simultaneous(block=2)"):
        model = build(replace(config, schedule=schedule), images)
        trained = [id(p) for site in model.sites for p in site.layers.parameters()]
        assert trained == [id(p) for p in model.encoder.parameters()]
        assert all(isinstance(site.head, nn.Module) for site in model.sites)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("own.of_each", r"The loss of_each gave torch.float64 of shape \(8,\), with a gradient; it takes one"),
        ("own.nothing", "The loss nothing gave a NoneType; it takes one"),
        ("own.a_float", "The loss a_float gave a float; it takes one"),
        ("own.detached", r"gave torch.float64 of shape \(\), without a gradient; it takes one"),
        ("own.counted", r"gave torch.int64 of shape \(\), without a gradient; it takes one"),
        (
            "torch.nn.TripletMarginLoss",
            r"TripletMarginLoss cannot be called with embeddings of shape \(6,\) \(.*negative",
        ),
    ],
)
@pytest.mark.parametrize("schedule", ["e2e", "gll"])
def test_a_loss_of_ones_own_that_gives_nothing_to_descend_is_refused(config, images, schedule, loss, says):
    config = replace(config, loss=loss, schedule=schedule)
    with pytest.raises(InputError, match=says) as caught:
        build(config, images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", ["e2e", "gll"])
def test_a_loss_of_ones_own_is_tried_once_and_left_as_it_was(config, images, schedule):
    Counting.seen.clear()
    generators = torch.get_rng_state()
    model = build(replace(config, loss="own.Counting", schedule=schedule), images)
    assert torch.equal(torch.get_rng_state(), generators)
    assert Counting.seen == [(8, 6), (8, 6)] * len(model.sites)
    assert not any(site.loss.calls for site in model.sites)


def test_a_loss_of_ones_own_is_tried_with_what_the_head_can_give(config, images):
    build(replace(config, loss="own.entropy", head="flatten linear6 sigmoid"), images)
    with pytest.raises(InputError, match="own.entropy cannot be called .*RuntimeError: .*between 0 and 1"):
        build(replace(config, loss="own.entropy"), images)


@pytest.mark.parametrize(("schedule", "fits"), [("e2e", False), ("rll", True)])
def test_a_step_that_memory_cannot_hold_is_refused(config, images, schedule, fits, monkeypatch):
    config = replace(config, schedule=schedule, optimizer="sgd", batch=8, precision="float32")
    model = build(config, images)
    shapes = networks.shapes(model.encoder, model.shape)
    layers = [networks.activity(layer, shape) for layer, shape in zip(model.encoder, shapes, strict=False)]
    weights = sum(p.numel() for site in model.sites for p in site.parameters() if p.requires_grad)
    one = 4 * weights + 4 * 16 * max(layers)  # the gradients, and the larger layer's activity for 8 pairs
    assert one < 4 * weights + 4 * 16 * sum(layers)
    monkeypatch.setattr("saccade.training.model.free_memory", lambda device: one)
    if fits:
        build(config, images)
    else:
        with pytest.raises(InputError, match=r"at batch 8 needs at least 0\.\d GiB of memory, and 0\.\d are free"):
            build(config, images)
    monkeypatch.setattr("saccade.training.model.free_memory", lambda device: one - 1)
    with pytest.raises(InputError, match="it takes a smaller batch"):
        build(config, images)


def test_views_are_drawn_anew_at_each_epoch(config, images):
    """Of the same pictures, all in one batch."""
    alike = ImageSet(images.images[:1].expand(8, -1, -1, -1).contiguous())
    model = build(config, alike)
    views = [picture.numpy().tobytes() for step in range(3) for picture in make_batch(model, alike, step)[0].x]
    assert model.steps_per_epoch == 1 and len(set(views)) == 3 * 2 * 8


def test_a_part_of_an_epoch_is_rounded_to_whole_steps(config, images):
    assert [build(replace(config, epochs=e), images).total_steps for e in (0.05, 0.75, 1.1, 1.15)] == [1, 4, 6, 6]


def test_an_optimizers_options_reach_it(config, images):
    asked = {"adam(beta1=0.5, beta2=0.9, weight_decay=0.1)": {"betas": (0.5, 0.9), "weight_decay": 0.1}}
    asked |= {"sgd(momentum=0.7, weight_decay=0.2)": {"momentum": 0.7, "weight_decay": 0.2}}
    for text, options in asked.items():
        [optimizer] = build(replace(config, optimizer=text), images).optimizers.values()
        assert options.items() <= optimizer.param_groups[0].items()


def test_the_slow_copy_follows_by_its_momentum(config, images):
    model = build(replace(config, loss="byol(momentum=0.9, hidden=8)"), images)
    [site] = model.sites
    before = [p.clone() for p in site.slow.parameters()]
    train_step(model, images, 0)
    fast = [*site.layers.parameters(), *site.head.parameters()]
    for slow, old, now in zip(site.slow.parameters(), before, fast, strict=True):
        torch.testing.assert_close(slow, 0.9 * old + 0.1 * now.detach())
        assert not torch.equal(now, old)


@pytest.mark.parametrize("rule", ["urf", "sign-symmetry"])
def test_diagnostics_of_feedback_are_of_what_carries_the_error(config, images, rule):
    """Its angle to the forward weights, and its norm over theirs; of magnitudes, with the forward weights' signs."""
    model, rows = build(replace(config, rule=rule), images), []
    train_step(model, images, 0, rows)
    [row] = rows
    assert len(row["feedback_angle"]) == 4
    for name, angle in row["feedback_angle"].items():
        part = model.sites[0].get_submodule(name)
        up, down = part.weight.detach(), part.feedback.detach()
        down = down * up.sign() if rule == "sign-symmetry" else down
        cosine = float((down * up).sum() / down.norm() / up.norm())
        assert math.cos(math.radians(angle)) == pytest.approx(cosine, abs=1e-5)
        assert row["feedback_ratio"][name] == pytest.approx(float(down.norm() / up.norm()), abs=1e-5)


def test_dropout_drops_others_at_each_step_and_the_same_at_the_same(config, images):
    dropped = []
    for _ in range(2):
        model = build(replace(config, network="own.dropping"), images)
        first = next(part for part in model.encoder.modules() if isinstance(part, nn.Dropout))
        first.register_forward_hook(lambda part, x, y: dropped.append((x[0] != 0) & (y == 0)))
        for step in (0, 1):
            train_step(model, images, step)
    assert [0.2 < float(mask.double().mean()) < 0.4 for mask in dropped] == [True] * 4
    assert dropped[0].equal(dropped[2]) and dropped[1].equal(dropped[3]) and not dropped[0].equal(dropped[1])


def test_a_whole_number_is_a_mean_of_adams_too(config, images):
    train_step(build(replace(config, optimizer="adam(beta1=0)"), images), images, 0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("schedule", ["e2e", "gll"])
def test_with_the_gradient_block_bfloat16_learns_what_float32_learns(config, images, schedule, rule):
    """The remembered view is run without gradient, and autocast must not keep the weights that it rounded for that."""
    moved = []
    for precision in ("float32", "bfloat16"):
        block = "hinge(m1=0.1, m2=9, negatives=3, block=true)"
        changes = {
            "loss": block,
            "schedule": schedule,
            "rule": rule,
            "optimizer": "sgd",
            "network": "conv3 tanh | conv4 tanh",
        }
        model = build(replace(config, **changes, precision=precision), images)
        before = {name: p.detach().clone() for name, p in model.sites[0].named_parameters() if p.requires_grad}
        train_step(model, images, 0)
        moved.append(
            {name: p.detach() - before[name] for name, p in model.sites[0].named_parameters() if name in before}
        )
    for name, exact in moved[0].items():
        likeness = torch.cosine_similarity(exact.flatten(), moved[1][name].flatten(), 0)
        assert exact.abs().max() > 0 and likeness > 0.8, (name, likeness)


class Waits(TorchDispatchMode):
    """Operations whose result the host needs before it goes on, so that on a GPU it would wait for all before them."""

    def __init__(self, spared):
        super().__init__()
        self.spared, self.found = spared, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(i is not None and i.dtype == torch.bool for i in args[1])
        waits = by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")
        if waits and args[0].data_ptr() not in self.spared:
            self.found.append((name, *[at for at in traceback.format_stack() if "/saccade/" in at][-1:]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("views", ["digits", "paper", "affine-hsv"])
@pytest.mark.parametrize(
    ("loss", "schedule", "rule"),
    [
        ("hinge", "e2e", "bp"),
        ("hinge(negatives=5, block=true)", "rll", "urf"),
        ("simclr", "simultaneous", "rf"),
        ("hinge(negatives=5)", "e2e", "dtp"),
        ("hinge", "gll", "dfa"),
        ("clapp(negatives=3)", "e2e", "bp"),
    ],
)
def test_a_step_waits_for_no_result(tiny, images, views, loss, schedule, rule):
    """Not between two log lines, that is: the host of a GPU is to run ahead of it."""
    model = build(replace(tiny, views=views, loss=loss, schedule=schedule, rule=rule, epochs=5), images)
    model.remembers = False
    for step in range(5):  # until every site has had its turn, and the optimizers their states
        train_step(model, images, step)
    states = [state for optimizer in model.optimizers.values() for state in optimizer.state.values()]
    with Waits({state["step"].data_ptr() for state in states}) as waits:  # Adam's counters stay with the host
        train_step(model, images, 5)
    assert waits.found == []


class Recurrent(nn.Module):
    """A part that gives a tuple."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(28, 5, batch_first=True)

    def forward(self, x):
        return self.gru(x[:, 0])[0]


def recurrent():
    return nn.Sequential(Recurrent(), nn.Flatten(), nn.Linear(140, 6))


class Deep(nn.Conv3d):
    def forward(self, x):
        return super().forward(x[:, :, None])[:, :, 0]


def deep():
    return nn.Sequential(Deep(1, 4, (1, 3, 3)), nn.Tanh(), nn.Conv2d(4, 4, 3))


@pytest.mark.parametrize("network", ["recurrent", "deep"])
def test_networks_of_other_parts_than_ours_train(tiny, network):
    images = load("digits:train[:60]")
    model = build(replace(tiny, network=f"{__name__}.{network}"), images)
    before = state(model)
    train_step(model, images, 0)
    assert not all(map(same, before, state(model)))


def projector():
    return nn.Sequential(nn.Flatten(), nn.Linear(294, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize("head", [f"{__name__}.projector", "flatten linear8 | linear4"])
def test_a_head_of_several_maps_is_refused(tiny, head):
    with pytest.raises(InputError, match="has several layers; it takes one"):
        build(replace(tiny, head=head), load("digits:train[:60]"))


def queued(z_a, z_b, negatives=1):
    return (z_a - z_b).square().mean() * negatives


def test_options_of_a_loss_of_ones_own_mean_what_it_says(tiny):
    assert build(replace(tiny, loss=f"{__name__}.queued(negatives=1000)"), load("digits:train[:60]"))
