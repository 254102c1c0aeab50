"""The typed configuration of a run: everything that decides what a training does, and nothing else."""

import os
import re
import reprlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from numbers import Number
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .names import LOSSES, NETWORKS, OPTIMIZERS, RULES, SCHEDULES, choose


@dataclass
class TrainConfig:
    """A training run. Every field can be set in a YAML recipe, on the command line and in Python, alike.

    Args:
        data: images to learn from (their labels are used only by losses that need them): a name such as digits or
            cifar100:train, an .npz file, a folder of pictures (of several sizes: photos?size=64), or
            shards:/path/*.tar, read in a stream; a slice such as [:45000] picks some.
        views: how views of a picture are made: a policy (paper, affine-hsv, digits, none) or a list of deformations,
            such as "crop(scale=[0.2, 1]) flip".
        size: side of the views in pixels; null: the images' own.
        network: the encoder: a name, a stack such as "conv32 hardtanh | conv32 maxpool", or a dotted path to an
            nn.Sequential.
        head: what turns features into an embedding, such as "flatten linear64"; null: the network's own. Losses on
            features, such as clapp, have none.
        loss: what is wrong with two views' embeddings: a name with its options, such as "hinge(m1=1, m2=3, negatives=5,
            block=true)", or the dotted path of anything called as loss(z_a, z_b).
        schedule: which layers learn at a step, such as e2e, gll, rll, simultaneous.
        rule: how an error reaches a weight, such as bp, rf, urf, dtp.
        optimizer: adam or sgd, with options, such as "sgd(momentum=0.9)".
        rate: learning rate.
        epochs: passes over the images that each layer is trained for; may be a fraction.
        batch: pictures a step.
        seed: fixes initial weights, order, views and every other draw.
        device: auto, cpu, cuda, or cuda with a number.
        precision: of the network's arithmetic: auto, float32, bfloat16 or float64; under bfloat16 losses and weights stay
            float32.
        deterministic: on a GPU, the same bits each time, at some cost in speed; processors always are.
        init_from: a finished run whose encoder is the starting point.
        data_root: folder of the named data sets; null: the environment's SACCADE_DATA, else ./data.
        download: fetch a named data set that is not there.
        diagnostics: steps between measurements of the update's angle to backpropagation's and of collapse, which cost
            about a step of backpropagation each; 0: none.
        checkpoint_seconds: time between checkpoints.
        negatives: of a run over several processes: gathered, from the whole batch, which equals one process; or local,
            from each process's share of it.
        divide: what several processes share out: batch; or layers, a pipeline for layer-wise schedules, in which no process
            waits for an error from above.
    """

    data: str = "cifar100:train"
    views: str = "paper"
    size: int | None = None
    network: str = "cifar"
    head: str | None = None
    loss: str = "hinge"
    schedule: str = "e2e"
    rule: str = "bp"
    optimizer: str = "adam"
    rate: float = 1e-4
    epochs: float = 400
    batch: int = 500
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    deterministic: bool = False
    init_from: str | None = None
    data_root: str | None = None
    download: bool = False
    diagnostics: int = 0
    checkpoint_seconds: float = 60.0
    negatives: str = "gathered"
    divide: str = "batch"


def shown(value: Any) -> str:
    """A value in an error: on one line, and cut where it is long (a hundred bytes of YAML can hold terabytes)."""
    return reprlib.repr(value)


# The fields that take one of a few words.
WORDS = {
    "precision": ("auto", "float32", "bfloat16", "float64"),
    "negatives": ("gathered", "local"),
    "divide": ("batch", "layers"),
}
# Where a run computes and how it is watched; a run may be continued with other values of these.
INCIDENTAL = ("device", "data_root", "download", "checkpoint_seconds", "divide")


def check(config: TrainConfig) -> None:
    """Refuse, in one sentence, what can be refused without opening the data. Raises InputError."""
    for name, high in (("rate", 1e6), ("epochs", 1e9), ("checkpoint_seconds", 1e9)):
        value = getattr(config, name)
        if not 0 < value <= high:
            raise InputError(f"{name} is {shown(value)}; it takes a number above 0 and at most {high:g}.")
    for name, low, most in (("batch", 2, 2**31), ("size", 1, 1024), ("seed", 0, 2**63 - 1), ("diagnostics", 0, 2**31)):
        value = getattr(config, name)
        if value is not None and not low <= value <= most:
            raise InputError(f"{name} is {shown(value)}; it takes a whole number of at least {low}, at most {most:,}.")
    if config.head == "":
        raise InputError("head is empty; it takes a layer such as 'flatten linear64', or null for the network's own.")
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", config.device):
        raise InputError(f"Unknown device {shown(config.device)}; it takes auto, cpu, cuda, or cuda:1 and the like.")
    for name, words in WORDS.items():
        if (value := getattr(config, name)) not in words:
            raise InputError(f"Unknown {name} {shown(value)}; it takes {', '.join(words[:-1])} or {words[-1]}.")
    if config.divide == "layers" and config.negatives == "local":
        raise InputError("With divide=layers each process has the whole batch; it takes negatives=gathered.")
    loss, loss_entry = choose(config.loss, LOSSES, "loss")
    refuse_negatives(config, config.batch, "a batch")
    choose(config.schedule, SCHEDULES, "schedule")
    rule, rule_entry = choose(config.rule, RULES, "rule")
    optimizer, _ = choose(config.optimizer, OPTIMIZERS, "optimizer", own=False)
    loss_facts = loss_entry.facts if loss_entry else frozenset()
    rule_facts = rule_entry.facts if rule_entry else frozenset()
    if "needs-head" in rule_facts and "no-head" in loss_facts:
        raise InputError(
            f"The rule {rule.name} sends the head's error to every layer, and the loss {loss.name} has no head; "
            "it takes a loss with a head, such as hinge."
        )
    decay = optimizer.options.get("weight_decay", 0.0)
    if "no-decay" in rule_facts and decay > 0:
        raise InputError(
            f"The rule {rule.name} with weight_decay={decay:g} would make feedback converge to the forward weights; "
            "that is the rule kolen-pollack."
        )
    if "decay" in rule_facts and decay == 0:
        raise InputError(
            f"The rule {rule.name} makes feedback converge by weight decay; it takes an optimizer with one, such as "
            '"adam(weight_decay=1)".'
        )


def refuse_negatives(config: TrainConfig, pictures: int, where: str) -> None:
    """Raises InputError where the loss wants more negatives than there are other pictures `where` it has `pictures`.

    Among patches, of which each picture has many, and in a loss of the user's own, `negatives` may mean something else.
    """
    loss, entry = choose(config.loss, LOSSES, "loss")
    negatives = loss.options.get("negatives")
    if entry is None or "patches" in entry.facts or not isinstance(negatives, int):
        return
    one_less = loss.options.get("reading") == "authors"
    if one_less and negatives == 1:
        raise InputError("The loss has negatives=1, which in the authors' reading are none; it takes at least 2.")
    if negatives >= pictures + one_less:
        raise InputError(
            f"The loss wants {negatives} negatives, and {where} of {pictures} pictures has {pictures - 1}; it takes fewer "
            "negatives or a larger batch."
        )


def head_of(config: TrainConfig) -> str:
    """The head's specification: the configured one, else the named network's own, else the CIFAR network's."""
    network = NETWORKS.get(config.network)
    return config.head or (network.head if network else "flatten linear64")


def network_of(config: TrainConfig) -> str:
    """The network's specification, a named one's layers written out."""
    network = NETWORKS.get(config.network)
    return network.layers if network else config.network


def from_dict(values: dict[str, Any], source: str) -> TrainConfig:
    """A configuration from a mapping; `source` names it in errors. Raises InputError for unknown or mistyped fields."""
    types = {f.name: f.type for f in fields(TrainConfig)}
    # A number of numpy's is taken as Python's own, and a path as its text: no file would hold them.
    values = {k: v.item() if isinstance(v, Number) and hasattr(v, "item") else v for k, v in values.items()}
    values = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in values.items()}
    for name, value in values.items():
        if name not in types:
            raise InputError(f"{source} has an unknown field {shown(name)}; it takes {', '.join(types)}.")
        kind = types[name]
        ok = {str: isinstance(value, str), int: type(value) is int, bool: isinstance(value, bool)}
        ok[float] = isinstance(value, int | float) and not isinstance(value, bool)
        if not (ok.get(kind, False) if isinstance(kind, type) else value is None or ok[_inner(kind)]):
            raise InputError(f"{source} has {name}={shown(value)}; it takes {getattr(kind, '__name__', kind)}.")
    return TrainConfig(**values)


def _inner(kind: Any) -> type:
    return next(t for t in kind.__args__ if t is not type(None))


def recipes() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def recipe(name: str | Path) -> TrainConfig:
    """The recipe of that name, or in that file. Raises InputError where there is none."""
    if not isinstance(name, str | Path):
        raise InputError(f"The recipe is {shown(name)}; it takes a TrainConfig, or the name or file of a recipe.")
    path = recipes().get(str(name), Path(name))
    if not os.path.isfile(path):  # which a name that is too long for a file does not upset
        raise InputError(f"There is no recipe {str(name)!r}; it takes a YAML file or one of {', '.join(recipes())}.")
    return read_recipe(path)


_LONGEST = 1 << 16  # bytes of a recipe


def read_recipe(path: Path) -> TrainConfig:
    """The configuration in a YAML file. Raises InputError where it cannot be read as one."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LONGEST + 1)
        # Aliases are of no use in a mapping of plain values, and a few of them can stand for terabytes.
        if len(content) > _LONGEST or any(isinstance(token, yaml.AliasToken) for token in yaml.scan(content)):
            raise ValueError(f"it is longer than {_LONGEST:,} bytes, or has aliases")
        values = yaml.safe_load(content)
        written = yaml.compose(content, yaml.SafeLoader)
        names = [key.value for key, _ in written.value] if isinstance(written, yaml.MappingNode) else []
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"it has {twice[0]} twice")
    except Exception as error:  # besides its own, the parser raises what a number's or a date's constructor does
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"The recipe {path} cannot be read ({reason}); it takes a YAML file of fields and values."
        ) from None
    if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
        raise InputError(f"The recipe {path} is not a mapping; it takes a YAML file of fields and values.")
    for name in [f.name for f in fields(TrainConfig) if f.type is float and isinstance(values.get(f.name), str)]:
        with suppress(ValueError):  # YAML reads 5e-4 as text
            values[name] = float(values[name])
    return from_dict(values, f"The recipe {path}")


def to_yaml(config: TrainConfig) -> str:
    return yaml.safe_dump(asdict(config), sort_keys=False)
