"""What an audit says: conditions, parts, findings, and the report that holds them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError

CONDITIONS = {
    "space": "(i) local in space",
    "time": "(i) local in time",
    "simple": "(ii) simple computations",
    "asymmetric": "(iii) no symmetric connections",
    "unsupervised": "(iv) unsupervised",
}
PARTS = ("loss", "network", "rule", "schedule", "optimizer")
MET, VIOLATED, UNDECIDED = "met", "violated", "not decidable"


class Undecided(Exception):
    """An intervention that could not be carried out, such as on a part that draws numbers of its own."""


def _refuse_unknown(name: str, names: Iterable[str], what: str) -> None:
    if name not in names:
        raise InputError(f"Unknown {what} {name!r} of an audit; it takes {', '.join(names)}.")


@dataclass
class Finding:
    """One part under one condition, with what was seen."""

    part: str
    condition: str
    verdict: str
    evidence: list[str]


@dataclass
class Report:
    """An audit: its findings, one a part and condition that it was examined under, and facts without verdict.

    `needs` says what must be remembered, who waits for whom and how many phases a step has; `beyond` is what the paper's
    four conditions do not ask; `remarks` say what became of feedback weights, and `angles` are theirs to the forward
    weights, in degrees, at the start and after each real step; `setting` is what was run.
    """

    configuration: dict[str, Any]
    setting: str
    findings: list[Finding] = field(default_factory=list)
    needs: dict[str, Any] = field(default_factory=dict)
    beyond: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    angles: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The four choices in a row."""
        return ", ".join(str(self.configuration[key]) for key in ("loss", "schedule", "rule", "optimizer"))

    def blame(self, part: str, condition: str, evidence: str) -> None:
        """Put a violation in the place of what was found of a part under a condition."""
        self.findings = [f for f in self.findings if (f.part, f.condition) != (part, condition)]
        self.findings.append(Finding(part, condition, VIOLATED, [evidence]))

    def violations(self) -> set[tuple[str, str]]:
        """(part, condition) of each violation."""
        return {(f.part, f.condition) for f in self.findings if f.verdict == VIOLATED}

    def verdict(self, condition: str, parts: Iterable[str] = PARTS) -> str:
        """The worst of the parts' verdicts. Raises InputError for a condition or a part that there is not."""
        asked = tuple(parts)
        for part in asked:
            _refuse_unknown(part, PARTS, "part")
        found = {f.verdict for f in self._under(condition) if f.part in asked}
        return next((v for v in (VIOLATED, UNDECIDED) if v in found), MET)

    def blamed(self, condition: str) -> list[str]:
        """The parts that violate a condition. Raises InputError for a condition that there is not."""
        return [f.part for f in self._under(condition) if f.verdict == VIOLATED]

    def _under(self, condition: str) -> list[Finding]:
        _refuse_unknown(condition, CONDITIONS, "condition")
        return [f for f in self.findings if f.condition == condition]

    def as_dict(self) -> dict[str, Any]:
        verdicts = {condition: self.verdict(condition) for condition in CONDITIONS}
        return {"name": self.name, "verdicts": verdicts} | asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Report":
        """The report that `as_dict` made."""
        own = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**own | {"findings": [Finding(**one) for one in data["findings"]]})
