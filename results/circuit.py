"""The hinge as a circuit against the hinge as a loss, on handwritten digits: layer-wise random feedback, SGD, one negative.

Run it from the repository's root: python results/circuit.py, or with seeds, such as python results/circuit.py 3 4. Two
minutes a seed on one core; writes results/circuit/seedK.json, and leaves those that are there as they are.

All ways start from the same weights and see the same views in the same order. The batch loss updates once a batch of 50; the
circuit image after image, on the positive and again on the negative. Backpropagation of the batch loss stands beside them, to
tell what random feedback costs. Probes are fitted on plain digits and scored on deformed ones, on the embedding, which is
what the output layer gives, and on the last layer below it.

Network, rate and epochs were chosen for the batch loss with random feedback, on seed 100, with the last 297 of the training
digits held out; the margins are the paper's.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from saccade.config.run import TrainConfig
from saccade.data import load
from saccade.evaluation.probe import deformation, probe
from saccade.plausibility.circuit import learn_by_episodes
from saccade.training import Model, build, train_step
from saccade.training.folder import surroundings, write_json

CONFIG = TrainConfig(
    data="digits:train",
    views="digits",
    network="conv32(kernel=5, stride=2, padding=2) tanh maxpool | conv64 tanh maxpool",
    head="flatten linear64",
    loss="hinge(m1=1, m2=3, negatives=1, block=true)",
    schedule="rll",
    rule="rf",
    optimizer="sgd",
    rate=3e-4,
    epochs=6,
    batch=50,
    precision="float32",
    device="cpu",
)


def by_batches(config: TrainConfig, images: Any) -> Model:
    model = build(config, images)
    for step in range(model.total_steps):
        train_step(model, images, step)
    return model


WAYS = {
    "at the start": build,
    "batch loss": by_batches,
    "circuit, image after image": learn_by_episodes,
    "batch loss, by backpropagation": lambda config, images: by_batches(replace(config, rule="bp"), images),
}


def score(model: Model, train: Any, test: Any, seed: int) -> dict[str, float]:
    """Accuracy (%) on deformed digits of exact probes of the embedding and of the features below it."""
    chain = [*model.encoder, model.sites[-1].head]
    for part in chain:
        part.eval()
    layers = [len(chain) - 1, len(chain)]
    features, embedding = probe(chain, train, test, layers=layers, deform_test=deformation("digits"), seed=seed)
    return {"embedding": embedding.accuracy, "features": features.accuracy}


def compare(seed: int) -> dict[str, Any]:
    train, test = load("digits:train"), load("digits:test")
    accuracy = {}
    for name, way in WAYS.items():
        accuracy[name] = score(way(replace(CONFIG, seed=seed), train), train, test, seed)
        print(seed, name, accuracy[name], flush=True)
    return {"seed": seed, "accuracy": accuracy, "config": asdict(CONFIG)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in map(int, sys.argv[1:] or range(5)):
        path = Path(f"results/circuit/seed{seed}.json")
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_json(path, compare(seed) | surroundings() | {"command": "python results/circuit.py"})
