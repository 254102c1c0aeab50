"""Kill runs with SIGKILL at random moments, start them again by the same command until they end, and compare them bit
for bit with runs that nobody touched: weights, metrics and a probe.

python tests/kill_and_resume.py --kills 50 --report results/trust/kills.json
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

import saccade
from combinations import ALL, config_of
from saccade.cli import main as saccade_command
from saccade.config.run import TrainConfig, to_yaml
from saccade.errors import InputError
from saccade.training import build
from saccade.training.folder import surroundings, write_json

STEPS = 60  # of one site
FRESH = 0.05  # share of the processes that start from nothing; the others from one that has imported the package

# A process of its own that imports and then waits: importing takes several times as long as one of these runs.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["saccade.api", "saccade.cli", "sklearn.datasets", "lightly.loss", "matplotlib.pyplot"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the cases and the moments")
    parser.add_argument("--report", type=Path, help="a JSON file to write")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    chance = random.Random(given.seed)
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    killed = exact = 0
    for case in cases(chance):
        if killed >= given.kills:
            break
        with tempfile.TemporaryDirectory() as folder:
            config = configured(case, chance)
            moments, same = one(config, Path(folder), chance, given.kills - killed)
        if not moments and same:  # it ended sooner than it was to be killed
            continue
        killed += len(moments)
        exact += len(moments) * same
        said = f"{' x '.join(case)}, {config.optimizer}, {config.precision}, diagnostics {config.diagnostics}"
        print(
            f"{killed}/{given.kills} {said}: killed {', '.join(moments)}: {'exact' if same else 'DIFFERENT'}",
            flush=True,
        )
        names = ("schedule", "rule", "loss", "optimizer", "precision", "diagnostics", "seed")
        rows.append({n: getattr(config, n) for n in names} | {"killed": moments, "exact": same})
    print(f"{exact}/{killed} exact")
    if given.report:
        parts = ("schedule", "rule", "loss", "optimizer", "precision")
        met = {part: dict(Counter(row[part].partition("(")[0] for row in rows)) for part in parts}
        found = {"kills": killed, "exact": exact, "seed": given.seed, "seconds": round(time.monotonic() - started)}
        given.report.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.report, found | {"runs": len(rows), "met": met, "cases": rows} | surroundings())
    return 0 if exact == killed == given.kills else 1


def configured(case: tuple[str, str, str], chance: random.Random) -> TrainConfig:
    optimizer = chance.choice(["adam", "sgd(momentum=0.9)"])
    return config_of(
        *case,
        optimizer,
        epochs=STEPS / 3,
        checkpoint_seconds=0.03,
        diagnostics=chance.choice([0, 0, 7]),
        precision=chance.choice(["float32", "bfloat16"]),
        seed=chance.randrange(99),
    )


def cases(chance: random.Random):
    """Combinations that run, without end, those first that pair a schedule, a rule or a loss with one not yet met."""
    images = saccade.load_images("digits:train[:60]")
    left: list[tuple[str, str, str]] = []
    met: set[tuple[str, str]] = set()
    while True:
        if not left:
            left = chance.sample(ALL, len(ALL))
        case = max(left, key=lambda c: len(set(combinations(c, 2)) - met))
        left.remove(case)
        try:
            build(config_of(*case), images)
        except InputError:
            continue
        met |= set(combinations(case, 2))
        yield case


def one(config: TrainConfig, folder: Path, chance: random.Random, most: int) -> tuple[list[str], bool]:
    """Kill one run once or twice; returns where it stood each time, and whether it ended as the untouched one."""
    started = time.perf_counter()
    untouched = saccade.train(config, out=folder / "untouched")
    seconds = time.perf_counter() - started
    recipe, out = folder / "recipe.yaml", folder / "killed"
    recipe.write_text(to_yaml(config))
    command = ["train", str(recipe), "--out", str(out), "--quiet"]
    moments: list[str] = []
    for _ in range(min(chance.choice([1, 2]), most)):
        process = begin(command, folder / "said", chance.random() < FRESH)
        moment = kill(process, out, chance.uniform(0, 0.9) * seconds, chance.random() < 0.1)
        if moment is None:
            break
        moments.append(moment)
    process = begin(command, folder / "said", chance.random() < FRESH)
    process.join()
    if process.exitcode != 0:
        print((folder / "said").read_text(), file=sys.stderr)
    return moments, process.exitcode == 0 and alike(untouched, out)


def begin(command: list[str], said: Path, fresh: bool) -> Any:
    """A `saccade` command in a process of its own; what it says goes to a file."""
    process = _SERVER.Process(target=_command, args=(command, str(said), fresh))
    process.start()
    return process


def _command(command: list[str], said: str, fresh: bool) -> None:
    file = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if fresh:
        os.execve(sys.executable, [sys.executable, "-m", "saccade", *command], os.environ | {"OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    code = saccade_command(command)
    sys.stderr.flush()
    os._exit(code)


def kill(process: Any, out: Path, seconds: float, early: bool) -> str | None:
    """Kill the process some time after it has begun to train, or at its very start; None where it had ended before."""
    facts = out / "run.json"
    before = facts.stat().st_mtime_ns if facts.exists() else None
    while not early and process.is_alive() and (not facts.exists() or facts.stat().st_mtime_ns == before):
        time.sleep(0.002)
    time.sleep(seconds)
    if not process.is_alive():
        assert process.exitcode == 0, (out.parent / "said").read_text()
        return None
    process.kill()  # SIGKILL
    process.join()
    saved = [path.name for path in out.glob("checkpoint-*.safetensors")] if out.exists() else []
    if facts.exists() and json.loads(facts.read_text())["finished"]:
        return "after its end"
    return (
        f"with a checkpoint of step {max(int(name.split('-')[1]) for name in saved)}" if saved else "with no checkpoint"
    )


def alike(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same weights, metrics and probe."""
    same = [(a / name).read_bytes() == (b / name).read_bytes() for name in ("weights.safetensors", "metrics.jsonl")]
    probes = [saccade.probe(run, "digits:train[:200]", "digits:test[:100]")[0].as_dict() for run in (a, b)]
    return all(same) and probes[0] == probes[1]


if __name__ == "__main__":
    sys.exit(main())
