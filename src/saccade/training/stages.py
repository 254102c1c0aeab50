"""Layers on several processes: which process has which sites, so that all are about equally busy.

A layer-wise schedule sends no error from one site down to another, so a process passes its features up and goes on with
the next batch at once (Lowe, O'Connor and Veeling 2019, "Putting an end to end-to-end", propose it and leave it
unbuilt). Batches pass through each process in their order: the run is that of one process.
"""

from itertools import combinations, pairwise

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError
from ..networks import evaluating
from ..rules.site import Site


def stages(sites: list[Site], shapes: list[tuple[int, ...]], count: int) -> list[range]:
    """The sites of each of `count` processes, neighbours together, such that the busiest has as little to do as can be.

    `shapes` are those of one image's features below each site. Raises InputError for fewer sites than processes.
    """
    if count > len(sites):
        raise InputError(
            f"divide=layers found {len(sites)} groups of layers for {count} processes; it takes as many groups at least, which "
            "layer-wise schedules have (gll, rll, simultaneous)."
        )
    costs = [operations(site, shape) for site, shape in zip(sites, shapes, strict=True)]
    cuts = ((0, *inner, len(sites)) for inner in combinations(range(1, len(sites)), count - 1))
    best = min(cuts, key=lambda cut: max(sum(costs[a:b]) for a, b in pairwise(cut)))
    return [range(a, b) for a, b in pairwise(best)]


def operations(site: Site, shape: tuple[int, ...]) -> int:
    """Floating point operations of one image's way up."""
    parameter = next(site.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad(), evaluating(site):
        site(torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device))
    return counter.get_total_flops()
