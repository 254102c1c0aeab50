"""Does random feedback align, and does it help, as training goes on? Layer by layer at random (RLL) on handwritten digits.

Run it from the repository's root: python results/alignment.py. Two hours on one core; writes a file a run into
results/alignment, and continues from those there.
One run a rule, rate and seed; at some lengths the last layer is probed (the exact probe, fitted on plain training digits
and scored on held-out training digits, deformed) and measured: the angle of each layer's update to backpropagation's, and
of the feedback to the head's weights, means over the layers and over ten batches. The test digits are never opened. As a control,
random feedback also learns from labels (cross-entropy), where feedback alignment is known to align.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from saccade import api
from saccade.config.run import recipe
from saccade.evaluation.features import features
from saccade.evaluation.linear import accuracy, fit_exact
from saccade.evaluation.probe import deformation
from saccade.parallel import Report, side_by_side
from saccade.report.tables import Table, spread, to_markdown
from saccade.training import build, train_step
from saccade.training.folder import surroundings, write_json

NETWORK = "conv16 maxpool tanh | conv32 maxpool tanh | conv64 maxpool tanh"  # half of the EMNIST network's channels
HINGE, LABELS = "hinge(m1=1, m2=1.5, negatives=5, block=true)", "cross-entropy"
PAIRS = (0, 7_500, 30_000, 120_000)  # a layer, at which a run is looked into
LONG = (*PAIRS, 500_000, 2_000_000)  # 40,000 steps a layer, as many as in the paper
RUNS = {
    ("bp", 5e-4, HINGE): PAIRS,
    ("urf", 5e-4, HINGE): PAIRS,
    ("weight-mirrors", 5e-4, HINGE): PAIRS,
    ("rf", 5e-4, HINGE): PAIRS,
    ("rf", 1e-4, HINGE): LONG,
    ("rf", 5e-4, LABELS): PAIRS,
}
SEEDS, DEFORMATIONS, MEASURED = 3, 5, 30


Task = tuple[str, float, str, int]


def path_of(task: Task) -> Path:
    rule, rate, loss, seed = task
    kind = "-labels" if loss == LABELS else ""
    return Path(__file__).parent / "alignment" / f"{rule}{kind}-{rate:g}-seed{seed}.json"


def is_done(task: Task) -> bool:
    path = path_of(task)
    return path.exists() and len(json.loads(path.read_text())["rows"]) == len(RUNS[task[:3]])


def mean(values: list[float]) -> float | None:
    return round(statistics.fmean(values), 2) if values else None


def measured(model: Any, images: Any, step: int) -> tuple[dict[str, float | None], int]:
    """Ten steps a layer or so, measured on their way."""
    watch: list[dict[str, Any]] = []
    for current in range(step, step + MEASURED):
        train_step(model, images, current, watch)
    layers = [row["angle_to_bp"] for row in watch if "angle_to_bp" in row]
    angles = {
        "update": [angle for row in layers for name, angle in row.items() if name.startswith("layers.")],
        "head's update": [angle for row in layers for name, angle in row.items() if name.startswith("head.")],
        "feedback": [angle for row in watch for angle in row.get("feedback_angle", {}).values()],
    }
    return {name: mean(values) for name, values in angles.items()}, step + MEASURED


def follow(task: Task, report: Report) -> None:
    rule, rate, loss, seed = task
    lengths = RUNS[rule, rate, loss]
    started = time.perf_counter()
    fitted, held_out = api.load_images("digits:train[:1000]"), api.load_images("digits:train[1000:]")
    config = replace(recipe("digits"), data="digits:train[:1000]", network=NETWORK, schedule="rll", rule=rule)
    config = replace(config, loss=loss, rate=rate, seed=seed, epochs=lengths[-1] / len(fitted) + 10, device="cpu")
    model, step, rows = build(config, fitted), 0, []
    last, layers = len(model.encoder), len(model.sites)
    for pairs in lengths:
        while step < pairs * layers // config.batch:
            train_step(model, fitted, step)
            step += 1
        x = features(model.encoder, fitted, [last])[last]
        probe = fit_exact(x, fitted.labels, 10, seed=seed).probe
        drawn = [deformation("digits", number) for number in range(DEFORMATIONS)]
        scores = [
            accuracy(probe, features(model.encoder, held_out, [last], deform=d)[last], held_out.labels) for d in drawn
        ]
        angles, step = measured(model, fitted, step)
        rows.append({"pairs": pairs, "held_out": round(statistics.fmean(scores), 2), "angles": angles})
        print(rule, rate, loss, seed, rows[-1], flush=True)
        report(pairs / lengths[-1])
    found = {"rule": rule, "rate": rate, "seed": seed, "network": NETWORK, "loss": loss, "schedule": "rll"}
    seconds = round(time.perf_counter() - started, 1)
    write_json(path_of(task), {**found, "batch": config.batch, "rows": rows, "seconds": seconds, **surroundings()})


def page() -> str:
    """Accuracy and angles against length, a row a rule and rate, as Markdown."""
    folder = Path(__file__).parent / "alignment"
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows: list[list[Any]] = []
    for (rule, rate, loss), lengths in RUNS.items():
        seeds = [run["rows"] for run in runs if (run["rule"], run["rate"], run["loss"]) == (rule, rate, loss)]
        for number, pairs in enumerate(lengths if seeds else ()):
            with_labels = ", with labels" if loss == LABELS else ""
            at = [rows_of[number] for rows_of in seeds if number < len(rows_of)]
            angles = [
                spread(row["angles"][name] for row in at) if all(row["angles"][name] is not None for row in at) else ""
                for name in ("update", "feedback")
            ]
            rows.append(
                [f"{rule}, rate {rate:g}{with_labels}", f"{pairs:,}", spread(row["held_out"] for row in at), *angles]
            )
    if not rows:
        return ""
    header = ["rule", "pairs a layer", "accuracy", "update's angle", "feedback's angle"]
    caption = (
        "Random feedback as training goes on, handwritten digits, RLL, hinge with 5 negatives and the block: accuracy (%) on "
        f"deformed held-out training digits; then, means over the next {MEASURED} steps, the angles (degrees) of the layers' "
        "updates to backpropagation's and of the feedback to the head's weights; mean and standard deviation over seeds. The "
        "last rows are a control, with labels in place of the hinge"
    )
    first = runs[0]
    said = f"`python results/alignment.py`, {first['date'][:10]}, {first['hardware']['processor']}; network `{first['network']}`, "
    return f"{to_markdown(Table(header, rows, caption))}\n{said}`{HINGE}`, batch {first['batch']}.\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int)
    workers = parser.parse_args().workers
    tasks = [(*run, seed) for seed in range(SEEDS) for run in RUNS]
    if missing := {str(path_of(task)): task for task in tasks if not is_done(task)}:
        path_of(tasks[0]).parent.mkdir(exist_ok=True)
        side_by_side(follow, missing, workers=workers)
