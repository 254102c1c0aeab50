"""Scales: how much of the paper's protocol a table runs, on which pictures, by name and by option."""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

from ..config.grammar import Call, parse_call, parse_calls
from ..config.names import LOSSES, RULES
from ..config.view_names import POLICIES, resolve
from ..errors import InputError, NotHere, whole


@dataclass(frozen=True)
class Scale:
    """How much of the paper's protocol a cell runs. A layer-wise cell trains each layer for as many pairs as E2E."""

    name: str
    pairs: int
    batch: int
    rate: float
    probe_epochs: int
    sets: tuple[str, str, str] = ("cifar100:train", "cifar10:train[:45000]", "cifar10:test")  # encoder's, probe's, test
    network: str = "cifar"
    views: str = "paper"
    test_views: str | None = None
    margins: dict[str, float] = field(
        default_factory=dict
    )  # the hinge's, where the network's distances are not those of the CIFAR network
    negatives: str = "paper"  # how few negatives are read: as the paper says, or as the authors' code does
    size: int | None = None  # of the views, in pixels
    patch_views: str = "window flip grey(p=1)"  # of the losses on patches
    probe_rate: float = 1e-3
    probe_batch: int = 500
    probe_views: str = "none"  # of the probe's training images, drawn anew at each epoch
    pool_to: int | None = None  # features, average-pooled to no more than that before the probe
    dtp_rate: float | None = 1e-4  # of DTP's layers: their inverses, at 1e-3, lose track of faster ones; None: rate
    # Of the networks trained with labels, on the largest set, at rate 1e-3; on smaller ones they take as many steps.
    supervised_epochs: float = 10
    sizes: tuple[int, ...] = ()  # of the classifier's training set; none: all of it
    corrupted: int = 10_000  # test images under the common corruptions
    shown: int = 1_000  # test images whose embeddings are drawn
    runs: str | None = None  # whose runs the encoders are; none: the table's own
    readings: str = ""  # other options of the cells' losses and rules, such as dtp(order=targets)
    precision: str = "auto"  # of the arithmetic: auto is bfloat16 where the hardware multiplies it fast

    def column(self, size: int, kind: str) -> str:
        """The column of the scores of classifiers that learned from `size` pictures, on test images that are `kind`."""
        return f"{size:,} pictures, {kind}" if self.sizes else kind

    def said(self, measure: str = "probe") -> str:
        """The scale in a caption: what of it the numbers of a measure (see `scores`) depend on."""
        encoder, train, test = self.sets
        sides = f" at {self.size}x{self.size} pixels" if self.size else ""
        margins = "".join(f", {name}={value:g}" for name, value in self.margins.items())
        if measure == "margins":
            return f"{self.name} scale: network {self.network}, batches of {self.batch} from {encoder}{sides}{margins}"
        slower = f" (DTP {self.dtp_rate:g})" if self.dtp_rate not in (None, self.rate) else ""
        said = (
            f"{self.name} scale: {self.pairs:,} pairs of views a layer (a step end to end trains all), "
            f"batch {self.batch}, rate {self.rate:g}{slower}, views {self.views}{sides}{margins}"
            + ("" if self.negatives == "paper" else f", few negatives as the {self.negatives}' code reads them")
            + (f", {self.readings}" if self.readings else "")
            + f"; network {self.network} trained on {encoder}"
        )
        if measure == "curve":
            return said
        deformed = f" under {self.test_views}" if self.test_views else ""
        plain = ", plain and" if measure == "tested" and deformed else ""
        if measure != "separation":
            seen = "" if self.probe_views == "none" else f" seen by {self.probe_views}"
            said += f", probe of {self.probe_epochs} epochs, rate {self.probe_rate:g}, batch {self.probe_batch}, fitted on {train}{seen}"
        few = f"the first {self.shown:,} of " if measure == "separation" else ""
        return f"{said}, scored on {few}{test}{plain}{deformed}"


CIFAR = {
    "paper": Scale("paper", 400 * 50_000, 500, 1e-4, 400, supervised_epochs=100),
    "small": Scale("small", 100_000, 100, 3e-4, 30),
    "tiny": Scale("tiny", 25_000, 100, 3e-4, 30, supervised_epochs=5, corrupted=2_000, shown=400),
    "mini": Scale(
        "mini",
        5_000,
        100,
        3e-4,
        10,
        ("cifar100:train", "cifar10:train[:10000]", "cifar10:test"),
        supervised_epochs=3,
        corrupted=1_000,
        shown=300,
    ),
    "smoke": Scale(
        "smoke",
        200,
        100,
        3e-4,
        20,
        ("cifar100:train[:1000]", "cifar10:train[:1000]", "cifar10:test[:500]"),
        supervised_epochs=0.5,
        corrupted=50,
        shown=100,
    ),
    "digits": Scale(
        "digits",
        30_000,
        50,
        5e-4,
        60,
        ("digits:train", "digits:train", "digits:test"),
        "emnist",
        "digits",
        "digits",
        {"m2": 1.5},
        dtp_rate=None,
        supervised_epochs=15,
        corrupted=500,
        shown=400,
    ),
}

# Table 3: the classifier learns from 5,000 and from 50,000 plain pictures; the pictures that it is tested on are deformed.
_SIZES = {"paper": (5_000, 50_000), "mini": (1_000, 10_000), "smoke": (200, 1_000), "digits": (200, 1_297)}
ROBUST = {
    name: replace(
        scale,
        sets=(scale.sets[0], scale.sets[1].replace("[:45000]", ""), scale.sets[2]),
        sizes=_SIZES.get(name, (5_000, 50_000)),
        corrupted=1_000 if name == "small" else scale.corrupted,
        test_views=scale.test_views or "deformed-cifar(p=0.2)",
        runs="table1",
    )
    for name, scale in CIFAR.items()
}

# Table 2: where STL-10 is not to be had, its pipeline runs on CIFAR's pictures, upsampled to 64x64.
_UPSAMPLED: dict[str, Any] = {
    "network": "vgg6",
    "size": 64,
    "pool_to": 4096,
    "probe_rate": 5e-3,
    "patch_views": "flip grey(p=1)",
}
STL = {
    "paper": Scale(
        "paper",
        100 * 50_000,
        250,
        1e-4,
        200,
        ("stl10:unlabeled[:50000]", "stl10:train", "stl10:test"),
        **_UPSAMPLED | {"patch_views": "window flip grey(p=1) standardize(mean=0.412, std=0.257)"},
        test_views="window(centre=true)",
        probe_views="window flip",
    ),
    **{
        name: replace(CIFAR[name], sets=sets, pairs=pairs, **_UPSAMPLED)
        for name, pairs, sets in (
            ("small", 50_000, ("cifar100:train", "cifar10:train[:5000]", "cifar10:test[:8000]")),
            ("tiny", 5_000, ("cifar100:train", "cifar10:train[:5000]", "cifar10:test[:2000]")),
            ("mini", 1_000, ("cifar100:train", "cifar10:train[:2000]", "cifar10:test[:1000]")),
        )
    },
    # VGG6 on 64x64 pixels takes about a hundred times the CIFAR network's arithmetic for each pair.
    "smoke": replace(
        CIFAR["smoke"],
        sets=("cifar100:train[:100]", "cifar10:train[:30]", "cifar10:test[:30]"),
        pairs=6,
        batch=6,
        **_UPSAMPLED,
    ),
}

# Table 4: where EMNIST is not to be had (see `with_letters`), five classes of MNIST are the "letters", the other five the "digits".
_LETTERS: dict[str, Any] = {
    "network": "emnist",
    "views": "digits",
    "test_views": "digits",
    "margins": {"m2": 1.5},
    "dtp_rate": None,
}
_SPLIT = ("mnist:train?classes=0,1,2,3,4", "mnist:train?classes=5,6,7,8,9", "mnist:test?classes=5,6,7,8,9")
MNIST = {
    "paper": Scale(
        "paper",
        400 * 124_000,  # whole batches of 124,800 letters
        1000,
        1e-3,
        200,
        ("emnist-letters:train", "mnist:train", "mnist:test"),
        **_LETTERS | {"dtp_rate": 1e-4},
        supervised_epochs=50,
    ),
    "small": Scale("small", 100_000, 50, 5e-4, 200, _SPLIT, **_LETTERS),
    "tiny": Scale("tiny", 25_000, 50, 5e-4, 200, _SPLIT, **_LETTERS, supervised_epochs=5),
    "mini": Scale(
        "mini", 5_000, 50, 5e-4, 200, (_SPLIT[0], f"{_SPLIT[1]}[:5000]", _SPLIT[2]), **_LETTERS, supervised_epochs=5
    ),
    "smoke": Scale(
        "smoke",
        200,
        50,
        5e-4,
        1,
        (_SPLIT[0], f"{_SPLIT[1]}[:1000]", f"{_SPLIT[2]}[:500]"),
        **_LETTERS,
        supervised_epochs=1,
    ),
    "digits": replace(CIFAR["digits"], runs="table1"),
}


# The tables of pooling and of SimCLR share encoders with Table 1.
SHARED = {name: replace(scale, runs="table1") for name, scale in CIFAR.items()}

# Figures 6 to 8 look into Table 1's encoders; the paper's Figure 8 into one of Table 2's.
INSIDE = {name: replace(scale, runs="table1", pool_to=8192) for name, scale in CIFAR.items()}
INSIDE["paper"] = replace(INSIDE["paper"], pool_to=None)
EMBEDDED = INSIDE | {"paper": replace(STL["paper"], runs="table2", shown=8_000)}


_STRENGTHS = {"deformed-cifar": (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8), "digits": (0.25, 0.5, 0.75, 1, 1.25, 1.5)}


def strengths(views: str) -> dict[str, str]:
    """Policies like `views`, weaker and stronger, and itself, by a number that says how strong; none without one.

    >>> strengths("deformed-cifar(p=0.2, shared=1)")["0.4"]
    'deformed-cifar(p=0.4, shared=1)'
    """
    calls = parse_calls(views)
    if len(calls) != 1 or calls[0].name not in _STRENGTHS:
        return {}
    numbers = {*_STRENGTHS[calls[0].name], _at_one(calls[0])[1]} - {0}
    return {f"{number:g}": at_strength(views, number) for number in sorted(numbers)}


def at_strength(views: str, strength: float) -> str:
    """A policy like `views`, that strong: p of deformed pictures, times that of the digits'."""
    call = parse_call(views)
    if call.name not in _STRENGTHS:
        call = Call("deformed-cifar")
    options = {name: float(f"{value * strength:g}") for name, value in _at_one(call)[0].items()}
    short = {name: int(value) if value.is_integer() else value for name, value in options.items()}
    return str(Call(call.name, (), call.options | short))


def _at_one(call: Call) -> tuple[dict[str, float], float]:
    """The options that say how strong a policy is, as they are at strength 1, and its own strength.

    Of digits deformed in other proportions than the default's, that is the policy itself.
    """
    usual = {"p": 1.0} if call.name == "deformed-cifar" else {"rotation": 30.0, "log_scale": 0.3, "shift": 0.2}
    given = POLICIES[call.name].defaults | call.options
    own = {name: given[name] for name in usual}
    shares = [own[name] / value for name, value in usual.items()]
    return (usual, shares[0]) if all(math.isclose(share, shares[0]) for share in shares) else (own, 1.0)


def file_name(text: str) -> str:
    """`text` as a part of a file's name; where that leaves something out, a hash of it tells it from others.

    >>> file_name("pairs=500"), file_name("probe_set=cifar10:train[:900]")
    ('pairs=500', 'probe_set=cifar10_train_900-2c35f2')
    """
    kept = re.sub(r"[^A-Za-z0-9_=.-]+", "_", text).strip("_")
    return kept if kept == text else f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


_SETS = ("encoder_set", "probe_set", "test_set")
_MARGINS = ("m1", "m2")
# What no encoder depends on, but for networks trained on deformed pictures, whose runs' names say which.
AFTERWARDS = ("test_views", "strength", "probe_epochs", "probe_batch", "probe_views", "test_set")


def scaled(scales: dict[str, Scale], name: str, **changes: Any) -> Scale:
    """The scale of that name with some of it changed; its name then says what, as `tiny,views=affine-hsv`.

    `changes` are fields of `Scale`; `encoder_set`, `probe_set` and `test_set` for one of `sets`; `m1` and `m2`, the
    hinge's margins; and `strength`, of the deformed test images. None changes nothing.

    >>> scaled(CIFAR, "tiny", views="affine-hsv", pairs=25_000, batch=None).name
    'tiny,views=affine-hsv'

    Raises InputError for an unknown name, or a value that cannot be used.
    """
    if name not in scales:
        raise InputError(f"Unknown scale {name!r}; it takes {', '.join(scales)}.")
    scale = scales[name]
    given = {option: value for option, value in changes.items() if value is not None}
    for option, value in given.items():
        _refuse_unfit(option, value)
    if given.get("batch", 2) < 2:
        raise InputError("batch is 1; it takes at least 2, since a picture's negatives are the others of its batch.")
    named: list[str] = []
    for call in parse_calls(given["readings"], "readings") if "readings" in given else ():
        named += [call.name]
        if named.count(call.name) > 1:
            raise InputError(f"readings has {call.name} twice; it takes all options of one in one pair of brackets.")
        if call.name not in {*LOSSES, *RULES} - {"hinge"} or call.args or not call.options:
            raise InputError(
                f"readings has {call}; it takes a loss or a rule with options by name, such as dtp(order=targets); the "
                "hinge's are m1, m2 and negatives."
            )
    for option, known in {"negatives": ("paper", "authors"), "precision": ("auto", "float32", "bfloat16")}.items():
        if option in given and given[option] not in known:
            raise InputError(f"{option} is {given[option]!r}; it takes {', '.join(known[:-1])} or {known[-1]}.")
    new: dict[str, Any] = {option: value for option, value in given.items() if field_of(option) == option}
    new["margins"] = scale.margins | {option: given[option] for option in _MARGINS if option in given}
    new["sets"] = tuple(given.get(option, old) for option, old in zip(_SETS, scale.sets, strict=True))
    if "strength" in given:
        if "test_views" in given:
            raise InputError("strength and test_views both say how test images are deformed; it takes one of them.")
        new["test_views"] = at_strength(scale.test_views or "none", given["strength"])
    for option in ("views", "test_views", "probe_views"):
        resolve(new.get(option) or "none")  # refused here in one sentence, if at all
    if "strength" in given and resolve(new["test_views"]) == resolve(scale.test_views or "none"):
        new["test_views"] = scale.test_views  # as it is, in other words
    changed = replace(scale, **new)
    if changed == scale:
        return scale
    parts = [f"{option}={value}" for option, value in given.items() if getattr(scale, option, None) != value]
    return replace(changed, name=",".join([name, *map(file_name, parts)]))


def _refuse_unfit(option: str, value: Any) -> None:
    kinds = {f.name: str(f.type) for f in fields(Scale) if f.name not in ("name", "sets", "sizes", "margins", "runs")}
    kinds |= dict.fromkeys(_SETS, "str") | dict.fromkeys((*_MARGINS, "strength"), "float")
    if option not in kinds:
        raise InputError(f"A scale has no {option!r}; it takes {', '.join(kinds)}.")
    if "str" in kinds[option]:
        if not isinstance(value, str):
            raise InputError(f"{option} is {value!r}; it takes a text.")
        return
    is_number = isinstance(value, Real)
    if not is_number or not 0 < value < 1e12:
        raise InputError(f"{option} is {value!r}; it takes a number above 0.")
    if "int" in kinds[option]:
        whole(option, value)


def field_of(option: str) -> str:
    """The field of a scale that an option of `scaled` changes."""
    parts = {"sets": _SETS, "margins": _MARGINS, "test_views": ("strength",)}
    return next((field for field, options in parts.items() if option in options), option)


def runs_of(table: str, scale: Scale) -> str:
    """The folder of the runs that a table's cells have at a scale; scales that train alike share it.

    >>> runs_of("table3", scaled(ROBUST, "tiny", strength=0.4))
    'table1/tiny'
    """
    kept = [part for part in scale.name.split(",") if part.partition("=")[0] not in AFTERWARDS]
    return f"{scale.runs or table}/{','.join(kept)}"


def with_letters(scale: Scale, load: Callable[[str], object]) -> dict[str, str]:
    """The changes (see `scaled`) that bring EMNIST's letters and all ten digits to a scale of Table 4 that splits MNIST by class.

    There are none where `load` does not find the letters, or the scale does not split MNIST. Raises InputError where the letters
    are damaged.
    """
    ours, theirs = (tuple(name.partition("[")[0] for name in sets) for sets in (scale.sets, MNIST["paper"].sets))
    if ours != _SPLIT:
        return {}
    try:
        load(theirs[0])
    except NotHere:
        return {}
    named = zip(_SETS, scale.sets, ours, theirs, strict=True)
    return {option: old.replace(before, after) for option, old, before, after in named}
