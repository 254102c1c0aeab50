"""The words of a views' policy: every deformation with its options, and the named policies, readable without torch.

A policy is a text such as `"crop(scale=[0.2, 1]) flip jitter(p=0.5)"`: deformations in the order in which they are
applied. A name from `POLICIES` stands for its text, alone or among others: `"affine-hsv grey(p=0.1)"`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .grammar import Call, parse_calls

_LARGEST = 1e6  # above all strengths that make sense


@dataclass(frozen=True)
class Setting:
    """One option of a deformation: its default, and what it takes.

    The default's type says what it takes: a list, two numbers in order; true or false; a word, one of `words`; None, a
    whole number or none; otherwise a number. Numbers lie in [low, high].
    """

    default: Any
    low: float = 0.0
    high: float = _LARGEST
    words: tuple[str, ...] = ()

    def accepts(self, value: Any) -> bool:
        if isinstance(self.default, list):
            return (
                isinstance(value, list) and len(value) == 2 and all(map(self._inside, value)) and value[0] <= value[1]
            )
        if isinstance(self.default, bool):
            return isinstance(value, bool)
        if isinstance(self.default, str):
            return value in self.words
        if self.default is None:
            return value is None or (isinstance(value, int) and self._inside(value))
        return self._inside(value)

    def _inside(self, value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def __str__(self) -> str:
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return " or ".join(self.words)
        top = self.high == _LARGEST
        span = f"of at least {self.low:g} and at most {self.high:g}" if top else f"from {self.low:g} to {self.high:g}"
        if isinstance(self.default, list):
            return f"two numbers in order {span}"
        return f"a whole number {span}, or none" if self.default is None else f"a number {span}"


@dataclass(frozen=True)
class Deformation:
    """What a deformation does, its options, and whether it takes values beyond [0, 1]."""

    line: str
    options: dict[str, Setting]
    beyond: bool = False
    strengths: tuple[str, ...] = ()  # options of which one must be given: without any it would do nothing

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: option.default for name, option in self.options.items()}


_CHANCE = {"p": Setting(1.0, 0, 1)}
_PADDING = {"padding": Setting("zeros", words=("zeros", "border"))}

DEFORMATIONS: dict[str, Deformation] = {
    "crop": Deformation(
        "a random box, of `scale` of the area and `ratio` width to height, resized (bilinear, antialiased)",
        {"scale": Setting([0.08, 1.0], 1e-3, 1), "ratio": Setting([3 / 4, 4 / 3], 1e-2, 100)},
    ),
    "window": Deformation(
        "a box of the views' size, at a random place or at the centre, not resized", {"centre": Setting(False)}
    ),
    "flip": Deformation("left and right exchanged, with probability `p`", {"p": Setting(0.5, 0, 1)}, beyond=True),
    "jitter": Deformation(
        "brightness, contrast, saturation and hue, in this order, with probability `p`",
        {
            "brightness": Setting(0.0),
            "contrast": Setting(0.0),
            "saturation": Setting(0.0),
            "hue": Setting(0.0, 0, 0.5),
            **_CHANCE,
        },
        strengths=("brightness", "contrast", "saturation", "hue"),
    ),
    "grey": Deformation(
        "all channels made the luminance, with probability `p`", {"p": Setting(0.2, 0, 1)}, beyond=True
    ),
    "standardize": Deformation(
        "every value less `mean`, divided by `std`: views are then no longer in [0, 1]",
        {"mean": Setting(0.5), "std": Setting(0.25, 1e-6)},
        beyond=True,
    ),
    "hsv": Deformation(
        "hue shifted by U(-hue, hue) of the circle, HSV's saturation times 2^U(-saturation, saturation); "
        "`shared` gives all pictures the draw of that number",
        {"hue": Setting(0.1, 0, 0.5), "saturation": Setting(2.0, 0, 10), "shared": Setting(None, 0, 2**31), **_CHANCE},
    ),
    "affine": Deformation(
        "the map I + u with |u| from `low` to `high` and random signs, translations doubled, with probability `p`",
        {"low": Setting(0.0, 0, 1), "high": Setting(0.25, 0, 1), "p": Setting(0.5, 0, 1), **_PADDING},
    ),
    "similarity": Deformation(
        "rotation up to +-`rotation` degrees, scale e^U(-log_scale, log_scale), shift up to +-`shift` of half the width",
        {
            "rotation": Setting(0.0, 0, 180),
            "log_scale": Setting(0.0, 0, 3),
            "shift": Setting(0.0, 0, 1),
            **_CHANCE,
            **_PADDING,
        },
        strengths=("rotation", "log_scale", "shift"),
    ),
}


@dataclass(frozen=True)
class NamedPolicy:
    """A policy with a name: a line about it, and a function from its options to its text.

    The function's signature names the options and holds their defaults.
    """

    line: str
    write: Callable[..., str]

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in inspect.signature(self.write).parameters.items()}


def _paper(scale: list[float] = [0.08, 1.0], strength: float = 1.0) -> str:  # noqa: B006  (a default to read, never written to)
    colour = ", ".join(f"{name}={0.8 * strength:g}" for name in ("brightness", "contrast", "saturation"))
    return f"crop(scale={scale}) flip jitter({colour}, hue={0.2 * strength:g}, p=0.8) grey(p=0.2)"


def _affine_hsv(u: float = 0.25, hue: float = 0.1, saturation: float = 2.0) -> str:
    return f"affine(high={u}, p=0.5, padding=zeros) hsv(hue={hue}, saturation={saturation}) flip"


def _digits(rotation: float = 30.0, log_scale: float = 0.3, shift: float = 0.2) -> str:
    return f"similarity(rotation={rotation}, log_scale={log_scale}, shift={shift}, padding=zeros)"


def _deformed_cifar(p: float = 0.2, hue: float = 0.1, saturation: float = 2.0, shared: int = 0) -> str:
    return (
        f"affine(low={p / 4:g}, high={5 * p / 4:g}, p=0.5, padding=border) "
        f"hsv(hue={hue}, saturation={saturation}, shared={shared}) flip"
    )


POLICIES: dict[str, NamedPolicy] = {
    "paper": NamedPolicy("the paper's: resized crop, flip, colour jitter, grey; `strength` scales the jitter", _paper),
    "affine-hsv": NamedPolicy(
        "the authors' CIFAR code: affine map of half, saturation and hue of all, flip", _affine_hsv
    ),
    "digits": NamedPolicy("rotation, scale and shift, for digits and letters (the paper's are not published)", _digits),
    "deformed-cifar": NamedPolicy(
        "the deformed test images of Table 3, of strength `p`; saturation and hue are one draw, number `shared`",
        _deformed_cifar,
    ),
    "none": NamedPolicy("the pictures as they are", lambda: ""),
}


def resolve(text: str) -> tuple[Call, ...]:
    """The deformations that `text` asks for, in order, names written out and every option filled in and checked.

    >>> [str(call) for call in resolve("digits(rotation=20) flip")][1]
    'flip(p=0.5)'

    Raises InputError for an unknown name or option, for a strength out of its range, and for what would clip the values that
    `standardize` leaves.
    """
    calls: list[Call] = []
    for call in parse_calls(text, "views"):
        if call.name in POLICIES:
            written = _written(call)
            calls += resolve(written) if written else ()
        elif call.name in DEFORMATIONS:
            calls.append(_checked(call))
        elif "." in call.name and not call.args:  # a function of the user's own
            calls.append(call)
        else:
            raise InputError(
                f"The views name {call.name!r}, which is neither a policy ({', '.join(POLICIES)}) nor a deformation "
                f"({', '.join(DEFORMATIONS)}), nor the dotted path of a function of your own."
            )
    names = [call.name for call in calls]
    after = names[names.index("standardize") :] if "standardize" in names else []
    if clips := [name for name in after if name in DEFORMATIONS and not DEFORMATIONS[name].beyond]:
        raise InputError(
            f"The views' {clips[0]} takes values in [0, 1] and comes after standardize; it takes its place before, and after "
            f"standardize come {', '.join(name for name, one in DEFORMATIONS.items() if one.beyond)}."
        )
    return tuple(calls)


def steady(text: str) -> str:
    """What the views do to every picture alike, and so what an encoder that learned from them takes a picture through.

    >>> steady("crop flip grey(p=0.2) standardize(mean=0.5, std=0.25)"), steady("paper")
    ('standardize(mean=0.5, std=0.25)', '')
    """
    calls = resolve(text)
    return " ".join(str(c) for c in calls if c.name == "standardize" or (c.name == "grey" and c.options["p"] == 1))


def _check_names(call: Call, valid: dict[str, Any]) -> None:
    known = ", ".join(valid) or "none"
    if call.args:
        raise InputError(f"The views' {call} gives a value without its option's name; options of {call.name}: {known}.")
    for name in call.options:
        if name not in valid:
            raise InputError(f"The views' {call.name} has no option {name!r}; its options: {known}.")


def _written(call: Call) -> str:
    policy = POLICIES[call.name]
    _check_names(call, policy.defaults)
    for name, value in call.options.items():
        like = Setting([0.0, 0.0] if isinstance(policy.defaults[name], list) else 0.0)
        if not like.accepts(value):
            raise InputError(f"The views' {call.name} has {name}={value!r}; it takes {like}.")
    return policy.write(**call.options)


def _checked(call: Call) -> Call:
    options, strengths = DEFORMATIONS[call.name].options, DEFORMATIONS[call.name].strengths
    _check_names(call, options)
    if strengths and not call.options.keys() & {*strengths}:
        raise InputError(f"The views' {call} does nothing; it takes one or more of {', '.join(strengths)}.")
    filled = {name: call.options.get(name, option.default) for name, option in options.items()}
    for name, value in filled.items():
        if not options[name].accepts(value):
            raise InputError(f"The views' {call.name} has {name}={value!r}; it takes {options[name]}.")
    if call.name == "affine" and filled["low"] > filled["high"]:
        raise InputError(
            f"The views' affine has low={filled['low']} above high={filled['high']}; it takes low <= high."
        )
    return Call(call.name, (), filled)
