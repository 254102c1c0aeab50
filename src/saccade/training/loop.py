"""The loop: from a configuration to a run's folder, continued from where it was left."""

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor

from .. import measures, networks
from ..config.run import TrainConfig
from ..data import ImageSet, load
from ..data.memory import pick_device, whole_float32
from ..errors import Lost, RunError, Stopped
from ..files import write_whole
from ..ranks import ALONE, Ranks, joined
from ..rules import Batch
from ..signals import asking_to_stop
from . import checkpoint
from .folder import (
    Metrics,
    claimed,
    differences,
    read_facts,
    read_metrics,
    refuse_other_images,
    settled,
    surroundings,
    write_config,
    write_json,
)
from .model import Model, build, named_tensors, settle, train_step
from .own_code import failures_told, own_code, refuse_other_code
from .weights import WEIGHTS, fingerprint, read_weights, refuse_other_start

CONDITIONS = ("versions", "hardware", "source", "device", "precision", "processes")  # on which a run's bits depend
LOG_EVERY = 50  # steps, or an epoch where that is shorter

Progress = Callable[[int, int, float], None]  # step, steps in all, running loss


def run(config: TrainConfig, out: Path, *, images: ImageSet | None = None, progress: Progress | None = None) -> Path:
    """Train as `config` says, in the folder `out`, and return it. A run that was interrupted there continues.

    `images` stands in for the configured data where a caller has it in memory. `progress` is called after each logged
    step. Raises InputError for what cannot run, RunError for numbers that are no longer finite and for a full disk,
    Stopped where a signal asked for it.
    """
    with (
        joined(pick_device(config.device), config.batch, config.negatives, config.divide) as ranks,
        whole_float32(),
        deterministic(config),
        ExitStack() as stack,
    ):
        try:
            model, images = ranks.together(lambda: _prepared(config, images, ranks))
            ranks.agree("The images", images.fingerprint() if ranks.count > 1 else "")
            ranks.tell(lambda: stack.enter_context(claimed(out, config)))
            facts = ranks.tell(lambda: _begin(model, images, out))
            if facts["finished"]:
                return out
            step = checkpoint.share(model, facts["resumed_at"])
            started = time.perf_counter()
            with failures_told(config, RunError):
                _train(model, images, step, model.total_steps, out, progress)
            checkpoint.agree(model)
            seconds = time.perf_counter() - started
            ranks.tell(lambda: _end(model, step, out, facts, seconds))
        except Lost as lost:
            kept = checkpoint.found(out)
            said = f"{lost}; " + (
                f"the same command, on any number of processes, continues from {kept[0].name}."
                if kept
                else "nothing was saved."
            )
            again = Lost(f"Process {ranks.rank} of {ranks.count}: {said}")
            again.first = lost.first
            raise again from None
    return out


def _whole_picture(model: Model, images: ImageSet) -> list[int]:
    """(channels, height, width) of what the finished encoder is shown: a view's, or, where it takes that, the whole of which
    views were patches."""
    if model.sites[-1].needs.layout == "patches":
        channels, *_ = model.shape
        picture = (channels, *(model.config.size or side for side in images.shape[1:]))
        with suppress(Exception):  # of a network of the user's own
            networks.shapes(model.encoder, picture)
            return list(picture)
    return list(model.shape)


def _begin(model: Model, images: ImageSet, out: Path) -> dict[str, Any]:
    """Restore what the folder holds, write what is begun there, and return it."""
    before = read_facts(out) if (out / "run.json").exists() else {}
    facts = {
        **surroundings(model.device),
        "config": settled(model.config),
        "data": {
            "name": images.name,
            "source": images.source,
            "images": len(images),
            "sha256": images.fingerprint(),
        },
        "shape": list(model.shape),
        "picture": _whole_picture(model, images),
        "device": str(model.device),
        "precision": model.precision,
        "processes": model.ranks.count,
        "parameters": {"encoder": _count(model.encoder), "all": _count(model.modules())},
        "steps": model.total_steps,
    }
    if model.sites[0].needs.labels:
        facts["data"]["classes"] = images.classes
    if code := own_code(model.config):
        facts["own_code"] = code
    if model.config.init_from:
        facts["initial_weights"] = fingerprint(Path(model.config.init_from))
    if before:  # a run goes on, or is taken as done, with the images, and from the encoder, that it began with
        refuse_other_images(out, before, images)
        refuse_other_start(out, model.config, before)
    if before.get("finished") or checkpoint.found(out):  # a part that failed at the first step may be mended
        refuse_other_code(out, before, model.config)
    if before.get("finished"):
        read_weights(out, "encoder.")  # refused where they are no longer what the run wrote
        checkpoint.remove(out)  # it may have died just before it did so itself
        return before
    write_config(out, model.config)
    step = checkpoint.restore(model, out)
    if step:
        _say_what_changed(before, facts)
    facts |= {"resumed_at": step, "earlier": _earlier(before) if step and before else [], "finished": False}
    write_json(out / "run.json", facts)
    if model.ranks.count > 1 and step == 0:  # there is something to continue from, whenever a process dies
        checkpoint.save(model, 0, out)
    return facts


def _end(model: Model, step: int, out: Path, facts: dict[str, Any], seconds: float) -> None:
    content = serialize(weights(model))
    write_whole(out / WEIGHTS, content)
    pairs = (model.total_steps - step) * model.config.batch
    facts |= {
        "finished": True,
        "weights": hashlib.sha256(content).hexdigest(),
        "seconds": round(seconds, 2),
        "pairs_per_second": round(pairs / max(seconds, 1e-9), 1),
    }
    write_json(out / "run.json", facts)
    checkpoint.remove(out)


def replay(
    config: TrainConfig, steps: int, out: Path, *, images: ImageSet | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Train the first `steps` steps of a run anew, in the empty folder `out`, and return the metrics' lines."""
    with whole_float32(), deterministic(config):
        model, images = _prepared(config, images, ALONE)
        steps = min(steps, model.total_steps)
        report: Progress | None = (lambda step, _, loss: progress(step, steps, loss)) if progress else None
        with failures_told(config, RunError):
            _train(model, images, 0, steps, out, report)
    return read_metrics(out)


@contextmanager
def deterministic(config: TrainConfig) -> Iterator[None]:
    """Operations that give the same bits on a GPU too, where the run asks for them; then as before."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _prepared(config: TrainConfig, images: ImageSet | None, ranks: Ranks) -> tuple[Model, ImageSet]:
    if images is None:
        images = load(config.data, root=config.data_root, download=config.download, device=pick_device(config.device))
    model = build(config, images, ranks)
    return model, images.to(model.device)


def _say_what_changed(before: dict[str, Any], now: dict[str, Any]) -> None:
    """What may make the run end in other bits than one that was never interrupted."""
    parts = ("precision", "device", "processes", "source")
    changed = [differences({name: before.get(name)}, now) for name in parts]
    for name in ("versions", "hardware"):
        then = before.get(name)
        changed.append(differences(then if isinstance(then, dict) else {}, now[name]))
    if said := "; ".join(filter(None, changed)):
        print(f"The run goes on under other conditions, and may end in other bits: {said}.", file=sys.stderr)


def _earlier(before: dict[str, Any]) -> list[dict[str, Any]]:
    """What the parts of a run before this one were run on, for those that left something to continue."""
    part = ("command", "date", *CONDITIONS, "resumed_at")
    return [*before.get("earlier", []), {name: before.get(name) for name in part}]


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def weights(model: Model) -> dict[str, Tensor]:
    """Encoder and heads by name, for a file, without what the rule added to them."""
    tensors = named_tensors(model.encoder, model.sites)
    return checkpoint.portable({name: tensors[name].detach() for name in tensors if name in model.names})


def _train(model: Model, images: ImageSet, step: int, last: int, out: Path, progress: Progress | None) -> None:
    first = model.ranks.rank == 0  # which alone writes
    metrics = Metrics(out, step, writes=first)
    piped = model.ranks.count > 1 and not model.ranks.shares
    apart = model.ranks.count - 1 if piped else 0  # steps that the first of the processes may be ahead of the last
    answers: deque[Callable[[], list[bool]]] = deque()
    every = min(LOG_EVERY, model.steps_per_epoch)
    asked: list[bool] = []
    saved = time.monotonic()

    def asks() -> list[bool]:
        nonlocal saved
        due = first and time.monotonic() - saved > model.config.checkpoint_seconds
        saved = time.monotonic() if due else saved
        return [bool(asked), due]

    with asking_to_stop(lambda: asked.append(True)):
        while step < last:
            watch: list[dict[str, Any]] | None = None
            if model.config.diagnostics and step % model.config.diagnostics == 0:
                watch = []
            answers.append(model.ranks.ask(asks))
            logs = (step + 1) % every == 0 or step + 1 == model.total_steps
            model.remembers = logs
            train_step(model, images, step, watch)
            step += 1
            stops, saves = answers.popleft()() if len(answers) > apart else (False, False)
            saves = saves or stops
            if logs or saves or step == last:
                settle(model)
                checkpoint.unite(model, whole=saves or step == last)
            looks = model.device.type == "cpu" and not piped  # at each step: on a GPU that would wait for it to finish
            if logs or saves or looks:
                _refuse_nonfinite(model, out)
            if piped and watch is not None:
                watch = [row for own in model.ranks.each(watch) for row in own]
            for row in watch or []:
                metrics.add({"step": step, **row})
            if logs:
                loss = _log(model, metrics, step)
                if progress:
                    progress(step, model.total_steps, loss)
            if saves:
                checkpoint.agree(model)
                if first:
                    metrics.flush()
                    checkpoint.save(model, step, out)
            if stops:
                _heard(answers)
                raise Stopped(
                    f"Stopped at step {step} of {model.total_steps}, which is saved; the same command continues."
                )
        _heard(answers)


def _heard(answers: Iterable[Callable[[], Any]]) -> None:
    """Wait for what is still on its way between processes that are about to part."""
    for answer in answers:
        answer()


def _log(model: Model, metrics: Metrics, step: int) -> float:
    """Write each site's mean loss since the last time, and start anew; returns their mean."""
    epoch = round(step / model.steps_per_epoch, 4)
    rows = [(index, total / count) for index, (total, count) in enumerate(model.sums.tolist()) if count]
    for index, loss in rows:
        metrics.add({"step": step, "epoch": epoch, "site": index, "loss": loss})
    model.sums.zero_()
    signs = [sign for site, batch in model.recent for sign in _signs(site.index, batch)]
    if not model.ranks.shares:  # each process has layers of its own
        signs = [sign for own in model.ranks.each(signs) for sign in own]
    for site, what, said in signs:
        metrics.warn(site, step, what, said)
    return sum(loss for _, loss in rows) / max(len(rows), 1)


def _signs(site: int, batch: Batch) -> Iterator[tuple[int, str, str]]:
    """A warning where a batch's embeddings are alike, their spread below a thousandth of their size, and where most units of
    the features (channels, over all places) have one value: its site, its name and its words."""
    assert batch.outputs is not None
    z = batch.views[0].flatten(1)
    size = float(z.double().abs().mean())
    if measures.embedding_std(z) < 1e-3 * size or size == 0:
        said = f"the embeddings of site {site + 1} are nearly all alike; a lower rate or another loss may help."
        yield site, "collapse", said
    dead = measures.dead_units(batch.outputs.movedim(1, -1).flatten(0, -2))
    if dead > 0.5:
        said = f"{dead:.0%} of the units of site {site + 1} have one value for all images; a lower rate may help."
        yield site, "dead units", said


def _refuse_nonfinite(model: Model, out: Path) -> None:
    broken = model.broken.tolist()
    marked = [(step, site, which) for site, steps in enumerate(broken) for which, step in enumerate(steps) if step]
    if not marked:
        return
    step, index, which = min(marked)
    layers = [k + 1 for k, layer in enumerate(model.encoder) if layer in list(model.sites[index].layers)]
    where = f"site {index + 1} (layers {layers[0]} to {layers[-1]})"
    if which == 1:
        bad = [name for name, p in model.sites[index].named_parameters() if not bool(p.isfinite().all())]
        where += f" ({', '.join(bad[:3])})"
    kept = checkpoint.found(out)
    raise RunError(
        f"The {('loss', 'weights')[which]} of {where} {('is', 'are')[which]} not finite at step {step}; "
        f"last good checkpoint: {kept[0].name if kept else 'none'}. A lower rate may help."
    )
