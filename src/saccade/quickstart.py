"""The main job in small: learn digits without labels, compare with and without labels, on plain and deformed digits.

It is the paper's Table 4 in small, and differs from it in using the same digits for the encoder and the probe.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import api
from .config.run import TrainConfig, recipe
from .files import make_folder
from .parallel import Report, side_by_side
from .report.figures import bars
from .report.page import Section, Svg, Text, write_page
from .report.tables import Cell, Table, spread
from .training.folder import read_json, surroundings, write_json

TRAIN, TEST, VIEWS = "digits:train", "digits:test", "digits"

RANDOM = "random encoder, linear probe"
OURS = "without labels (hinge, E2E, BP), linear probe"
WITH_LABELS = "with labels, plain digits"
UPPER_MARK = "with labels, the same deformations"
OTHERS: dict[str, dict[str, Any]] = {
    "without labels, GLL, BP, 10 epochs a layer": {"schedule": "gll", "epochs": 10},
    "without labels, GLL, RF, 10 epochs a layer": {"schedule": "gll", "rule": "rf", "epochs": 10},
    "without labels, RLL, BP, 10 epochs a layer": {"schedule": "rll", "epochs": 10},
    "without labels, RLL, RF, 10 epochs a layer": {"schedule": "rll", "rule": "rf", "epochs": 10},
    "without labels, E2E, RF": {"rule": "rf"},
    "without labels, E2E, URF": {"rule": "urf"},
    "without labels, E2E, DTP": {"rule": "dtp"},
}

DIFFERENCE = (
    "The paper's Table 4 in small. It differs from the paper's: the encoder and the probe learn from the same 1,297 "
    "digits of scikit-learn, enlarged to 28x28, where the paper trains encoders on EMNIST letters and probes on MNIST; "
    "fewer epochs; deformations of our choice (rotation up to 30 degrees, log-scale up to 0.3, shift up to 0.2 of half "
    "the width), since the paper's are not published."
)


def run(
    out: Path, seeds: int = 3, *, everything: bool = False, progress: Callable[[float], None] | None = None
) -> tuple[Table, Path]:
    """Train and compare, with `seeds` seeds; returns the table and the page, `out/page.html`.

    The training images alone train the encoder and fit the probe; the test digits are scored once. `everything` adds
    rows for the other schedules and rules. Runs go to `out`, side by side on the cores there are; finished ones are not
    run again. The numbers, with what they came from, go to `out/results.json`. `progress` is told the share done.
    """
    ours = recipe("digits")
    supervised = replace(ours, loss="cross-entropy", views="none", rate=1e-3, epochs=15)
    cells: dict[str, TrainConfig] = {OURS: ours, WITH_LABELS: supervised, UPPER_MARK: replace(supervised, views=VIEWS)}
    if everything:
        cells |= {name: replace(ours, **changes) for name, changes in OTHERS.items()}

    started = time.perf_counter()
    make_folder(out)
    kept = out / "results.json"
    before = read_json(kept, "what quickstart wrote there, or no such file") if kept.exists() else {}
    tasks = {
        _slug(name, seed): (replace(config, seed=seed), out / _slug(name, seed), name == OURS)
        for seed in range(seeds)
        for name, config in cells.items()
    }
    scored = side_by_side(_trained_and_scored, tasks, progress=progress)
    accuracy: dict[str, dict[str, list[float]]] = {}
    for name in (RANDOM, WITH_LABELS, OURS, UPPER_MARK, *(OTHERS if everything else ())):
        kind = "initial" if name == RANDOM else "trained"
        pairs = [scored[_slug(OURS if name == RANDOM else name, seed)][kind] for seed in range(seeds)]
        accuracy[name] = {"plain": [plain for plain, _ in pairs], "deformed": [deformed for _, deformed in pairs]}
    seconds = round(time.perf_counter() - started, 1)
    found = {"seeds": seeds, "accuracy": accuracy, "seconds": seconds, **surroundings()}
    if before.get("accuracy") != accuracy:  # what was asked for again took no time
        write_json(kept, found)
    table = as_table(found)
    chart = Svg(as_bars(found), "The same as bars; whiskers are one standard deviation over seeds.")
    sections = [Section("Result", [table, chart, Text(DIFFERENCE)]), *api.run_page_sections(out / _slug(OURS, 0))]
    page = out / "page.html"
    write_page(page, "saccade quickstart", "Handwritten digits, learned without labels", sections)
    return table, page


def _trained_and_scored(task: tuple[TrainConfig, Path, bool], report: Report) -> dict[str, tuple[float, float]]:
    """Train one cell in its folder; its accuracies on plain and deformed test digits, its start's too if asked for."""
    config, folder, with_initial = task
    api.train(config, out=folder, progress=lambda step, steps, loss: report(0.9 * step / steps))
    if config.loss == "cross-entropy":
        found = {"trained": (api.evaluate(folder, TEST), api.evaluate(folder, TEST, test_views=VIEWS))}
    else:
        found = {"trained": _probed(folder, config.seed)}
    if with_initial:
        found["initial"] = _probed(folder, config.seed, initial=True)
    report(1.0)
    return found


def _slug(name: str, seed: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()) + f"-seed{seed}"


def _probed(folder: Path, seed: int, *, initial: bool = False) -> tuple[float, float]:
    """Accuracy of a linear probe fitted on plain training digits, on plain and on deformed test digits."""
    plain, deformed = (
        api.probe(folder, TRAIN, TEST, test_views=views, initial=initial, seed=seed)[0].accuracy
        for views in (None, VIEWS)
    )
    return plain, deformed


def as_bars(found: dict[str, Any]) -> str:
    """The figure, an SVG, of what `run` wrote to results.json."""
    groups: dict[str, dict[str, Any]] = {
        name: {kind: spread(values) for kind, values in scores.items()} for name, scores in found["accuracy"].items()
    }
    return bars(groups, "test accuracy (%)")


def as_table(found: dict[str, Any]) -> Table:
    """The table of what `run` wrote to results.json."""
    rows: list[list[Cell]] = [
        [name, spread(scores["plain"]), spread(scores["deformed"])] for name, scores in found["accuracy"].items()
    ]
    caption = "Test accuracy on 500 handwritten digits after training on 1,297."
    return Table(["", "plain (%)", "deformed (%)"], rows, caption)
