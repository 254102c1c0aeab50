"""CIFAR-100 without labels to a CIFAR-10 probe, hinge, E2E BP, beside a random encoder: `python results/cifar.py`.

The layer is chosen by the probe's accuracy on held-out training images; the test images are scored for every layer.
"""

import argparse
from pathlib import Path
from typing import Any

from saccade import api
from saccade.config.run import TrainConfig
from saccade.training.folder import read_json, surroundings, write_json

CONFIG = {
    "data": "cifar100:train",
    "views": "affine-hsv",
    "network": "cifar",
    "loss": "hinge(negatives=5, block=true)",
    "rate": 3e-4,
    "batch": 100,
    "epochs": 4,
}
CHOICE = (
    "Rate, views, batch and negatives were chosen with seed 0 on 5,000 held-out CIFAR-10 training images "
    "(choices.jsonl); a layer is chosen by the probe's accuracy on its own held-out 10 % of the training images."
)


def probed(run: Path, initial: bool) -> list[dict[str, Any]]:
    """The probes that the run's folder keeps, of the encoder as trained or as it started."""
    kept = run / "probes.json"
    return [row for row in read_json(kept)["probes"] if row["initial"] == initial] if kept.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "cifar")
    given = parser.parse_args()
    train, test = (api.load_images(name, root=given.data_root) for name in ("cifar10:train[:45000]", "cifar10:test"))
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        path = given.out / f"seed{seed}.json"
        if path.exists():
            continue
        config = TrainConfig(**CONFIG, seed=seed, data_root=given.data_root)  # type: ignore[arg-type]
        run = api.train(config, out=given.runs / f"seed{seed}")
        found: dict[str, Any] = {"seed": seed, "config": CONFIG, "choice": CHOICE}
        found["run"] = {k: v for k, v in read_json(run / "run.json").items() if k in ("seconds", "steps", "precision")}
        for kind, initial in (("trained", False), ("random", True)):
            if not (rows := probed(run, initial)):
                api.probe(run, train, test, layers=[1, 2, 3, 4, 5], initial=initial, seed=seed)
            found[kind] = rows or probed(run, initial)
        write_json(path, found | surroundings())


if __name__ == "__main__":
    main()
