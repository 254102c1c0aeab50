"""The audit against the verdicts written down before it, and against hand-made violators. Misses and false accusations
are counted in the output."""

from dataclasses import replace

import pytest
import torch
import violators
from expected import BASELINES, FEEDBACK, ONE, OTHERS, TABLE_1, TABLE_2, violations
from torch import nn

from saccade import audit as audit_objects
from saccade.config.run import TrainConfig
from saccade.data import load
from saccade.errors import InputError
from saccade.plausibility.audit import _merged, audit, thin_model, thinned
from saccade.plausibility.verdict import CONDITIONS, MET, UNDECIDED, VIOLATED, Finding, Report


@pytest.fixture(scope="module")
def images():
    return load("digits:train[:64]")


def _config(configuration, network="cifar"):
    loss, schedule, rule, optimizer = configuration
    return TrainConfig(loss=loss, schedule=schedule, rule=rule, optimizer=optimizer, network=network)


def _count(cases, capsys):
    """Print and return misses and false accusations of (name, report, what it should violate)."""
    missed, false = [], []
    for name, report, expected in cases:
        undecided = {(f.part, f.condition) for f in report.findings if f.verdict == UNDECIDED}
        missed += [(name, *one) for one in expected - report.violations()]
        false += [(name, *one) for one in (report.violations() - expected) | undecided]
    with capsys.disabled():
        print(f"\n  {len(cases)} configurations: {len(missed)} misses, {len(false)} false accusations")
    return missed, false


def test_the_count_counts(capsys):
    """One violation that nobody expects, one that is missed, and one that is left open."""
    report = Report({}, "")
    verdicts = (("simple", VIOLATED), ("time", MET), ("space", UNDECIDED))
    report.findings = [Finding("loss", condition, verdict, ["seen"]) for condition, verdict in verdicts]
    missed, false = _count([("one", report, {("loss", "time")})], capsys)
    assert missed == [("one", "loss", "time")]
    assert sorted(false) == [("one", "loss", "simple"), ("one", "loss", "space")]


FEW = [TABLE_1[2], TABLE_1[-1], (ONE, "rll", "rf", "sgd"), (ONE, "e2e", "sign-symmetry(magnitudes=uniform)", "sgd")]


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(FEW, id="few"),
        pytest.param(TABLE_1, id="table 1", marks=pytest.mark.slow),
        pytest.param(TABLE_2, id="table 2", marks=pytest.mark.slow),
        pytest.param(OTHERS, id="others", marks=pytest.mark.slow),
        pytest.param(BASELINES, id="baselines", marks=pytest.mark.slow),
    ],
)
def test_expected_verdicts(cases, images, capsys):
    if cases is BASELINES:
        pytest.importorskip("lightly")
    network = "vgg6" if cases is TABLE_2 else "cifar"
    reports = [(case, audit(_config(case, network), images), set(violations(case))) for case in cases]
    assert _count(reports, capsys) == ([], [])


def _judged(name, images):
    options, violates = violators.CASES[name]
    violators.SEEN["labels"] = images.labels
    return name, audit(TrainConfig(**options), images), violates


def test_violators_and_the_innocent(images, capsys):
    from saccade.plausibility.audit import stand_in

    images = replace(stand_in(images, 64), labels=images.labels.clone())
    cases = [_judged(name, images) for name in violators.CASES]
    assert _count(cases, capsys) == ([], [])


def test_pictures_sorted_by_class_blame_who_peeks_and_no_one_else():
    """The first pictures are of one class then: a bias of zeros equals their labels, and exchanging them changes nothing."""
    every = load("digits:train")
    order = every.labels.argsort()
    images = replace(every, images=every.images[order], labels=every.labels[order])
    innocent = TrainConfig(network="violators.normed_network", loss=ONE, rule="rf", optimizer="sgd")
    assert not audit(innocent, images).blamed("unsupervised")
    for pictures in (images, every):
        _, report, violates = _judged("a loss that peeks at labels", pictures)
        assert ("loss", "unsupervised") in violates and report.violations() >= violates
    alike = replace(images.take(0, 60), labels=torch.zeros(60, dtype=torch.long))
    assert not audit(innocent, alike).blamed("unsupervised")


def test_a_schedule_that_asks_for_the_loss_is_left_open(images):
    options = {"network": violators.CONVOLUTIONS, "loss": "violators.felt_hinge", "schedule": "violators.Moody"}
    report = audit(TrainConfig(**options), images)
    assert {f.verdict for f in report.findings if f.part == "schedule"} == {UNDECIDED}


def test_pictures_are_no_feedback_weights(images):
    """A batch of 16 views has as many numbers as a layer of 16 units has weights."""
    report = audit(TrainConfig(network="flatten linear128 tanh | linear128 tanh", loss=ONE), images)
    assert not [remark for remark in report.remarks if "a tensor" in remark]


def test_labels_are_as_they_were_after_an_audit(images):
    before = images.labels.clone()
    audit(_config((ONE, "e2e", "rf", "sgd")), images)
    assert before.equal(images.labels)


def test_labels_are_as_they_were_after_an_audit_that_fails(images, monkeypatch):
    before, updates = images.labels.clone(), []

    def failing(world):
        updates.append(images.labels.clone())
        if len(updates) == 2:
            raise InterruptedError
        return {}

    monkeypatch.setattr("saccade.plausibility.world.World.updates", failing)
    monkeypatch.setattr("saccade.plausibility.learning.examine", lambda world: [])
    with pytest.raises(InterruptedError):
        audit(_config((ONE, "e2e", "rf", "sgd")), images)
    assert not before.equal(updates[1]) and before.equal(images.labels)


def test_a_queue_is_measured_against_what_is_declared(images):
    _, report, _ = _judged("a queue longer than declared", images)
    [evidence] = [f.evidence for f in report.findings if (f.part, f.condition) == ("loss", "time")]
    assert "24" in evidence[0]
    assert "more than the 8" in evidence[0]


def test_what_draws_its_own_numbers_is_not_decidable(images):
    options = violators._BASE | {"loss": "violators.undecided_hinge"}
    report = audit(TrainConfig(**options), images)
    assert report.verdict("space", ["loss"]) == UNDECIDED
    assert report.verdict("space") == UNDECIDED


@pytest.mark.parametrize("rule", FEEDBACK)
def test_feedback_over_time(rule, images):
    optimizer = "adam(weight_decay=1)" if rule == "kolen-pollack" else "sgd"
    report = audit(_config((ONE, "e2e", rule, optimizer), "conv32 tanh maxpool | conv40 tanh maxpool"), images)
    kinds = [remark.split(": ")[1] for remark in report.remarks if "inverses" not in remark]
    assert report.verdict("asymmetric") == MET
    if rule == "dfa":  # its matrices are of other shapes, but for the head's
        assert all(kind.startswith("fixed") for kind in kinds)
    else:
        assert kinds
        assert all(kind.startswith(FEEDBACK[rule]) for kind in kinds)


def test_evidence_names_operation_and_line(images):
    report = audit(_config(TABLE_1[-3]), images)
    found = {(f.part, f.condition): " ".join(f.evidence) for f in report.findings if f.verdict == VIOLATED}
    assert "_log_softmax at saccade/losses/simclr.py:" in found["loss", "simple"]
    assert "convolution_backward at " in found["rule", "asymmetric"]
    assert "torch/optim/" in found["optimizer", "simple"]


def test_evidence_names_the_module(images):
    _, report, _ = _judged("batch norm in a layer", images)
    [evidence] = [f.evidence for f in report.findings if (f.part, f.condition) == ("network", "simple")]
    assert "batch_norm" in evidence[0]
    assert "in layers.1" in evidence[0] or "in layers.0" in evidence[0]


def test_facts_without_verdict(images):
    report = audit(_config((ONE, "rll", "rf", "sgd"), "local32(stride=4) relu | conv40 relu maxpool"), images)
    assert report.beyond["negatives held"] == 1
    assert "sign suffices" in report.beyond["precision of the error"]
    assert "layers.0.linear" in report.beyond["weight sharing"]  # the second site's convolution; the first shares none
    assert report.needs["memory of the loss"] == "one anchor's embedding, while 2 other views are seen"
    assert report.needs["phases of a step"] == 1
    everyone = audit(_config(("simclr", "e2e", "bp", "sgd"), "conv32 tanh maxpool | conv40 tanh maxpool"), images)
    assert everyone.beyond["negatives held"] == "all others of the batch"
    assert "graded" in everyone.beyond["precision of the error"]
    assert everyone.needs["locking"] == "all 3 maps wait for the error at the top"
    greedy = audit(_config((ONE, "gll", "rf", "sgd"), "conv32 tanh maxpool | conv40 tanh maxpool"), images)
    assert "until those below have learned" in greedy.needs["locking"]
    targets = audit(_config((ONE, "e2e", "dtp", "sgd"), "conv32 tanh maxpool | conv40 tanh maxpool"), images)
    assert targets.needs["phases of a step"] == 2


def test_facts_are_counted(images):
    """All weights of the map are positive, as are its inputs where they are not 0; its error is that of its head."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU())
    nn.init.constant_(network[0].weight, 1e-3)
    options = violators._BASE | {"network": network, "views": "none", "head": "flatten linear5", "rate": 1e-9}
    report = audit_objects(images=images, **options)
    assert report.beyond["weight sharing"].startswith("one weight serves up to 784 places of an image")  # of 28x28
    assert report.beyond["Dale"].startswith("both signs in 1 of 2 maps; 0 % of synapses")
    negative = float(report.beyond["negative rates"].split(" %")[0])
    assert negative < 1  # none of the map's; some of the head's five
    report = audit_objects(images=images, **options | {"rate": 10.0})
    flipped = float(report.beyond["Dale"].split("; ")[1].split(" %")[0])
    assert 1 < flipped <= 100


def test_what_an_audit_does_not_know_is_not_met():
    report = Report({}, "", [Finding("rule", "asymmetric", VIOLATED, [])])
    for ask in (
        lambda: Report({}, "").verdict("asymetric"),
        lambda: report.verdict("asymetric"),
        lambda: report.verdict("asymmetric", ["rules"]),
        lambda: report.blamed("iii"),
    ):
        with pytest.raises(InputError, match=r"^Unknown (condition|part) .* it takes (space|loss), "):
            ask()


def test_an_audit_leaves_the_callers_generator_where_it_is(tiny):
    torch.manual_seed(7)
    audit(tiny)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))


def test_the_worst_site_stands_for_all():
    sites = [[Finding("rule", "time", verdict, ["seen"])] for verdict in (MET, UNDECIDED, VIOLATED, MET)]
    for count, expected in ((1, (MET, "seen")), (2, (UNDECIDED, "site 2: seen")), (4, (VIOLATED, "site 3: seen"))):
        [found] = _merged(sites[:count])
        assert (found.verdict, *found.evidence) == expected


def test_the_worst_verdict_stands_for_all_parts():
    report = Report({}, "")
    for verdicts, worst in (((MET,), MET), ((MET, UNDECIDED), UNDECIDED), ((UNDECIDED, VIOLATED, MET), VIOLATED)):
        report.findings = [
            Finding(part, "time", v, []) for part, v in zip(("loss", "rule", "network"), verdicts, strict=False)
        ]
        assert report.verdict("time") == worst


def test_a_report_as_data(images):
    report = audit(_config((ONE, "e2e", "bp", "sgd"), "conv32 tanh maxpool | conv40 tanh maxpool"), images)
    data = report.as_dict()
    assert set(data["verdicts"]) == set(CONDITIONS)
    assert data["verdicts"]["asymmetric"] == VIOLATED
    assert report.blamed("asymmetric") == ["rule"]
    assert data["name"] == f"{ONE}, e2e, bp, sgd"


def test_thinned():
    small = thinned(TrainConfig(network="cifar", head="flatten linear64"), 64)
    assert small.network == "conv4 hardtanh | conv4 maxpool | conv8 hardtanh | conv8 maxpool | conv64 maxpool"
    assert (small.head, small.batch, small.precision) == ("flatten linear13", 8, "float64")
    assert thinned(TrainConfig(network="violators.skipping_network"), 64).network == "violators.skipping_network"


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"network": "violators.grey_network"}, "views of 1x28x28"),
        ({"network": " | ".join(["conv4 maxpool"] * 6), "size": 64}, "batch 8, views of 3x64x64"),
        ({"network": "conv8 maxpool", "views": "window", "size": 24}, "batch 8, views of 3x24x24"),
        ({"network": "conv8 maxpool", "loss": "hinge(negatives=9)"}, "batch 16, views of 3x32x32"),
    ],
)
def test_what_trains_is_audited(images, options, setting):
    report = audit(TrainConfig(**violators._BASE | options), images)
    assert setting in report.setting
    assert report.verdict("asymmetric") == MET


def test_more_negatives_than_a_small_batch_has_are_audited():
    config = TrainConfig(**violators._BASE | {"network": "conv8 maxpool", "loss": "hinge(negatives=70)", "batch": 80})
    assert "batch 80, views of 3x32x32" in audit(config, load("digits:train[:90]"), steps=1).setting


def test_every_random_layers_turn_comes_in_large_batches():
    options = {"network": " | ".join(["conv4 tanh"] * 4), "schedule": "rll", "loss": "hinge(negatives=63)", "batch": 64}
    model, _ = thin_model(TrainConfig(**violators._BASE | options), load("digits:train[:64]"), 3)
    turns = [site for step in range(model.total_steps) for site in model.turns(step)]
    assert model.config.batch == 64 and all(turns.count(site) >= 3 for site in range(4))


def test_what_cannot_train_is_refused(images):
    with pytest.raises(InputError, match="negatives=-1"):
        audit(_config(("hinge(negatives=-1)", "e2e", "bp", "sgd")), images)


def test_objects_in_place_of_names(images):
    """A loss, a rule, a schedule and a network given as they are, judged as under their dotted paths."""
    from saccade.plausibility import own
    from saccade.schedules import Simultaneous

    rule = violators.CopiedFeedback()
    network = violators.normalizing_network()
    weights = [p.clone() for p in network.parameters()]
    report = audit_objects(
        images=images,
        network=network,
        loss=violators.QueueHinge(),
        rule=rule,
        schedule=Simultaneous(block=10),
        optimizer="sgd",
    )
    assert report.violations() >= {
        ("network", "time"),
        ("network", "simple"),
        ("loss", "time"),
        ("rule", "asymmetric"),
    }
    assert report.configuration["loss"] == "violators.QueueHinge"
    assert "violators" not in report.setting and "torch.nn.modules.container.Sequential" in report.setting
    assert all(a.equal(b) for a, b in zip(weights, network.parameters(), strict=True))
    assert not hasattr(own, "loss")
    function = audit_objects(images=images, network=network, loss=violators.hinge, rule=violators.SameStart)
    assert ("rule", "asymmetric") in function.violations()
    assert not {part for part, _ in function.violations()} & {"loss"}
    with pytest.raises(InputError, match="The loss is 3"):
        audit_objects(loss=3)


def test_angles_over_time(images):
    """Under Kolen and Pollack's rule the angle falls, from step to step for the most part."""
    stack = "flatten linear64 tanh | linear48 tanh"
    config = _config((ONE, "e2e", "kolen-pollack", "sgd(weight_decay=0.5)"), stack)
    report = audit(replace(config, rate=0.1), images, steps=6)
    assert report.angles
    for angles in report.angles.values():
        assert len(angles) == 7
        assert angles[-1] < angles[3] < angles[0]
        assert angles[-1] < angles[0] - 1
    assert all("degrees over time" in remark for remark in report.remarks)
