"""The verdicts that the mathematics gives, written down before the audit existed; the audit is tested against them.

Conditions, after the paper's: `space` and `time` (i, locality), `simple` (ii, simple computations), `asymmetric` (iii, no
symmetric connections), `unsupervised` (iv). A part's entry names the conditions that it violates, each with the reason;
what is not named is met. Loss, rule, schedule and optimizer are judged apart from each other, as is the network, whose
layers here (convolutions, pools, elementwise activations) violate nothing.

How each condition is read:

* space: the error of a unit, and a weight's update, may depend on the unit's own activities, now and remembered, on the
  weight's pre-synaptic activity, and on gates: numbers that only a threshold's crossing changes, one a comparison,
  broadcast to all units. A graded number made of other units' activities is no gate.
* time: an update comes when its pre-synaptic activity is there. If the error at A waits for B, A's pre-synaptic
  activity has to be remembered; if besides the error at B needs A, no order of showing them helps. Memory of
  post-synaptic activity is allowed until the comparisons of its batch are over, not into later batches. One image's
  share of an update may not depend on which other images are in the batch, once the errors at the output are given.
* simple: on the way from embeddings to their errors, and from these to the weights, nothing is divided by, normalized
  by, exponentiated, or multiplied with another embedding's activity, and no statistic of the batch is taken. A gate that
  thresholds such a number needs it too. The Hebbian product of error and pre-synaptic activity is allowed, as are
  constants, sums, differences, absolute values, signs and thresholds.
* asymmetric: no graded signal goes down through weights that also carry graded signals up.
* unsupervised: no label reaches an update.
"""

SPACE, TIME, SIMPLE, ASYMMETRIC, UNSUPERVISED = "space", "time", "simple", "asymmetric", "unsupervised"

_WAITS = "the error at A needs B, and the error at B needs A: one input has to be remembered"
_COSINES = "each error is weighted by a softmax over all cosines, and by norms: graded numbers made of all units"
_DIVIDES = "L2 normalization, inner products of embeddings, exponentials and their ratio"
_MIXES = "the error at a unit is W times the other view's features: all their units"
_SCORES = "the gate thresholds <W F_a, F_b>, an inner product of features"
_BOTH_WAYS = "W carries F_a up to the error at B, and its transpose carries F_b down to the error at A"
_PREDICTOR = "the predictor's weights carry its input up and its error down"

LOSSES: dict[str, dict[str, str]] = {
    # The error is a sum over comparisons of gate * sgn(own difference); the gate thresholds a sum of absolute differences.
    "hinge": {TIME: _WAITS},
    "hinge(negatives=5)": {TIME: _WAITS},
    "hinge(negatives=1)": {TIME: _WAITS},
    "hinge(negatives=5, block=true)": {},
    "hinge(negatives=1, block=true)": {},
    "hinge(block=true)": {},  # one anchor held through all of the batch: long, but one comparison at a time
    "hinge(negatives=5, block=true, reading=authors)": {},
    "hinge-patches": {TIME: _WAITS},
    "hinge-patches(block=true)": {},
    "simclr": {SPACE: _COSINES, TIME: _WAITS, SIMPLE: _DIVIDES},
    "clapp": {SPACE: _MIXES, TIME: _WAITS, SIMPLE: _SCORES, ASYMMETRIC: _BOTH_WAYS},
    "clapp(negatives=1)": {SPACE: _MIXES, TIME: _WAITS, SIMPLE: _SCORES, ASYMMETRIC: _BOTH_WAYS},
    "clapp(gradient=fixed_weight)": {SPACE: _MIXES, TIME: _WAITS, SIMPLE: _SCORES, ASYMMETRIC: _BOTH_WAYS},
    # One side learns: W or its transpose carries graded signals, never both, for <W c, z> = <c, W^T z> makes the gate.
    "clapp(gradient=context_detached)": {SPACE: _MIXES, SIMPLE: _SCORES},
    "clapp(gradient=targets_detached)": {SPACE: _MIXES, SIMPLE: _SCORES},
    "clapp-patches": {SPACE: _MIXES, TIME: _WAITS, SIMPLE: _SCORES, ASYMMETRIC: _BOTH_WAYS},
    # Illing et al.'s split: two W, each one way.
    "clapp-patches(negatives=1, place=same, coin=true, gradient=split)": {SPACE: _MIXES, TIME: _WAITS, SIMPLE: _SCORES},
    "cross-entropy": {
        SPACE: "the softmax divides by a sum over all output units",
        SIMPLE: "exponentials and their ratio",
        UNSUPERVISED: "the error is softmax minus label",
    },
    "supervised-hinge": {
        UNSUPERVISED: "each unit's error asks whether it is the label's"
    },  # its own activity, a threshold
    "byol": {
        SPACE: "cosines, and the predictor's batch norm",
        TIME: "the error at A needs the slow embedding of B, and the other way round; batch norm mixes all",
        SIMPLE: "cosines, batch norm",
        ASYMMETRIC: _PREDICTOR,
    },
    "simsiam": {
        SPACE: "cosines, and the predictor's batch norm",
        TIME: _WAITS,
        SIMPLE: "cosines, batch norm",
        ASYMMETRIC: _PREDICTOR,
    },
    "moco(queue=64)": {SPACE: _COSINES, TIME: "the queue holds embeddings of earlier batches", SIMPLE: _DIVIDES},
    "barlow-twins": {
        SPACE: "a unit's error sums over its correlations with all others",
        TIME: _WAITS,
        SIMPLE: "means and deviations over the batch, division, products of embeddings",
    },
}

_HEAD = "the error goes down through the head's own weights"
_NOISE = {
    TIME: "the inverses' noise is scaled by the deviation of the layer's activity over the batch",
    SIMPLE: "that deviation is a statistic of the batch, with a square root",
}

RULES: dict[str, dict[str, str]] = {  # in a site where at least one map stands above another
    "bp": {ASYMMETRIC: "delta_l = sigma' W^T delta (Eq. 9)"},
    "rf": {},
    "urf": {},
    "kolen-pollack": {},
    "weight-mirrors": {},
    "dfa": {},
    "sign-symmetry": {ASYMMETRIC: "the feedback takes the forward weights' signs at each step"},
    "sign-symmetry(magnitudes=uniform)": {ASYMMETRIC: "the feedback is the forward weights' signs"},
    "dtp": {ASYMMETRIC: _HEAD, **_NOISE},
    "dtp(order=targets)": {ASYMMETRIC: _HEAD, **_NOISE},
    "dtp(head=random)": _NOISE,
}

# What else is to be said of feedback weights, without a verdict: B is `fixed`; keeps its `offset` to W, whose increments
# it gets (URF: the angle falls as W grows away from its start, B - W stays); or is `converging` to W (B - W shrinks).
FEEDBACK = {
    "rf": "fixed",
    "urf": "offset",
    "kolen-pollack": "converging",
    "weight-mirrors": "learned by itself",
    "dfa": "fixed",
    "dtp(head=random)": "fixed",
}

SCHEDULES: dict[str, dict[str, str]] = {"e2e": {}, "gll": {}, "rll": {}, "simultaneous": {}, "rll(block=2)": {}}

OPTIMIZERS: dict[str, dict[str, str]] = {
    "adam": {SIMPLE: "each synapse divides by the root of its mean squared gradient"},
    "adam(weight_decay=1)": {SIMPLE: "each synapse divides by the root of its mean squared gradient"},
    "sgd": {},
    "sgd(momentum=0.9)": {},
    "sgd(weight_decay=0.1)": {},
}

# (loss, schedule, rule, optimizer): which joins to audit.
HINGE, CONSTRAINED, ONE = "hinge", "hinge(negatives=5, block=true)", "hinge(negatives=1, block=true)"
TABLE_1 = [
    *((loss, "e2e", rule, "adam") for rule in ("bp", "dtp", "rf") for loss in (HINGE, CONSTRAINED)),
    *(
        (loss, schedule, rule, "adam")
        for schedule in ("gll", "rll")
        for rule in ("bp", "urf", "rf")
        for loss in (HINGE, CONSTRAINED)
    ),
    ("simclr", "e2e", "bp", "adam"),
    ("clapp", "e2e", "bp", "adam"),
    ("clapp", "gll", "bp", "adam"),
]
TABLE_2 = [
    *((loss, "e2e", rule, "adam") for rule in ("bp", "rf") for loss in ("hinge(negatives=5)", ONE)),
    *(
        (loss, schedule, rule, "adam")
        for schedule in ("gll", "rll")
        for rule in ("bp", "urf", "rf")
        for loss in ("hinge(negatives=5)", ONE)
    ),
    ("clapp-patches", "e2e", "bp", "adam"),
    ("clapp-patches", "gll", "bp", "adam"),
]
OTHERS = [
    (ONE, "rll", "rf", "sgd"),  # all four met
    (ONE, "simultaneous", "rf", "sgd(momentum=0.9)"),
    ("hinge(negatives=1)", "rll", "rf", "sgd"),
    ("hinge(block=true)", "rll(block=2)", "rf", "sgd"),
    ("hinge(negatives=5, block=true, reading=authors)", "gll", "rf", "sgd"),
    (ONE, "rll", "kolen-pollack", "adam(weight_decay=1)"),
    (ONE, "e2e", "kolen-pollack", "sgd(weight_decay=0.1)"),
    (ONE, "e2e", "urf", "sgd"),
    (ONE, "e2e", "weight-mirrors", "sgd"),
    (ONE, "e2e", "dfa", "sgd"),
    (ONE, "rll", "sign-symmetry", "sgd"),
    (ONE, "e2e", "sign-symmetry(magnitudes=uniform)", "sgd"),
    (ONE, "simultaneous", "bp", "sgd"),
    (ONE, "e2e", "dtp(head=random)", "sgd"),
    (ONE, "e2e", "dtp(order=targets)", "sgd"),
    (ONE, "rll", "dtp", "sgd"),
    (ONE, "rll", "dtp(head=random)", "sgd"),
    ("hinge-patches", "e2e", "rf", "sgd"),
    ("hinge-patches(block=true)", "rll", "rf", "sgd"),
    ("clapp(negatives=1)", "e2e", "rf", "sgd"),
    ("clapp(gradient=context_detached)", "gll", "bp", "sgd"),
    ("clapp(gradient=targets_detached)", "gll", "bp", "sgd"),
    ("clapp(gradient=fixed_weight)", "simultaneous", "bp", "sgd"),
    ("clapp-patches(negatives=1, place=same, coin=true, gradient=split)", "gll", "bp", "sgd"),
    ("cross-entropy", "e2e", "bp", "adam"),
    ("supervised-hinge", "e2e", "rf", "sgd"),
]
BASELINES = [(loss, "e2e", "bp", "adam") for loss in ("byol", "simsiam", "moco(queue=64)", "barlow-twins")]

Configuration = tuple[str, str, str, str]


def violations(configuration: Configuration) -> dict[tuple[str, str], str]:
    """{(part, condition): why} for every violation of a configuration; all else is met."""
    loss, schedule, rule, optimizer = configuration
    parts = {
        "loss": LOSSES[loss],
        "rule": _rule(loss, schedule, rule),
        "schedule": SCHEDULES[schedule],
        "optimizer": OPTIMIZERS[optimizer],
    }
    return {(part, condition): why for part, found in parts.items() for condition, why in found.items()}


def _rule(loss: str, schedule: str, rule: str) -> dict[str, str]:
    """A rule's violations where the site has one layer: the head alone stands above it, if the loss wants one."""
    found = RULES[rule]
    if schedule in ("e2e", "rll(block=2)"):
        return found
    if loss.startswith("clapp"):  # no head: the error arrives at the layer's own output
        return {}
    return {condition: why for condition, why in found.items() if why not in _NOISE.values()}  # nothing to invert
