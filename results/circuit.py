"""The hinge as a circuit against the hinge as a loss, on handwritten digits: layer-wise random feedback, SGD, one negative.

Run it from the repository's root: python results/circuit.py. Ten minutes on one core; writes results/circuit.json.

Both start from the same weights and see the same views in the same order. The batch loss updates once a batch of 50; the
circuit image after image, on the positive and again on the negative. Probes are fitted on plain digits and scored on
deformed ones, on the embedding, which is what the output layer gives, and on the last layer below it. Network, margins
and rate were chosen for the batch loss on seed 100, where smaller networks, m2=1.5 and rates of 1e-3 and above learned
little.
"""

import time
from dataclasses import asdict, replace
from pathlib import Path

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
    network="conv16 maxpool tanh | conv32 maxpool tanh | conv64 maxpool tanh",
    head="flatten linear32",
    loss="hinge(m1=1, m2=3, negatives=1, block=true)",
    schedule="rll",
    rule="rf",
    optimizer="sgd",
    rate=3e-4,
    epochs=10,
    batch=50,
    precision="float32",
    device="cpu",
)


def by_batches(config: TrainConfig, images) -> Model:
    model = build(config, images)
    for step in range(model.total_steps):
        train_step(model, images, step)
    return model


def score(model: Model, train, test, seed: int) -> dict[str, float]:
    chain = [*model.encoder, model.sites[-1].head]
    for part in chain:
        part.eval()
    layers = [len(chain) - 1, len(chain)]
    features, embedding = probe(chain, train, test, layers=layers, deform_test=deformation("digits"), seed=seed)
    return {"embedding": embedding.accuracy, "features": features.accuracy}


if __name__ == "__main__":
    torch.set_num_threads(1)
    train, test = load("digits:train"), load("digits:test")
    ways = {
        "at the start": lambda config: build(config, train),
        "batch loss": lambda config: by_batches(config, train),
        "circuit": lambda config: learn_by_episodes(config, train),
    }
    started = time.perf_counter()
    accuracy: dict[str, dict[str, list[float]]] = {name: {"embedding": [], "features": []} for name in ways}
    for seed in range(3):
        for name, way in ways.items():
            for what, value in score(way(replace(CONFIG, seed=seed)), train, test, seed).items():
                accuracy[name][what].append(value)
            print(seed, name, accuracy[name], flush=True)
    found = {"accuracy on deformed digits": accuracy, "seconds": round(time.perf_counter() - started, 1)}
    write_json(Path("results/circuit.json"), found | {"config": asdict(CONFIG)} | surroundings())
