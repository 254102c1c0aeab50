"""Run the fuzz tests of this folder at length, without pytest, and write what was tried and found.

python tests/fuzz/fuzz.py --cases 10000 --report results/trust/fuzz.json
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import test_configurations as configurations
import test_files as files
import torch
from hypothesis import HealthCheck, settings

from saccade.training.folder import read_json, surroundings, write_json

# What is tried, the slowest first, and how many of every 100 cases it gets: more for what takes a millisecond.
KINDS = {
    "files of a run": (files.test_a_file_of_a_run, 1),
    "configurations": (configurations.test_a_configuration_takes_a_step_or_is_refused, 4),
    "configurations, one odd field": (
        configurations.test_a_configuration_with_one_odd_field_takes_a_step_or_is_refused,
        4,
    ),
    "command lines": (configurations.test_a_command_line_of_any_words, 4),
    "recipes, of any bytes": (configurations.test_a_recipe_of_any_bytes, 4),
    "recipes, of any fields": (configurations.test_a_recipe_of_any_mapping, 4),
    "checkpoints": (files.test_a_checkpoint, 5),
    ".npz files": (files.test_an_npz, 27),
    "picture folders": (files.test_a_folder_of_pictures, 25),
    "texts of options": (configurations.test_any_text_is_calls_that_read_back_or_is_refused, 22),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="how many")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes side by side")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="these alone")
    parser.add_argument("--report", type=Path, help="a JSON file to write; kinds in it that are not run again stay")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    kinds: dict[str, Any] = {}
    if given.report and given.report.exists():
        kinds = {name: kind for name, kind in read_json(given.report)["kinds"].items() if name in KINDS}
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("fork")) as pool:
        waiting = {pool.submit(tried, name, -(-given.cases * KINDS[name][1] // 100)): name for name in given.kinds}
        for done in as_completed(waiting):
            kinds[waiting[done]] = done.result()
            print(f"{waiting[done]}: {done.result()}", flush=True)
    found = {
        "cases": sum(kind.get("cases", 0) for kind in kinds.values()),
        "failed": [name for name, kind in kinds.items() if "failed" in kind],
        "seeds": "derandomized: the cases follow from the tests and hypothesis's version",
        "hypothesis": version("hypothesis"),
        "peak_memory_mib": max(kind["peak_memory_mib"] for kind in kinds.values()),
        "kinds": {name: kinds[name] for name in KINDS if name in kinds},
    }
    print(f"{found['cases']} cases, {len(found['failed'])} kinds failed")
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.report, found | surroundings())
    return 1 if found["failed"] else 0


def tried(name: str, wanted: int) -> dict[str, Any]:
    """One kind: how many cases, the longest and all in seconds, or how it failed."""
    checks = list(HealthCheck)
    profile = settings(
        max_examples=wanted, derandomize=True, database=None, deadline=None, suppress_health_check=checks
    )
    with tempfile.TemporaryDirectory() as base:
        cases, seconds = KINDS[name][0].made(profile, Path(base))
        try:
            cases()
        except Exception as error:
            traceback.print_exc()
            found: dict[str, Any] = {"failed": " ".join(str(error).split())[:300] or type(error).__name__}
        else:
            found = {"cases": len(seconds), "longest": round(max(seconds), 2), "sum": round(sum(seconds), 1)}
    here = surroundings()
    when = {"date": here["date"], "source": here["source"]}
    return found | {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} | when


if __name__ == "__main__":
    sys.exit(main())
