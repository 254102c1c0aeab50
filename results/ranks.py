"""Measure a run over several processes: bytes and operations of a step by schedule and rule, speed of two processes.

python results/ranks.py bytes    counts what a step sends and computes; results/ranks/bytes.json
python results/ranks.py speed    times one process and two, a thread each; results/ranks/speed.json

`estimate` reckons from these what many GPUs would do, by the assumptions that it states; results/render.py shows it.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from one_and_two import together  # noqa: E402
from saccade import networks  # noqa: E402
from saccade.config.names import RULES, SCHEDULES  # noqa: E402
from saccade.config.run import TrainConfig  # noqa: E402
from saccade.data import ImageSet  # noqa: E402
from saccade.ranks import Ranks, joined  # noqa: E402
from saccade.report.tables import Table, to_markdown  # noqa: E402
from saccade.training import build, train_step  # noqa: E402
from saccade.training.folder import surroundings, write_json  # noqa: E402
from saccade.training.model import settle  # noqa: E402
from saccade.training.stages import operations  # noqa: E402

CPU = torch.device("cpu")
SITES = 5


def config_of(schedule: str, rule: str, batch: int, steps: int, **changes: Any) -> TrainConfig:
    """The paper's CIFAR network, five negatives and the gradient block; `steps` a site, of one batch an epoch."""
    fixed = {"loss": "hinge(negatives=5, block=true)", "network": "cifar", "device": "cpu", "views": "paper"}
    fixed["optimizer"] = "adam(weight_decay=0.1)" if rule == "kolen-pollack" else "adam"
    return TrainConfig(schedule=schedule, rule=rule, batch=batch, epochs=steps, **fixed | changes)


def noise(count: int) -> ImageSet:
    """Pictures of CIFAR's size; neither bytes nor time depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator))


# ---------------------------------------------------------------------------------------------------------------- bytes


def counted(configs: list[TrainConfig], batch: int) -> list[dict[str, float]]:
    """What each rank hands over to be sent in a step, and its operations, on average; gll trains each site for one step."""
    found = []
    with joined(CPU, batch) as ranks:
        for config in configs:
            ranks.sent.clear()
            model = build(config, noise(batch), ranks)
            with FlopCounterMode(display=False) as counter:
                for step in range(model.total_steps):
                    train_step(model, noise(batch), step)
                settle(model)
            made = {**ranks.sent, "flops": counter.get_total_flops()}
            found.append({name: count / model.total_steps for name, count in made.items()})
    return found


def by_site(row: dict[str, Any]) -> dict[str, list[float]]:
    """Bytes of each sum of a step, and the operations that can be done while it travels: a step, and a picture of it.

    A site's sum has to be there when its weights are used next: end to end that is at once; layer by layer, after the
    next step's way up through the layers below; with all layers at each step, after all others have had their turn.
    """
    if row["schedule"] == "e2e":
        return {"sites": [row["gradients"]], "windows": [(0.0, 0.0)]}
    model = build(config_of("simultaneous", row["rule"], 6, 1), noise(6))
    shapes = [model.shape, *(networks.output_shape(model.encoder[: k + 1], model.shape) for k in range(SITES))]
    up = [2 * operations(site, shape) for site, shape in zip(model.sites, shapes, strict=False)]  # of two views
    if row["schedule"] == "gll":  # the mean of five runs of one site each
        return {"sites": [row["gradients"]], "windows": [(0.0, sum(sum(up[:k]) for k in range(SITES)) / SITES)]}
    sizes = []
    for site in model.sites:
        copies, groups = model.rule.copies(site), model.rule.groups(site).values()
        sizes.append(4 * sum(p.numel() for group in groups for _, p in group if p not in copies))
    others = [1 - own / sum(up) for own in up]
    return {"sites": sizes, "windows": [(row["flops_a_step"] * o, row["flops_a_picture"] * o) for o in others]}


def bytes_sent() -> None:
    # rll sends and computes what gll does, on average over its draws
    cases = list(product([s for s in SCHEDULES if s != "rll"], RULES))
    pictures = (6, 12)  # a rank: what grows with them is told from what a step takes whatever its batch
    found = []
    for share in pictures:
        configs = [config_of(*case, 2 * share, 1, precision="float32") for case in cases]
        both = together(2, counted, configs, 2 * share)
        for error in both:
            if isinstance(error, Exception):
                raise error
        found.append(both[0])
    rows = []
    for (schedule, rule), few, more in zip(cases, *found, strict=True):
        each = (more["flops"] - few["flops"]) / (pictures[1] - pictures[0])
        rows.append(
            {"schedule": schedule, "rule": rule, "gradients": few["gradients"], "statistics": few.get("statistics", 0),
             "embeddings_a_picture": few["embeddings"] / pictures[0], "flops_a_picture": each,
             "flops_a_step": few["flops"] - pictures[0] * each}
        )  # fmt: skip
    rows = [row | by_site(row) for row in rows]
    write("bytes", {"network": "cifar", "ranks": 2, "rows": rows})


# ---------------------------------------------------------------------------------------------------------------- speed


@dataclass(frozen=True)
class Timed:
    """One way to divide the work: its name, the configuration, processes, and whether sending overlaps computing."""

    name: str
    config: TrainConfig
    count: int
    overlaps: bool = True


def timed(cases: list[Timed], steps: int) -> list[tuple[float, float]]:
    """Seconds of the fastest step, and the mean seconds in which a step waits for gradients, for each case."""
    torch.set_num_threads(1)
    found = []
    for case in cases:
        images = noise(case.config.batch)
        with joined(CPU, case.config.batch, case.config.negatives, case.config.divide) as ranks:
            model = build(case.config, images, ranks)
            waited = [0.0]
            if ranks.count > 1:
                ranks.send = waiting(ranks, waited, case.overlaps)  # type: ignore[method-assign]
            took = []
            for step in range(model.total_steps):
                if step == 2:  # the first ones warm up
                    waited[0] = 0.0
                started = time.perf_counter()
                train_step(model, images, step)
                took.append(time.perf_counter() - started)
            settle(model)
            found.append((min(took[2:]), waited[0] / (len(took) - 2)))  # of steps that others disturbed least
    return found


def waiting(ranks: Ranks, waited: list[float], overlaps: bool) -> Any:
    """`ranks.send`, with a stop watch on the wait for the sums; without overlap it waits at once."""
    send = ranks.send

    def watched(*arguments: Any) -> Any:
        put = send(*arguments)

        def wait() -> None:
            started = time.perf_counter()
            put()
            waited[0] += time.perf_counter() - started

        if overlaps:
            return wait
        wait()
        return lambda: None

    return watched


def speed(batch: int, steps: int) -> None:
    rows = []
    for schedule, rule in (
        ("e2e", "bp"),
        ("e2e", "dtp"),
        ("rll", "bp"),
        ("simultaneous", "bp"),
        ("simultaneous", "rf"),
    ):
        length = steps / SITES if schedule == "rll" else steps
        config = config_of(schedule, rule, batch, length)
        double = config_of(schedule, rule, 2 * batch, length)
        cases = [Timed("half the batch each", config, 2), Timed("half the batch each, no overlap", config, 2, False)]
        cases += [Timed("twice the batch", double, 2)]
        if schedule == "simultaneous":
            cases += [Timed("layers", config_of(schedule, rule, batch, length, divide="layers"), 2)]
        [[alone, _]] = together(1, timed, [Timed("one", config, 1)], steps)[0]
        for case in cases:
            pairs = together(2, timed, [case], steps)
            for error in pairs:
                if isinstance(error, Exception):
                    raise error
            seconds, waited = (max(pair[0][k] for pair in pairs) for k in (0, 1))
            speedup = alone / seconds * case.config.batch / batch
            row = {
                "schedule": schedule,
                "rule": rule,
                "divided": case.name,
                "one_process": alone,
                "two_processes": seconds,
            }
            rows.append(row | {"waited": waited, "efficiency": speedup / 2})
            print(*row.values(), f"{waited:.4f} {speedup / 2:.2f}", flush=True)
    write("speed", {"network": "cifar", "batch": batch, "steps": steps - 2, "rows": rows})


# ------------------------------------------------------------------------------------------------------------- estimate


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the hardware: none of it was measured here."""

    operations: float = 1e14  # a second that a GPU does of this work: a tenth of an H100's bfloat16 peak
    inside: float = 2e11  # bytes a second between the 8 GPUs of a machine
    across: float = 4e10  # bytes a second and GPU between machines
    latency: float = 1e-5  # seconds a message


def estimate(row: dict[str, Any], gpus: int, pictures: int, cluster: Cluster, *, gathered: bool) -> float:
    """Efficiency of `gpus` GPUs against one, each with its `pictures` pictures of a step.

    Gradients are summed in a ring, 2 (n - 1) / n of their bytes past each GPU, a site after another; a site's sum may
    travel while the operations of its window are done. Embeddings are gathered, n - 1 shares for each GPU, and waited
    for. Each message takes 2 log2(n) hops.
    """
    rate = cluster.inside if gpus <= 8 else cluster.across
    hops = 2 * math.ceil(math.log2(gpus)) * cluster.latency
    sums = [2 * (gpus - 1) / gpus * size / rate + hops for size in row["sites"]]
    windows = [(step + pictures * each) / cluster.operations for step, each in row["windows"]]
    computing = (row["flops_a_step"] + pictures * row["flops_a_picture"]) / cluster.operations
    messages = len(row["sites"])
    gathering = (gpus - 1) * row["embeddings_a_picture"] * pictures / rate + messages * hops if gathered else 0.0
    gathering += row["statistics"] / 4 * hops  # each a number, waited for
    left = max([0.0, *(s - w for s, w in zip(sums, windows, strict=True)), sum(sums) - max(windows)])
    return computing / (computing + gathering + left)


# ------------------------------------------------------------------------------------------------------------ the tables


def page(folder: Path = HERE / "ranks") -> str:
    """Everything measured, as Markdown."""
    parts = []
    tables = {"equality": equality, "bytes": sizes, "speed": speeds, "killed_node": killed, "stream": streams}
    for name, function in tables.items():
        if (path := folder / f"{name}.json").exists():
            found = json.loads(path.read_text())
            machine = found["hardware"]
            said = f"`{found['command']}`, {found['date'][:10]}, {machine['processor']}, {machine['cores']} cores, "
            parts.append(function(found) + f"\n{said}torch {found['versions']['torch']}.\n")
    return "\n".join(parts)


def equality(found: dict[str, Any]) -> str:
    cells = {(row["rule"], row["schedule"]): row for row in found["rows"] if row["loss"] == "hinge"}
    body: list[list[Any]] = [
        [rule, *(f"{cells[rule, s]['float64']:.0e} / {cells[rule, s]['float32']:.0e}" for s in SCHEDULES)]
        for rule in RULES
    ]
    caption = (
        f"How far {found['ranks']} ranks end from one process after {found['steps']} steps with the same whole batch: the "
        "largest difference of an entry of weights, feedback, inverses or losses, over the largest entry of its tensor; "
        "float64 with Adam / float32 with momentum."
    )
    return "### Equality\n\n" + to_markdown(Table(["rule", *SCHEDULES], body, caption))


def sizes(found: dict[str, Any]) -> str:
    rows = found["rows"]
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        numbers = (f"{row['gradients'] / 1e6:.3f}", f"{row['embeddings_a_picture']:.0f}", f"{row['statistics']:.0f}")
        flops = (f"{row[kind] / 1e6:.0f}" for kind in ("flops_a_picture", "flops_a_step"))
        alike.setdefault((row["schedule"], *numbers, *flops), []).append(row["rule"])
    body: list[list[Any]] = [[schedule, ", ".join(rules), *numbers] for (schedule, *numbers), rules in alike.items()]
    header = ["schedule", "rules", "gradients (MB)", "embeddings (bytes a picture)", "statistics (bytes)"]
    caption = (
        "What a rank hands over to be sent in a step, and computes, with the paper's CIFAR network in float32: counted. gll "
        "is the mean over its five layers, and rll, which draws them evenly, the same. Operations: those of a picture, and those "
        "that a step takes whatever its batch (the noise of weight mirrors; under dtp the inverses of zero)."
    )
    header += ["operations a picture (million)", "and a step (million)"]
    text = "### Bytes of a step\n\n" + to_markdown(Table(header, body, caption))
    cluster = Cluster()
    firsts = [
        next(row for row in rows if (row["schedule"], row["rule"]) == (key[0], rules[0]))
        for key, rules in alike.items()
    ]
    body = [
        [row["schedule"], ", ".join(rules), str(pictures), "gathered" if gathered else "local",
         *(f"{100 * estimate(row, gpus, pictures, cluster, gathered=gathered):.0f}" for gpus in (8, 64, 1000))]
        for row, rules in zip(firsts, alike.values(), strict=True)
        for pictures in (64, 500)
        for gathered in (True, False)
    ]  # fmt: skip
    caption = (
        f"Efficiency (%) against one GPU, reckoned and not measured. Assumed: {cluster.operations:.0e} operations a second "
        f"and GPU, {cluster.inside:.0e} bytes a second between the 8 GPUs of a machine and {cluster.across:.0e} for each "
        f"GPU between machines, {cluster.latency:.0e} s a message and hop; bytes and operations as counted above."
    )
    header = ["schedule", "rules", "pictures a GPU", "negatives", "8 GPUs", "64 GPUs", "1,000 GPUs"]
    return text + "\n### Scaling, on paper\n\n" + to_markdown(Table(header, body, caption))


def speeds(found: dict[str, Any]) -> str:
    body: list[list[Any]] = [
        [row["schedule"], row["rule"], row["divided"], 1000 * row["one_process"], 1000 * row["two_processes"],
         1000 * row["waited"], f"{100 * row['efficiency']:.0f}"]
        for row in found["rows"]
    ]  # fmt: skip
    header = [
        "schedule",
        "rule",
        "two processes have",
        "one process (ms a step)",
        "two (ms a step)",
        "waiting for sums (ms)",
        "efficiency (%)",
    ]
    caption = (
        f"Two processes of a thread each on two cores, against one process of one thread: the CIFAR network, {found['batch']} "
        f"pictures a step of one process; the fastest of {found['steps']} steps. Efficiency: "
        "pictures a second, over twice those of one process."
    )
    return "### Speed\n\n" + to_markdown(Table(header, body, caption, digits=1))


def killed(found: dict[str, Any]) -> str:
    words = {True: "yes", False: "no"}
    body: list[list[Any]] = [
        [row["rule"], row["schedule"], words[row["underway"]], str(row["resumed_at"]), words[row["same"]]]
        for row in found["runs"]
    ]
    header = ["rule", "schedule", "under way at the kill", "continued from step", "same result as without a cluster"]
    caption = (
        f"A sweep of {len(body)} runs of {found['steps']} steps on a Ray cluster of two nodes, one of which was killed when "
        f"{found['finished_before']} had ended."
    )
    return "### A node killed during a sweep\n\n" + to_markdown(Table(header, body, caption))


def streams(found: dict[str, Any]) -> str:
    """What results/stream.py found of the libraries that read shards."""
    words = {True: "yes", False: "no"}
    body: list[list[Any]] = [
        [
            row["reader"],
            f"{row['pictures_per_second']:,}",
            row["memory_mib"],
            words[row["exact_resume"]],
            row["resume_seconds"],
        ]
        for row in found["rows"]
    ]
    header = ["reader", "pictures a second", "memory taken (MiB)", "continues with the same pictures", "after (s)"]
    versions = ", ".join(f"{name} {version}" for name, version in found["readers"].items())
    caption = (
        f"The first {found['pictures']:,} pictures of CIFAR-100 as PNG in 10 shards, 4,096 shuffled together, decoded, in one "
        f"process, torch with one thread ({versions}); then begun again after 4,000 pictures, to the 500th after them."
    )
    return "### Reading shards\n\n" + to_markdown(Table(header, body, caption, digits=1))


def write(name: str, found: dict[str, Any]) -> None:
    (HERE / "ranks").mkdir(exist_ok=True)
    command = {"command": f"python results/ranks.py {name}"}
    write_json(HERE / "ranks" / f"{name}.json", found | surroundings() | command)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("bytes", "speed"))
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "bytes":
        bytes_sent()
    else:
        speed(given.batch, given.steps)
