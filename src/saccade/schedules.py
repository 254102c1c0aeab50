"""Schedules: which layers learn at which step. A schedule stores nothing: it is a function of the seed and the step.

Each groups the encoder's layers into sites (`groups`), says how many steps a run takes when each site is to be trained
for `steps` of them (`length`), and which sites learn at one step (`sites`).
"""

from . import draws


def _blocks(layers: int, block: int) -> list[range]:
    return [range(start, min(start + block, layers)) for start in range(0, layers, block)]


class EndToEnd:
    """One loss on top of all layers."""

    def groups(self, layers: int) -> list[range]:
        return [range(layers)]

    def length(self, sites: int, steps: int) -> int:
        return steps

    def sites(self, seed: int, step: int, sites: int, steps: int) -> tuple[int, ...]:
        return (0,)


class Greedy:
    """GLL: sites one after another, from the bottom, each to its end; the layers below are frozen by then."""

    def __init__(self, *, block: int = 1):
        self.block = block

    def groups(self, layers: int) -> list[range]:
        return _blocks(layers, self.block)

    def length(self, sites: int, steps: int) -> int:
        return sites * steps

    def sites(self, seed: int, step: int, sites: int, steps: int) -> tuple[int, ...]:
        return (step // steps,)


class Randomized(Greedy):
    """RLL: at each batch one site, drawn uniformly; sites x steps in total, as the paper's 5 x 400 epochs.

    >>> [Randomized().sites(0, step, 5, 400) for step in range(6)]
    [(1,), (0,), (4,), (0,), (3,), (1,)]
    """

    def sites(self, seed: int, step: int, sites: int, steps: int) -> tuple[int, ...]:
        return (draws.key(seed, "layer", step) % sites,)


class Simultaneous(Greedy):
    """Every site at every batch, in one forward pass, with no gradient between sites."""

    def length(self, sites: int, steps: int) -> int:
        return steps

    def sites(self, seed: int, step: int, sites: int, steps: int) -> tuple[int, ...]:
        return tuple(range(sites))
