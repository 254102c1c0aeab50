"""Whether this machine makes a run again, to the bit."""

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from ..data import ImageSet, load
from ..data.memory import pick_device
from ..errors import InputError, Stopped, whole
from .folder import configuration, read_facts, read_metrics, refuse_other_images, surroundings
from .loop import CONDITIONS, Progress, replay
from .own_code import refuse_other_code
from .weights import refuse_other_start


@dataclass(frozen=True)
class Verdict:
    """What `verify` found: whether the replayed lines were the same, and one sentence about it."""

    exact: bool
    said: str


def verify(
    run: Path | str, *, rows: int = 3, images: ImageSet | None = None, progress: Progress | None = None
) -> Verdict:
    """Replay a run's first steps, up to its `rows`-th logged loss, and compare every line of the metrics exactly.

    The replay is made in a temporary folder, in the precision and with the number of threads that the run was made in:
    sums are split between threads, and so their last bits depend on it. `images` stands in for the configured data.

    A run that went on under other conditions is replayed up to there. Raises InputError where the run logged nothing before,
    or its images, the encoder that it began with, or parts of the user's own, are not these.
    """
    config, facts = configuration(run), read_facts(Path(run))
    whole("rows", rows)
    first, until = _first_part(facts)
    logged = [row for row in read_metrics(Path(run)) if row["step"] <= until]
    steps = sorted({row["step"] for row in logged if "loss" in row})[:rows]
    if not steps:
        where = "" if until == math.inf else f" before step {until}, from which it went on under other conditions"
        raise InputError(f"{run} has logged no losses yet{where}; it takes a run with a line of metrics.")
    config = replace(config, precision=str(first.get("precision", config.precision)))
    device = pick_device(config.device)
    if images is None:
        images = load(config.data, root=config.data_root, download=config.download, device=device)
    refuse_other_images(run, facts, images)
    refuse_other_start(run, config, facts)
    refuse_other_code(run, facts, config)
    with tempfile.TemporaryDirectory() as folder, _threads(first.get("hardware")):
        try:
            again = replay(config, steps[-1], Path(folder), images=images, progress=progress)
        except Stopped:  # whose sentence is a run's, that it can be continued
            raise Stopped("Stopped; nothing was compared.") from None
        now = surroundings(device) | {"device": str(device), "precision": config.precision, "processes": 1}
    lines = [row for row in logged if row["step"] <= steps[-1]]
    pairs = zip_longest(lines, again)
    different = next((pair for pair in pairs if json.dumps(pair[0]) != json.dumps(pair[1])), None)
    if different is None:
        return Verdict(True, f"{run} is reproduced exactly here: {len(lines)} lines, to step {steps[-1]}.")
    there, here = map(json.dumps, different)
    changed = [name for name in CONDITIONS if first.get(name, now[name]) != now[name]]
    why = f"what differs here: {', '.join(changed)}" if changed else "versions, hardware and source tree are the same"
    return Verdict(False, f"{run} is not reproduced exactly here: {there} in the run, {here} here; {why}.")


def _first_part(facts: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """What a run began on, and the last step before it went on under other conditions."""
    parts: list[dict[str, Any]] = [*facts.get("earlier", []), facts]
    for part in parts:
        if any(part.get(name) != parts[0].get(name) for name in CONDITIONS):
            return parts[0], part.get("resumed_at", 0)
    return parts[0], math.inf


@contextmanager
def _threads(hardware: Any) -> Iterator[None]:
    """As many threads as `hardware` says, then as many as before."""
    before = torch.get_num_threads()
    wanted = hardware.get("threads") if isinstance(hardware, dict) else None
    torch.set_num_threads(wanted if type(wanted) is int and 1 <= wanted <= 1024 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
