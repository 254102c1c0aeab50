"""Differences over seeds: their intervals, paired tests, and Holm's correction for several of them."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """A mean difference over pairs; its 95 % interval and the p-value by Student's t, and the exact p of sign flips.

    With one pair, or differences that are all alike, there is neither interval nor p-value by t.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float | None
    exact: float | None

    def shown(self) -> str:
        """The difference and its interval: `-1.20 [-2.31, -0.09]`."""
        inside = "" if self.interval is None else f" [{self.interval[0]:+.2f}, {self.interval[1]:+.2f}]"
        return f"{self.mean:+.2f}{inside}"


def differences(values: Sequence[float]) -> Paired:
    """What differences, one a pair, say of their mean: Student's t interval and test, and the test that flips their signs.

    The flips' p is the share of all 2^n ways to sign the differences whose mean is at least as far from 0, so it is never
    below 2 / 2^n.

    >>> differences([1.0, 2.0, 3.0]).exact
    0.25
    """
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Paired(n, mean, None, None, None)
    flips = itertools.product((1, -1), repeat=n) if n <= 16 else ()
    sums = [abs(sum(sign * v for sign, v in zip(signs, values, strict=True))) for signs in flips]
    exact = sum(total >= abs(sum(values)) * (1 - 1e-12) for total in sums) / len(sums) if sums else None
    error = statistics.stdev(values) / math.sqrt(n)
    if error <= 1e-9 * max(map(abs, values)):  # t takes the differences to vary
        return Paired(n, mean, None, None, exact)
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * error
    return Paired(n, mean, (mean - half, mean + half), 2 * float(t.sf(abs(mean) / error, n - 1)), exact)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) adjusted p-values; those that are missing count as tests that have not been made yet.

    >>> holm([0.01, None, 0.04])
    [0.03, None, 0.08]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[place] = largest
    return adjusted
