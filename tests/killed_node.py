"""A sweep on a Ray cluster of two nodes, one of which is killed while both work; then what became of each run.

python tests/killed_node.py    (needs ray)
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from combinations import config_of
from saccade import sweep
from saccade.training.folder import surroundings, write_json

OUT = Path(__file__).parents[1] / "results" / "ranks" / "killed_node.json"
VARIED = {"rule": ["bp", "rf", "dtp"], "schedule": ["e2e", "rll"]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file to write")
    parser.add_argument("--steps", type=int, default=200, help="a run")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    from ray.cluster_utils import Cluster

    base = config_of("e2e", "bp", "hinge", epochs=given.steps / 3, checkpoint_seconds=0.2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        seen: dict[str, Any] = {}
        killer = threading.Thread(target=kill, args=(cluster, second, place / "ray", seen))
        killer.start()
        sweep.run(base, VARIED, place / "ray", engine=f"ray(address='{cluster.address}')")
        killer.join()
        sweep.run(base, VARIED, place / "here", engine="own.in_turn")
        told = {where: json.loads((place / where / "sweep.json").read_text())["runs"] for where in ("ray", "here")}
        begun = {name: json.loads((place / "ray" / name / "run.json").read_text()) for name in told["here"]}
    cluster.shutdown()
    rows = [
        {
            "rule": one["config"]["rule"],
            "schedule": one["config"]["schedule"],
            "underway": name in seen["underway"],
            "resumed_at": begun[name]["resumed_at"],
            "same": told["ray"].get(name) == one,
        }
        for name, one in told["here"].items()
    ]
    for row in rows:
        print(row)
    found = {"steps": given.steps, "runs": rows, "finished_before": seen["finished"]}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, found | surroundings() | {"command": "python tests/killed_node.py"})
    whole = all(row["same"] for row in rows) and sum(row["resumed_at"] > 0 for row in rows) == 1
    print("all runs there, the same as without a cluster, one of them resumed" if whole else "NOT as it should be")
    return 0 if whole else 1


def kill(cluster: Any, node: Any, place: Path, seen: dict[str, Any]) -> None:
    """Kill a node when one run has ended and two are under way, each with a checkpoint: one on each node."""
    while True:
        time.sleep(0.05)
        ended = {path.parent.name for path in place.glob("*/result-*.json")}
        underway = {path.parent.name for path in place.glob("*/checkpoint-*")} - ended
        if ended and len(underway) == 2:
            break
    cluster.remove_node(node, allow_graceful=False)
    seen |= {"underway": sorted(underway), "finished": len(ended)}


if __name__ == "__main__":
    sys.exit(main())
