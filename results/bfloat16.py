"""What bfloat16 changes in the result: the quickstart's encoder on handwritten digits, 10 seeds in each precision.

Run it from the repository's root: python results/bfloat16.py. Ten minutes on two cores; writes a file a run into
results/bfloat16, and continues from those there.
A seed fixes the initial weights, the order and the views, so the difference between the two precisions is taken seed by
seed. The encoder that comes out is read in float32 in both cases: the exact linear probe is fitted on plain training
digits and scored on the plain test digits and on five deformations of each.
"""

import argparse
import tempfile
import time
from pathlib import Path

from saccade import api
from saccade.config.run import recipe
from saccade.data import load
from saccade.evaluation.features import features
from saccade.evaluation.linear import accuracy, fit_exact
from saccade.evaluation.probe import deformation
from saccade.parallel import Report, side_by_side
from saccade.training.folder import surroundings, write_json

SEEDS, PRECISIONS, DEFORMATIONS = 10, ("float32", "bfloat16"), 5


def path_of(task: tuple[int, str]) -> Path:
    return Path(__file__).parent / "bfloat16" / f"{task[1]}-seed{task[0]}.json"


def train_and_score(task: tuple[int, str], report: Report) -> None:
    seed, precision = task
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = api.train(recipe("digits"), out=Path(folder) / "run", seed=seed, precision=precision, device="cpu")
        seconds = time.perf_counter() - started
        encoder = api.load_encoder(run)
    train, test = load("digits:train"), load("digits:test")
    last = len(encoder)
    probe = fit_exact(features(encoder, train, [last])[last], train.labels, 10, seed=seed).probe
    drawn = [None, *(deformation("digits", number) for number in range(DEFORMATIONS))]
    plain, *deformed = (
        accuracy(probe, features(encoder, test, [last], deform=deform)[last], test.labels) for deform in drawn
    )
    found = {"seed": seed, "precision": precision, "plain": plain, "deformed": sum(deformed) / DEFORMATIONS}
    print(found, flush=True)
    write_json(path_of(task), {**found, "seconds": round(seconds, 1), **surroundings()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, help="make at most so many of those that are missing")
    most = parser.parse_args().runs
    tasks = [(seed, precision) for seed in range(SEEDS) for precision in PRECISIONS]
    missing = {str(path_of(task)): task for task in tasks if not path_of(task).exists()}
    if missing := dict(list(missing.items())[:most]):
        path_of(tasks[0]).parent.mkdir(exist_ok=True)
        side_by_side(train_and_score, missing)
