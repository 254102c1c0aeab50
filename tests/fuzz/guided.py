"""The same cases, found by coverage: atheris (pip install atheris) keeps what reaches a line of saccade for the first time.

python tests/fuzz/guided.py --seconds 60 --report results/trust/guided.json
"""

import argparse
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

KINDS = {  # those whose reading is Python, and not a library's
    "texts of options": ("test_configurations", "test_any_text_is_calls_that_read_back_or_is_refused"),
    "recipes, of any bytes": ("test_configurations", "test_a_recipe_of_any_bytes"),
    ".npz files": ("test_files", "test_an_npz"),
    "picture folders": ("test_files", "test_a_folder_of_pictures"),
    "checkpoints": ("test_files", "test_a_checkpoint"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each kind")
    parser.add_argument("--report", type=Path, help="a JSON file to write")
    parser.add_argument("--kind", choices=KINDS, help="this one alone, in this process")
    given = parser.parse_args(argv)
    if given.kind:
        guided(*KINDS[given.kind], given.seconds)
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        command = [sys.executable, __file__, "--kind", kind, "--seconds", str(given.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        cases = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
        edges = re.findall(r"cov: (\d+)", done.stderr)
        kinds[kind] = {"cases": int(cases[1]) if cases else 0, "edges": [int(n) for n in edges[:1] + edges[-1:]]}
        if done.returncode:
            kinds[kind]["failed"] = True
            print(done.stderr[-5000:], file=sys.stderr)
        print(f"{kind}: {kinds[kind]}", flush=True)
    failed = [kind for kind, found in kinds.items() if "failed" in found]
    if given.report:
        from saccade.training.folder import surroundings, write_json

        found = {"cases": sum(k["cases"] for k in kinds.values()), "failed": failed, "seconds_each": given.seconds}
        write_json(given.report, found | {"atheris": version("atheris"), "kinds": kinds} | surroundings())
    return 1 if failed else 0


def guided(module: str, name: str, seconds: int) -> None:
    """Until the time is up or a case fails; does not return."""
    import atheris
    import torch
    from hypothesis import HealthCheck, settings

    with atheris.instrument_imports(include=["saccade.config", "saccade.data", "saccade.training"]):
        tests = __import__(module)
    torch.set_num_threads(1)
    profile = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    cases, _ = getattr(tests, name).made(profile, Path(tempfile.mkdtemp()))
    options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-seed=1", "-len_control=0", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options], cases.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
