"""The tables of names: what can be chosen, where it lives, which options it takes. Nothing here imports anything heavy.

A new loss, schedule or rule is one file and one entry here; help, `saccade list` and refusals read these tables.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from .grammar import Call, called, imported, parse_call


@dataclass(frozen=True)
class Option:
    """An option of a choice: its default, what it means, what it accepts (said in words, tested by `valid`)."""

    default: Any
    help: str
    accepts: str
    valid: Callable[[Any], bool]


_LARGEST = 1e6  # of any number: far above all that make sense, far below what float32 cannot hold
_MOST = 65_536  # of anything counted


def _number(
    default: float, help: str, *, above: float | None = None, least: float | None = None, below: float = _LARGEST
) -> Option:
    low = f"a number above {above:g}" if least is None else f"a number of at least {least:g}"

    def valid(x: Any) -> bool:
        real = isinstance(x, int | float) and not isinstance(x, bool)
        return real and (above is None or x > above) and (least is None or x >= least) and x < below

    return Option(default, help, f"{low} and below {below:g}", valid)


def _whole(default: int, help: str, *, least: int, most: int = _MOST) -> Option:
    accepts = f"a whole number from {least} to {most}"
    return Option(default, help, accepts, lambda x: type(x) is int and least <= x <= most)


def _flag(default: bool, help: str) -> Option:
    return Option(default, help, "true or false", lambda x: isinstance(x, bool))


def _choice(default: str, help: str, *values: str) -> Option:
    return Option(default, help, " or ".join(values), lambda x: x in values)


@dataclass(frozen=True)
class Entry:
    """A choice: its line in `saccade list`, the dotted path of its class, its options, and plain facts about it.

    Losses' facts: `labels` (needs them), `patches` (reads a patch grid), `no-head` (reads features). Rules':
    `needs-feedback` (is nothing where no map stands above another), `needs-head`, `no-decay` and `decay` (about the
    optimizer's weight decay).
    """

    line: str
    path: str
    options: dict[str, Option] = field(default_factory=dict)
    facts: frozenset[str] = frozenset()
    check: Callable[[dict[str, Any]], str | None] = lambda options: None


def _margins(options: dict[str, Any]) -> str | None:
    if options["m2"] <= options["m1"]:
        return f"has m2={options['m2']:g} and m1={options['m1']:g}; it takes m2 above m1"
    return None


_M1 = _number(1.0, "margin of positives: pairs farther apart than this are pulled together", least=0)
_M2 = _number(3.0, "margin of negatives: pairs closer than this are pushed apart", least=0)
_REDUCTION = _choice("sum", "sum, or mean over positives and over negatives", "sum", "mean")
_OTHERS = Option(
    "all",
    "how many other images of the batch each anchor is held against, the next ones in order",
    f"all or a whole number from 1 to {_MOST}",
    lambda x: x == "all" or (type(x) is int and 1 <= x <= _MOST),
)
_SIDES = ("both", "context_detached", "targets_detached", "fixed_weight")
_PREDICTING = "which sides carry gradient; fixed_weight: both, and the prediction weights stay at their random start"


def _decay(default: float, help: str = "decay of the slow copy that follows the network") -> Option:
    return _number(default, help, least=0, below=1)


LOSSES: dict[str, Entry] = {
    "hinge": Entry(
        "contrastive hinge on L1 distances (Eq. 2)",
        "saccade.losses.hinge.ContrastiveHinge",
        {
            "m1": _M1,
            "m2": _M2,
            "negatives": _OTHERS,
            "block": _flag(False, "no gradient through the remembered view A (the paper's gradient block)"),
            "reading": _choice(
                "paper",
                "paper: T negatives, wrapping around, weight 1; authors: offsets 1..T-1, no wrap-around, weight 1/T",
                "paper",
                "authors",
            ),
        },
        check=_margins,
    ),
    "simclr": Entry(
        "SimCLR's NT-Xent on cosines (Eq. 1)",
        "saccade.losses.simclr.SimCLR",
        {
            "temperature": _number(0.1, "of the softmax over cosines", above=0),
            "reduction": _choice("sum", "sum over both lists as in Eq. 1, or mean", "sum", "mean"),
        },
    ),
    "clapp": Entry(
        "CLAPP on whole-image views: one feature map predicts the other",
        "saccade.losses.clapp.CLAPP",
        {"negatives": _OTHERS, "reduction": _REDUCTION, "gradient": _choice("both", _PREDICTING, *_SIDES)},
        facts=frozenset({"no-head"}),
    ),
    "clapp-patches": Entry(
        "CLAPP on patches: a patch predicts those below it",
        "saccade.losses.clapp_patches.CLAPPPatches",
        {
            "reading": _choice("original", "of Illing et al. 2021, or of the paper's authors", "original", "authors"),
            "steps": _whole(
                5, "prediction weights: rows ahead, or context rows in the authors' reading", least=1, most=64
            ),
            "negatives": _whole(16, "negatives a positive", least=1, most=4096),
            "place": _choice(
                "any", "negatives: any patch of the batch, or the positive's place in another image", "any", "same"
            ),
            "coin": _flag(False, "each image learns from its positives or its negatives, by a coin at each step"),
            "gradient": _choice("both", f"{_PREDICTING}; split: two, one for each side", *_SIDES, "split"),
        },
        facts=frozenset({"no-head", "patches"}),
    ),
    "hinge-patches": Entry(
        "contrastive hinge (Eq. 2) on patches, positives below the anchor",
        "saccade.losses.hinge_patches.HingePatches",
        {
            "m1": _M1,
            "m2": _M2,
            "negatives": _whole(
                1, "random patches of the batch that each positive pair is held against", least=1, most=4096
            ),
            "block": _flag(False, "no gradient through the anchor"),
        },
        facts=frozenset({"patches"}),
        check=_margins,
    ),
    "cross-entropy": Entry(
        "softmax cross-entropy on labels, for the supervised baseline",
        "saccade.losses.supervised.CrossEntropy",
        facts=frozenset({"labels"}),
    ),
    "supervised-hinge": Entry(
        "hinge on labels, an output unit a class (Amit 2019)",
        "saccade.losses.supervised.SupervisedHinge",
        {"mu": _number(0.1, "weight of each class that is not the image's", least=0)},
        facts=frozenset({"labels"}),
    ),
    "byol": Entry(
        "BYOL: predict a slow copy's embedding (needs lightly)",
        "saccade.losses.baselines.BYOL",
        {"momentum": _decay(0.996), "hidden": _whole(4096, "width of the predictor's hidden layer", least=1)},
    ),
    "simsiam": Entry(
        "SimSiam: predict the other view, no gradient through it (needs lightly)",
        "saccade.losses.baselines.SimSiam",
        {"hidden": _whole(512, "width of the predictor's hidden layer", least=1)},
    ),
    "moco": Entry(
        "MoCo: a slow copy and a queue of negatives (needs lightly)",
        "saccade.losses.baselines.MoCo",
        {
            "momentum": _decay(0.999),
            "temperature": _number(0.07, "of the softmax over cosines", above=0),
            "queue": _whole(4096, "embeddings in the queue", least=1),
        },
    ),
    "barlow-twins": Entry(
        "Barlow Twins: decorrelate the embedding (needs lightly)",
        "saccade.losses.baselines.BarlowTwins",
        {"redundancy": _number(0.005, "weight of correlations off the diagonal", least=0)},
    ),
}

_BLOCK = {"block": _whole(1, "layers a site", least=1)}
SCHEDULES: dict[str, Entry] = {
    "e2e": Entry("end to end: one loss on top of all layers", "saccade.schedules.EndToEnd"),
    "gll": Entry("greedy layer-wise: one layer after another", "saccade.schedules.Greedy", _BLOCK),
    "rll": Entry("randomized layer-wise: one layer drawn at each batch", "saccade.schedules.Randomized", _BLOCK),
    "simultaneous": Entry(
        "every layer at each batch from its own loss, no gradient between them",
        "saccade.schedules.Simultaneous",
        _BLOCK,
    ),
}

_FEEDBACK = frozenset({"needs-feedback"})
RULES: dict[str, Entry] = {
    "bp": Entry("backpropagation (Eq. 9)", "saccade.rules.gradient.Backpropagation"),
    "rf": Entry(
        "random feedback, or feedback alignment: fixed random B in place of W^T (Eq. 10)",
        "saccade.rules.feedback.RandomFeedback",
        facts=_FEEDBACK,
    ),
    "urf": Entry(
        "updated random feedback: B starts at random and receives W's increments (Amit 2019)",
        "saccade.rules.feedback.UpdatedFeedback",
        facts=_FEEDBACK | {"no-decay"},
    ),
    "kolen-pollack": Entry(
        "as urf, with weight decay on both, so that B converges to W (Akrout et al. 2019)",
        "saccade.rules.feedback.UpdatedFeedback",
        facts=_FEEDBACK | {"decay"},
    ),
    "weight-mirrors": Entry(
        "B learns W from noise: Hebb's product of a map's input and its answer, and decay (Akrout et al. 2019)",
        "saccade.rules.feedback.WeightMirrors",
        {
            "rate": _number(1e-3, "learning rate of the feedback weights", above=0),
            "samples": _whole(256, "patterns of noise a step: images of it, times a convolution's places", least=1),
        },
        facts=_FEEDBACK,
    ),
    "sign-symmetry": Entry(
        "feedback with the forward weights' signs and magnitudes of its own (Liao et al. 2016)",
        "saccade.rules.feedback.SignSymmetry",
        {
            "magnitudes": _choice(
                "random", "of the feedback weights: fixed random ones, or all alike", "random", "uniform"
            )
        },
        facts=_FEEDBACK,
    ),
    "dfa": Entry(
        "direct feedback alignment: the output's error straight to each layer (Nøkland 2016)",
        "saccade.rules.feedback.DirectFeedback",
        facts=_FEEDBACK | {"needs-head"},
    ),
    "dtp": Entry(
        "difference target propagation with pooling (Algorithm 1)",
        "saccade.rules.dtp.DifferenceTargetPropagation",
        {
            "noise": _number(0.1, "of the inverses' inputs, in standard deviations of the layer's activity", least=0),
            "eta": _number(0.5, "first target's step, in units of the gradient of one image's loss", above=0),
            "order": _choice("inverses", "which comes first in a step: inverses or targets", "inverses", "targets"),
            "steps": _whole(1, "inverse steps a batch", least=1, most=100),
            "rate": _number(1e-3, "learning rate of the inverses", above=0),
            "head": _choice(
                "own", "the first target's way down: the head's own weights, or fixed random ones", "own", "random"
            ),
        },
    ),
}

OPTIMIZERS: dict[str, Entry] = {
    "adam": Entry(
        "Adam, with decoupled weight decay",
        "torch.optim.AdamW",
        {
            "beta1": _decay(0.9, "decay of the mean gradient"),
            "beta2": _decay(0.999, "decay of the mean squared gradient"),
            "weight_decay": _number(0.0, "share of a weight lost at each step, times the rate", least=0),
        },
    ),
    "sgd": Entry(
        "stochastic gradient descent",
        "torch.optim.SGD",
        {
            "momentum": _decay(0.0, "decay of the velocity"),
            "weight_decay": _number(0.0, "share of a weight lost at each step, times the rate", least=0),
        },
    ),
}


def _text(default: str | None, help: str) -> Option:
    return Option(
        default, help, "a word or a quoted text", lambda x: isinstance(x, str) or (x is None and default is None)
    )


_CPUS = _number(1, "processors a run", least=0, below=1024)
ENGINES: dict[str, Entry] = {
    "local": Entry(
        "processes of this machine, side by side",
        "saccade.engines.local",
        {
            "workers": Option(
                None,
                "how many at once; none: one a core, or one on a GPU",
                f"none or a whole number from 1 to {_MOST}",
                lambda x: x is None or (type(x) is int and 1 <= x <= _MOST),
            )
        },
    ),
    "ray": Entry(
        "tasks of a Ray cluster (needs ray); what a node that dies was doing is done elsewhere",
        "saccade.engines.ray",
        {
            "address": _text(
                "auto", "of the cluster, such as '10.0.0.1:6379'; auto: the one here; none: start one here"
            ),
            "cpus": _CPUS,
            "gpus": _number(0, "GPUs a run; a fraction, such as 0.25, puts several on one", least=0, below=1024),
        },
    ),
    "slurm": Entry(
        "an array job in Slurm's queue (needs submitit); runs that are cut off are queued again, and continue",
        "saccade.engines.slurm",
        {
            "folder": _text("slurm", "for logs, on a disk that all machines see"),
            "partition": _text(None, "of the cluster; none: its default"),
            "hours": _number(24, "a run may take before it is queued again", above=0, below=10_000),
            "cpus": _whole(1, "processors a run", least=1, most=1024),
            "gpus": _whole(0, "GPUs a run", least=0, most=64),
            "at_once": _whole(256, "runs at most at the same time", least=1),
            "cluster": _choice("slurm", "slurm, or local: the same as processes of this machine", "slurm", "local"),
        },
    ),
}


@dataclass(frozen=True)
class Network:
    """A named network: its line in `saccade list`, its layers and the head that goes on any of them."""

    line: str
    layers: str
    head: str = "flatten linear64"


_VGG_HEAD = "avgpool flatten linear64"
NETWORKS: dict[str, Network] = {
    "cifar": Network(
        "the paper's CIFAR network, five convolutions, for 32x32",
        "conv32 hardtanh | conv32 maxpool | conv64 hardtanh | conv64 maxpool | conv512 maxpool",
    ),
    "cifar-strided": Network(
        "the CIFAR network with strided convolutions in place of pooling",
        "conv32 hardtanh | conv32(stride=2) | conv64 hardtanh | conv64(stride=2) | conv512(stride=2)",
    ),
    "vgg6": Network(
        "the paper's VGG6, six convolutions, for 64x64",
        "conv128 hardtanh | conv256 hardtanh maxpool | conv256 hardtanh | conv512 hardtanh maxpool "
        "| conv1024 hardtanh maxpool | conv1024 hardtanh maxpool",
        _VGG_HEAD,
    ),
    "vgg6-strided": Network(
        "VGG6 with strided convolutions in place of pooling",
        "conv128 hardtanh | conv256(stride=2) hardtanh | conv256 hardtanh | conv512(stride=2) hardtanh "
        "| conv1024(stride=2) hardtanh | conv1024(stride=2) hardtanh",
        _VGG_HEAD,
    ),
    "emnist": Network(
        "the paper's EMNIST network, three convolutions, for 28x28 letters and digits",
        "conv32 maxpool tanh | conv64 maxpool tanh | conv128 maxpool tanh",
    ),
    "emnist-strided": Network(
        "the EMNIST network with strided convolutions in place of pooling",
        "conv32(stride=2) tanh | conv64(stride=2) tanh | conv128(stride=2) tanh",
    ),
}

ACTIVATIONS = {
    "hardtanh": "Hardtanh",
    "tanh": "Tanh",
    "relu": "ReLU",
    "gelu": "GELU",
    "sigmoid": "Sigmoid",
    "leakyrelu": "LeakyReLU",
}


def choose(text: str, table: dict[str, Entry], what: str, own: bool = True) -> tuple[Call, Entry | None]:
    """The call that `text` makes, with every option of a named entry filled in, and its entry; a dotted path has none.

    `own` says whether the choice may be code of the user's, by a dotted path.

    >>> str(choose("hinge(negatives=5)", LOSSES, "loss")[0])
    'hinge(m1=1.0, m2=3.0, negatives=5, block=false, reading=paper)'

    Raises InputError for an unknown name or option, or a value out of range; the sentence lists what is accepted.
    """
    call = parse_call(text, what)
    entry = table.get(call.name)
    if entry is None and not (own and "." in call.name):
        known = f"{', '.join(table)}, or a dotted path of your own" if own else " or ".join(table)
        raise InputError(f"Unknown {what} {call.name!r}; it takes {known}.")
    if call.args:
        raise InputError(f"The {what} {text!r} has an option without a name; write it as {call.name}(option=value).")
    if entry is None:
        return call, None
    for name, value in call.options.items():
        if name not in entry.options:
            accepted = ", ".join(entry.options) or "no options"
            raise InputError(f"The {what} {call.name} has no option {name!r}; it takes {accepted}.")
        if not entry.options[name].valid(value):
            raise InputError(f"The {what} {call.name} has {name}={value!r}; it takes {entry.options[name].accepts}.")
    options = {name: call.options.get(name, option.default) for name, option in entry.options.items()}
    if problem := entry.check(options):
        raise InputError(f"The {what} {text!r} {problem}.")
    return Call(call.name, (), options), entry


def create(text: str, table: dict[str, Entry], what: str) -> Any:
    """What `text` makes: an entry's class, or that of a dotted path, called with its options.

    Raises InputError where `choose` does, and where it cannot be imported or called.
    """
    call, entry = choose(text, table, what)
    return called(imported(entry.path if entry else call.name, what), call, f"The {what} {text!r}")


EXPORTS = {
    "huggingface": "a folder: weights as safetensors, configuration, model card",
    "onnx": "a file for any ONNX runtime (extra: onnx)",
    "pt2": "a file for torch.export.load",
}
