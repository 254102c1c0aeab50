"""Run the fuzz tests of this folder at length, without pytest, and write what was tried and found.

python tests/fuzz/fuzz.py --cases 10000 --report results/trust/fuzz.json
"""

import argparse
import resource
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import test_configurations
import test_files
import torch
from hypothesis import HealthCheck, settings

from saccade.training.folder import surroundings, write_json

KINDS = {
    "files of a run": (test_files.test_a_file_of_a_run, 4),
    # What is tried, and how many of every 100 cases it gets: more for what takes a millisecond.
    "recipes, of any bytes": (test_configurations.test_a_recipe_of_any_bytes, 8),
    "recipes, of any fields": (test_configurations.test_a_recipe_of_any_mapping, 8),
    "texts of options": (test_configurations.test_any_text_is_calls_that_read_back_or_is_refused, 15),
    "configurations": (test_configurations.test_a_configuration_takes_a_step_or_is_refused, 8),
    "configurations, one odd field": (
        test_configurations.test_a_configuration_with_one_odd_field_takes_a_step_or_is_refused,
        8,
    ),
    "command lines": (test_configurations.test_a_command_line_of_any_words, 8),
    ".npz files": (test_files.test_an_npz, 20),
    "picture folders": (test_files.test_a_folder_of_pictures, 15),
    "checkpoints": (test_files.test_a_checkpoint, 8),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="how many")
    parser.add_argument("--report", type=Path, help="a JSON file to write")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    kinds: dict[str, Any] = {}
    started = time.monotonic()
    for name, (test, share) in KINDS.items():
        wanted = -(-given.cases * share // sum(n for _, n in KINDS.values()))
        # The cases follow from the tests and hypothesis's version alone.
        profile = settings(
            max_examples=wanted,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        with tempfile.TemporaryDirectory() as base:
            try:
                cases, seconds = test.made(profile, Path(base))
                cases()
            except Exception as error:
                traceback.print_exc()
                kinds[name] = {"failed": " ".join(str(error).split())[:300] or type(error).__name__}
            else:
                kinds[name] = {"cases": len(seconds), "longest": round(max(seconds), 2), "sum": round(sum(seconds), 1)}
        print(f"{name}: {kinds[name]}", flush=True)
    found = {
        "cases": sum(kind.get("cases", 0) for kind in kinds.values()),
        "failed": [name for name, kind in kinds.items() if "failed" in kind],
        "seeds": "derandomized: they follow from the tests",
        "hypothesis": version("hypothesis"),
        "seconds": round(time.monotonic() - started),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "kinds": kinds,
    }
    print(f"{found['cases']} cases, {len(found['failed'])} kinds failed")
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.report, found | surroundings())
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
