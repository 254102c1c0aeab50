"""Train for 20 steps in one process and in two, with the same whole batch, and say how far apart they end.

python tests/one_and_two.py --loss hinge
"""

import argparse
import multiprocessing
import os
import pickle
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import saccade
from combinations import ALL, config_of
from saccade.config.run import TrainConfig
from saccade.errors import InputError
from saccade.ranks import ALONE, Ranks, joined
from saccade.training import build, checkpoint, train_step
from saccade.training.folder import surroundings, write_json
from saccade.training.model import settle

STEPS = 20
OUT = Path(__file__).parents[1] / "results" / "ranks" / "equality.json"
FLOAT32 = {
    "optimizer": "sgd(momentum=0.9)"
}  # Adam divides by a gradient's size, and so enlarges the rounding of small ones


def together(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` gives in each of `count` processes, forked from this one, that torchrun might have started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes, children = [], []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(theirs, rank, count, port, work, arguments))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    found = []
    for pipe, child in zip(pipes, children, strict=True):
        try:
            found.append(pickle.loads(pipe.recv_bytes()))
        except EOFError:
            found.append(None)  # it was killed
        child.join()
    return found


def _work(pipe: Any, rank: int, count: int, port: int, work: Callable[..., Any], arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    result: Any
    try:
        result = work(*arguments)
    except Exception as error:
        result = error
    pipe.send_bytes(pickle.dumps(result))
    os._exit(0)


def end(config: TrainConfig, images: Any, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Weights, feedback, inverses, buffers and running losses after 20 steps."""
    model = build(config, images, ranks)
    for step in range(min(STEPS, model.total_steps)):
        train_step(model, images, step)
    settle(model)
    checkpoint.unite(model, whole=True)
    checkpoint.agree(model)
    state = checkpoint.portable(checkpoint._state(model))
    return {name: tensor for name, tensor in state.items() if not name.startswith("optimizer")}


def ends(configs: list[TrainConfig], images: Any) -> list[dict[str, Tensor] | None]:
    """`end` of each configuration on the ranks that this process is one of; rank 0 alone returns it."""
    with joined(torch.device("cpu"), configs[0].batch, configs[0].negatives, configs[0].divide) as ranks:
        found = [end(config, images, ranks) for config in configs]
        return found if ranks.rank == 0 else [None for _ in found]


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of an entry, over the largest entry of its tensor."""
    assert a.keys() == b.keys()
    return max(
        float((a[name].double() - b[name].double()).abs().max() / a[name].double().abs().max().clamp_min(1e-30))
        for name in a
    )


def compare(configs: list[TrainConfig], images: Any, count: int = 2) -> list[float]:
    """How far `count` processes end from one, for each configuration."""
    alone = [end(config, images) for config in configs]
    found = together(count, ends, configs, images)
    for error in found:
        if isinstance(error, Exception):
            raise error
    return [apart(a, b) for a, b in zip(alone, found[0], strict=True)]


def trainable(
    cases: list[tuple[str, str, str]], images: Any, **changes: Any
) -> dict[tuple[str, str, str], TrainConfig]:
    """The configurations that are not refused."""
    found = {}
    for case in cases:
        config = replace(config_of(*case, epochs=STEPS / 3, **changes), batch=20)
        try:
            build(config, images)
        except InputError:
            continue
        found[case] = config
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file to write")
    parser.add_argument("--loss", action="append", help="default: all")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    images = saccade.load_images("digits:train[:60]")
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for precision, changes in (("float64", {}), ("float32", FLOAT32)):
        cases = trainable(
            [c for c in ALL if not given.loss or c[2] in given.loss], images, precision=precision, **changes
        )
        for case, found in zip(cases, compare(list(cases.values()), images), strict=True):
            rows.setdefault(case, dict(zip(("schedule", "rule", "loss"), case, strict=True)))[precision] = found
            print(*case, precision, f"{found:.1e}", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, {"steps": STEPS, "ranks": 2, "rows": list(rows.values()), **surroundings()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
