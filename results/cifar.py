"""CIFAR-100 without labels to a CIFAR-10 probe, hinge, E2E BP, beside a random encoder: `python results/cifar.py`.

The layer is chosen by the probe's accuracy on held-out training images; the test images are scored for every layer.
The probe is the paper's (Adam, rate 1e-3, batch 500) for 30 epochs in place of 400, on features average-pooled to at
most 8,192 a layer.
"""

import argparse
from pathlib import Path
from typing import Any

from saccade import api
from saccade.config.run import TrainConfig
from saccade.data import ImageSet
from saccade.evaluation.features import features
from saccade.evaluation.linear import accuracy, fit_adam
from saccade.training import pick_device, pick_precision
from saccade.training.folder import read_json, surroundings, write_json

EPOCHS, POOL_TO = 30, 8192
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
    "(choices.jsonl); a layer is chosen by the same probe's accuracy on those 5,000."
)


def probed(run: Path, initial: bool, sets: list[ImageSet], seed: int) -> list[dict[str, Any]]:
    """The paper's probe in short on every layer: its accuracy on held-out training images and on test images."""
    train, held_out, test = sets
    assert train.labels is not None
    encoder = api.load_encoder(run, initial=initial)
    precision = pick_precision("auto", pick_device("auto"))
    rows = []
    for layer in range(1, len(encoder) + 1):
        x, held, final = (features(encoder, s, [layer], pool_to=POOL_TO, precision=precision)[layer] for s in sets)
        probe = fit_adam(x, train.labels, 10, epochs=EPOCHS, seed=seed, precision=precision)
        scores = (accuracy(probe, z, s.labels) for z, s in ((held, held_out), (final, test)) if s.labels is not None)
        rows.append(
            {"layer": layer, "features": x.shape[1], **dict(zip(("held_out", "accuracy"), scores, strict=True))}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "cifar")
    given = parser.parse_args()
    names = ("cifar10:train[:45000]", "cifar10:train[45000:]", "cifar10:test")
    sets = [api.load_images(name, root=given.data_root) for name in names]
    given.out.mkdir(parents=True, exist_ok=True)
    if given.first >= given.seeds:
        parser.error(f"--first is {given.first}; it takes a seed below --seeds, {given.seeds}.")
    for seed in range(given.first, given.seeds):
        path = given.out / f"seed{seed}.json"
        if path.exists():
            continue
        config = TrainConfig(**CONFIG, seed=seed, data_root=given.data_root)  # type: ignore[arg-type]
        run = api.train(config, out=given.runs / f"seed{seed}")
        found: dict[str, Any] = {"seed": seed, "config": CONFIG, "choice": CHOICE}
        found["run"] = {k: v for k, v in read_json(run / "run.json").items() if k in ("seconds", "steps", "precision")}
        for kind, initial in (("trained", False), ("random", True)):
            found[kind] = probed(run, initial, sets, seed)
        write_json(path, found | surroundings())


if __name__ == "__main__":
    main()
