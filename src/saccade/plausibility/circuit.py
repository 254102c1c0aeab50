"""The contrastive hinge as a circuit of excitatory and inhibitory rate units (in place of the paper's Supplement A, whose
drawing is not to be had).

A unit's rate is min(1, [gain * (bias + what it receives)]+). A unit excites whatever it reaches, or inhibits it; weights
are fixed, and nothing is multiplied but rate by weight. Graded units have gain 1/m2, so that one saturates where its
coordinate alone puts a pair beyond the larger margin; deciding units have gain G. The one exception are the units that
carry the embedding, on and off, seen and kept, with those that load the latter and their inhibitory companions: their
rates are [z]+ and [-z]+ themselves, without a ceiling.

    seen on, off            [z]+, [-z]+ of the view that is seen
    kept on, off            short-term memory of the anchor: each excites itself with weight 1, so that it stays as it is
    load, unload            [seen - kept]+ excites and [kept - seen]+ inhibits what is kept, until the two are equal;
                            silent while the memory is to hold. Where nothing is seen, the anchor is forgotten
    above, below            [a - z]+ / m2 and [z - a]+ / m2: opponents, one a coordinate
    sign above, sign below  1 where the difference exceeds 1/G
    far     (inhibitory)    1 where the sum of all differences exceeds m1 by 1/G, after the positive is shown
    spread  (inhibitory)    that sum over m2, at most 1
    near    (inhibitory)    1 where it falls short of m2 by 1/G, after the saccade
    shut pull, shut push    [1 - far]+, [1 - near]+: inhibit the errors of what needs no learning
    pull, push              the gated signs; their sum is the error, in two units a coordinate: up and down

The errors are those of Eq. 5 and 6: pulled towards the anchor, d_i = -p sgn(a_i - z_i); pushed away, d_i = q sgn(a_i - z_i).
The update of an output weight is -(up_i - down_i) times its pre-synaptic rate, the only product of activities.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config.run import TrainConfig
from ..data import ImageSet
from ..errors import InputError
from ..training.model import Model, build, make_batch

POSITIVE, SACCADE, NEGATIVE = "positive", "saccade", "negative"  # what is seen while the anchor is kept
_LOADING = 4 / 27  # the largest weight with which the memory reaches what it loads without overshooting


@dataclass(frozen=True)
class Population:
    """Units of one kind, `excitatory` or not: one a coordinate, or one in all (`wide` false).

    `inputs` are (name, weight, how): how is "each" (coordinate to coordinate, or one to all) or "sum" (all to one).
    """

    name: str
    excitatory: bool = True
    wide: bool = True
    gain: float = 1.0
    bias: float = 0.0
    inputs: tuple[tuple[str, float, str], ...] = ()
    ceiling: float = 1.0


def _each(*names: str, weight: float = 1.0) -> tuple[tuple[str, float, str], ...]:
    return tuple((name, weight, "each") for name in names)


def _sum(*names: str, weight: float = 1.0) -> tuple[tuple[str, float, str], ...]:
    return tuple((name, weight, "sum") for name in names)


@dataclass
class Circuit:
    """The circuit for embeddings of `width` coordinates. Raises InputError unless 0 <= m1 < m2 and 1/gain < m2 - m1."""

    width: int
    m1: float = 1.0
    m2: float = 3.0
    gain: float = 1000.0
    populations: list[Population] = field(init=False)
    _excites: dict[str, bool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.m1 < self.m2 or self.width < 1 or not self.gain * (self.m2 - self.m1) > 1:
            raise InputError(
                f"The circuit has width={self.width}, m1={self.m1:g}, m2={self.m2:g} and gain={self.gain:g}; "
                "it takes at least one unit, m1 below m2, and a gain above 1 / (m2 - m1)."
            )
        m1, m2, gain = self.m1, self.m2, self.gain
        graded, endless = 1 / m2, float("inf")
        silence = m2 * self.width  # no excitation of a deciding unit exceeds it
        shut = _each("holding", weight=1000 * m2)  # no coordinate exceeds that
        # Inhibitory companions: a unit that excites needs one to subtract its rate.
        self.populations = [
            Population(f"{name} companion", excitatory=False, inputs=_each(name), ceiling=endless)
            for name in ("seen on", "seen off", "kept on", "kept off")
        ]
        for side in ("on", "off"):
            seen, kept, load, unload = (f"{what} {side}" for what in ("seen", "kept", "load", "unload"))
            loading = (*_each(kept), *_each(load, unload, weight=_LOADING))
            self.populations += [
                Population(load, inputs=(*_each(seen, f"{kept} companion"), *shut), ceiling=endless),
                Population(
                    unload, excitatory=False, inputs=(*_each(kept, f"{seen} companion"), *shut), ceiling=endless
                ),
                Population(kept, inputs=loading, ceiling=endless),
            ]
        far = (*_sum("above", "below", weight=m2), ("after saccade", silence, "each"))
        near = (*_each("spread", weight=m2), ("before saccade", m2, "each"))
        self.populations += [
            Population(
                "above", gain=graded, inputs=_each("kept on", "seen off", "kept off companion", "seen on companion")
            ),
            Population(
                "below", gain=graded, inputs=_each("seen on", "kept off", "seen off companion", "kept on companion")
            ),
            Population("sign above", gain=gain, inputs=_each("above", weight=m2)),
            Population("sign below", gain=gain, inputs=_each("below", weight=m2)),
            Population("far", excitatory=False, wide=False, gain=gain, bias=-m1, inputs=far),
            Population("spread", excitatory=False, wide=False, inputs=_sum("above", "below")),
            Population("near", excitatory=False, wide=False, gain=gain, bias=m2, inputs=near),
            Population("shut pull", excitatory=False, wide=False, bias=1.0, inputs=_each("far")),
            Population("shut push", excitatory=False, wide=False, bias=1.0, inputs=_each("near")),
            Population("pull up", inputs=_each("sign below", "shut pull")),
            Population("pull down", inputs=_each("sign above", "shut pull")),
            Population("push up", inputs=_each("sign above", "shut push")),
            Population("push down", inputs=_each("sign below", "shut push")),
            Population("up", inputs=_each("pull up", "push up")),
            Population("down", inputs=_each("pull down", "push down")),
        ]
        self._excites = {p.name: p.excitatory for p in self.populations}

    def sources(self, z: Tensor, phase: str | None) -> dict[str, Tensor]:
        """What comes from outside: the seen embedding, (batch, width), and signals that tell where the episode stands.

        Without a phase nothing is compared, and what is seen is taken into memory.
        """
        told = {"after saccade": phase != POSITIVE, "before saccade": phase != NEGATIVE, "holding": phase is not None}
        signals = {name: z.new_full((len(z), 1), float(on)) for name, on in told.items()}
        return signals | {"seen on": z.clamp_min(0), "seen off": (-z).clamp_min(0)}

    def respond(self, z: Tensor, anchor: Tensor, phase: str) -> dict[str, Tensor]:
        """Every population's steady rates, (batch, width) or (batch, 1), while `z` is seen and `anchor` kept."""
        rates = self.sources(z, phase) | {"kept on": anchor.clamp_min(0), "kept off": (-anchor).clamp_min(0)}
        for population in self.populations:
            if population.name not in rates:
                rates[population.name] = self._rate(population, rates)
        return rates

    def errors(self, z: Tensor, anchor: Tensor, phase: str) -> Tensor:
        """The error of each output unit, (batch, width): up minus down."""
        rates = self.respond(z, anchor, phase)
        return rates["up"] - rates["down"]

    def over_time(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        steps: int = 100,
        blank: int = 20,
        speed: float = 0.2,
    ) -> Iterator[dict[str, Tensor]]:
        """Rates while an episode runs: the anchor, the positive, a saccade (nothing is seen), the negative; then forgotten.

        Each rate moves by `speed` of its distance to what its inputs ask for, each time step. Each view stays for `steps`
        of them, as does the forgetting; the saccade takes `blank`.
        """
        nothing = torch.zeros_like(anchor)
        shown: list[tuple[Tensor, str | None, int]] = [
            (anchor, None, steps),
            (positive, POSITIVE, steps),
            (nothing, SACCADE, blank),
            (negative, NEGATIVE, steps),
            (nothing, None, steps),
        ]
        rates = {
            p.name: torch.zeros(len(anchor), self.width if p.wide else 1, dtype=anchor.dtype, device=anchor.device)
            for p in self.populations
        }
        for z, phase, length in shown:
            sources = self.sources(z, phase)
            for _ in range(length):
                now = rates | sources
                rates = {p.name: (1 - speed) * now[p.name] + speed * self._rate(p, now) for p in self.populations}
                yield rates | sources

    def _rate(self, population: Population, rates: dict[str, Tensor]) -> Tensor:
        received: Tensor | float = population.bias
        for name, weight, how in population.inputs:
            rate = rates[name].sum(1, keepdim=True) if how == "sum" else rates[name]
            received = received + (weight if self.excites(name) else -weight) * rate
        return (population.gain * torch.as_tensor(received)).clamp(0.0, population.ceiling)

    def excites(self, name: str) -> bool:
        """Whether a population, or a source, excites. What tells where the episode stands inhibits."""
        return self._excites.get(name, name.startswith("seen"))


def learn_by_episodes(config: TrainConfig, images: ImageSet, *, gain: float = 1000.0) -> Model:
    """Train image after image in the paper's episode, and return the trained model.

    The anchor is seen and its embedding kept; the positive is seen and the weights are updated on it; after a saccade the
    next image is seen and they are updated on this negative; then the anchor is forgotten. The output layer (the drawn
    layer's head) learns by the circuit's errors alone, the layer below by the configured rule from these errors.

    `config` names the rest: views, network, a layer-wise schedule, the rule (with one phase), SGD, margins in a hinge.
    Views and their order are those of the batch loss under the same configuration; a layer is drawn at each episode.
    """
    model = build(config, images)
    loss: Any = model.sites[0].loss
    circuit = Circuit(_width(model), loss.m1, loss.m2, gain)
    sites = len(model.sites)
    episode = 0
    for step in range(model.total_steps):
        x = make_batch(model, images, step)[0].x.to(next(model.encoder.parameters()).dtype)
        first, second = x.chunk(2)
        for place in range(len(first)):
            (turn,) = model.schedule.sites(config.seed, episode, sites, model.steps_per_site * len(first))
            site, optimizer = model.sites[turn], model.optimizers[turn, "weights"]
            views = torch.stack([first[place], second[place], second[(place + 1) % len(first)]])
            with torch.no_grad():
                for below in model.sites[:turn]:
                    views = below.layers(views)
                anchor = site(views[:1])[1]
            for seen, phase in ((views[1:2], POSITIVE), (views[2:], NEGATIVE)):
                z = site(seen)[1]
                z.backward(circuit.errors(z.detach(), anchor, phase))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            episode += 1
    return model


def _width(model: Model) -> int:
    head: Any = model.sites[0].head
    return next(p.shape[0] for p in head.parameters())
