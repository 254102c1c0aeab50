"""What is measured of a cell: train its encoder, or find it trained, and look at it. Each measure returns plain data."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import draws, networks
from ..config.grammar import parse_call, parse_calls
from ..config.run import TrainConfig, from_dict
from ..config.view_names import resolve, steady
from ..data import ImageSet, load
from ..errors import InputError
from ..evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupted, deformed, kept
from ..evaluation.features import features
from ..evaluation.linear import accuracy, fit_adam
from ..evaluation.margins import margins as measure_margins
from ..evaluation.margins import quantile
from ..evaluation.probe import ProbeResult, deformation, described
from ..evaluation.separation import nearest_agreement, silhouette, tsne
from ..losses import make as make_loss
from ..parallel import Report
from ..training import pick_device, pick_precision, read_weights, run
from ..training.folder import read_json, read_metrics
from ..training.own_code import own_code
from .scales import AFTERWARDS, Scale, file_name, strengths
from .tables import Cell, PaperTable

VEHICLES = ("airplane", "automobile", "car", "ship", "truck")
MANY = 10**9  # images, for a configuration of which their number does not matter
# SGD's rate is Adam's times this over the number of pairs that the loss sums up: a tenth for 100 images with 5 negatives.
_SGD = 50
_TEST_SEED = 0  # of the deformed test images, whatever the seed of the training


@dataclass(frozen=True)
class Job:
    """A cell at a scale and a seed, and where its runs and the deformed test images go."""

    table: PaperTable
    cell: Cell
    scale: Scale
    seed: int
    root: str | None
    runs: Path
    report: Report

    @cached_property
    def device(self) -> torch.device:
        return pick_device("auto")

    @cached_property
    def precision(self) -> str:
        return pick_precision(self.scale.precision, self.device)

    def set(self, place: int) -> ImageSet:
        """The encoder's pictures (0), the probe's (1), the test's (2)."""
        return _loaded(self.scale.sets[place], self.root, self.device)


@lru_cache(maxsize=3)  # cell after cell of a table reads the same three
def _loaded(spec: str, root: str | None, device: torch.device) -> ImageSet:
    return load(spec, root=root, device=device)


class Learned(NamedTuple):
    encoder: nn.Sequential
    classifier: nn.Linear | None  # its own, if it was trained with labels
    config: dict[str, Any]
    run: dict[str, Any]


def config_of(cell: Cell, scale: Scale, seed: int, size: int) -> TrainConfig:
    """The cell's training configuration, for a set of `size` images. Raises InputError where they are no batch."""
    options: dict[str, Any] = {
        "data": scale.sets[cell.learns_from],
        "seed": seed,
        "network": scale.network,
        "views": scale.views,
        "batch": scale.batch,
        "rate": scale.rate,
        "size": scale.size,
        "precision": scale.precision,
        **cell.options,
    }
    if cell.strided:
        options["network"] += "-strided"
    loss = parse_call(cell.options.get("loss", "none"))
    if loss.name == "hinge":
        # In the authors' reading one negative would be none.
        few = scale.negatives != "paper" and loss.options.get("negatives", "all") not in ("all", 1)
        reading = {"reading": scale.negatives} if few else {}
        options["loss"] = str(replace(loss, options=scale.margins | reading | loss.options))
    if loss.name.endswith("-patches"):
        options["views"] = scale.patch_views
    for call in parse_calls(scale.readings) if scale.readings else ():
        for part in ("loss", "rule"):
            one = parse_call(options.get(part, "none"))
            if one.name == call.name:
                options[part] = str(replace(one, options=one.options | call.options))
    batch = options["batch"]
    if batch > size:
        raise InputError(f"batch is {batch}, and {options['data']} has {size:,} pictures; it takes at most that many.")
    if options.get("optimizer") == "sgd":
        negatives = loss.options.get("negatives")
        options["rate"] *= _SGD / (batch * (negatives if isinstance(negatives, int) else batch - 1))
    if cell.supervised:
        views = " ".join(filter(None, [(scale.test_views or "none") if cell.deformed else "none", steady(scale.views)]))
        passes = scale.supervised_epochs * (max(scale.sizes, default=size) // batch) / (size // batch)
        options |= {"views": views, "rate": 1e-3, "epochs": passes}
    else:  # whole steps, so that a scale's pairs are what is trained
        options["epochs"] = ceil(scale.pairs / batch) / (size // batch)
    if cell.options.get("rule") == "dtp":
        options["rate"] = scale.dtp_rate or scale.rate
    return from_dict(asdict(TrainConfig()) | options, f"The cell {cell.name}")


def learn(job: Job, images: ImageSet | None = None, part: str = "", share: float = 0.9) -> Learned:
    """The cell's encoder, trained on `images` (default: those it is to learn from) unless that is done already.

    `part` tells runs of one cell apart; `share` is how much of the cell's work this is.
    """
    cell, scale = job.cell, job.scale
    images = images or job.set(cell.learns_from)
    config = config_of(cell, scale, job.seed, len(images))
    if part:
        config = replace(config, data=images.name)
    shape = (images.shape[0], scale.size, scale.size) if scale.size else images.shape
    encoder = networks.build(config.network, shape, config.seed)
    if not cell.trained:
        return Learned(encoder.to(job.device), None, {"network": config.network, "seed": job.seed}, {})
    folder = job.runs / f"{cell.name}{part}-seed{job.seed}"
    run(
        replace(config, data_root=job.root),
        folder,
        images=images,
        progress=lambda step, steps, loss: job.report(share * step / steps),
    )
    encoder.load_state_dict(read_weights(folder, "encoder."))
    classifier = None
    if cell.supervised:
        own = {name.rpartition(".")[2]: tensor for name, tensor in read_weights(folder, "heads.0.linear").items()}
        classifier = nn.Linear(own["weight"].shape[1], len(own["bias"]))
        classifier.load_state_dict(own)
        classifier.to(job.device).requires_grad_(False)
    made = read_json(folder / "run.json")
    facts = {name: made.get(name) for name in ("seconds", "resumed_at", "steps", "precision")}
    # A path means nothing on another machine; the hash says which images they were.
    facts["data"] = made["data"] | {"source": Path(made["data"]["source"]).name}
    return Learned(encoder.to(job.device), classifier, _settings(config), facts)


def _settings(config: TrainConfig) -> dict[str, Any]:
    """A configuration as a result holds it, without what means nothing on another machine."""
    return {name: value for name, value in asdict(config).items() if name != "data_root"}


def read(
    job: Job,
    encoder: nn.Sequential,
    images: ImageSet,
    views: str | None,
    layer: int | None = None,
    seed: int = _TEST_SEED,
) -> Tensor:
    """One layer's features (default: the last's) of the images, or of one view each: (images, features)."""
    layer = len(encoder) if layer is None else layer
    patches = str(job.cell.options.get("loss")).partition("(")[0].endswith("-patches")
    views = " ".join(filter(None, [views or "none", steady(job.scale.patch_views if patches else job.scale.views)]))
    plain = views == "none" and job.scale.size in (None, images.shape[-1])
    deform = None if plain else deformation(views, seed, job.scale.size)
    found = features(encoder, images, [layer], pool_to=job.scale.pool_to, deform=deform, precision=job.precision)
    return found[layer]


Features = Tensor | Callable[[int], Tensor]  # features, or those of an epoch


def probe_features(job: Job, encoder: nn.Sequential, images: ImageSet, layer: int | None = None) -> Features:
    """What the probe learns from: features of the pictures, or of one view each, drawn anew at each epoch."""
    views = job.scale.probe_views
    if views == "none":
        return read(job, encoder, images, views, layer)
    return lambda epoch: read(job, encoder, images, views, layer, draws.key(job.seed, "probe views", epoch))


def fit(job: Job, x: Features, images: ImageSet) -> nn.Linear:
    """The paper's probe on features `x` of the first images."""
    assert images.labels is not None
    return fit_adam(
        x,
        images.labels if callable(x) else images.labels[: len(x)],
        int(images.labels.max()) + 1,
        epochs=job.scale.probe_epochs,
        rate=job.scale.probe_rate,
        batch=job.scale.probe_batch,
        seed=job.seed,
        precision=job.precision,
    )


def percent(classifier: nn.Linear, x: Tensor, images: ImageSet) -> float:
    assert images.labels is not None
    return accuracy(classifier, x, images.labels)


# ------------------------------------------------------------------------------------------------------------- measures


def probe(job: Job) -> dict[str, Any]:
    """Test accuracy of a linear classifier on the last layer, or of the cell's own where it was trained with labels."""
    learned, train, test = learn(job), job.set(1), job.set(2)
    classifier = learned.classifier or fit(job, probe_features(job, learned.encoder, train), train)
    x = read(job, learned.encoder, test, job.scale.test_views)
    score = percent(classifier, x, test)
    about = _probed(job, learned, train, x, score)
    return {"accuracy": score, "probe": about, "config": learned.config, "run": learned.run}


def _probed(job: Job, learned: Learned, train: ImageSet, x: Tensor, score: float) -> dict[str, Any]:
    sides = (job.scale.size,) * 2 if job.scale.size else train.shape[1:]
    what = described(networks.shapes(learned.encoder, (train.shape[0], *sides))[-1], job.scale.pool_to)
    own = learned.classifier is not None
    details: dict[str, Any] = {"precision": job.precision}
    if not own:
        scale = job.scale
        details |= {"epochs": scale.probe_epochs, "rate": scale.probe_rate, "batch": scale.probe_batch}
    protocol = "the network's own classifier" if own else "paper"
    return ProbeResult(len(learned.encoder), what, protocol, len(train), len(x), score, job.seed, details).as_dict()


def tested(job: Job) -> dict[str, Any]:
    """Accuracies of classifiers fitted on plain pictures, some and all of them: on test images that are plain, deformed,
    deformed more and less, and, where a table has several sizes of the training set, corrupted."""
    scale, train, test = job.scale, job.set(1), job.set(2)
    sizes = scale.sizes or (len(train),)
    if max(sizes) > len(train):
        raise InputError(f"{train.name} has {len(train):,} pictures; {job.table.name} takes at least {max(sizes):,}.")
    classifiers: dict[int, tuple[nn.Sequential, nn.Linear]] = {}
    by_size: dict[int, dict[str, Any]] = {}
    learned = None
    x = None
    for number, size in enumerate(sizes):
        if job.cell.supervised:
            few = train if size == len(train) else train.take(None, size)
            views = f"-{file_name(scale.test_views or 'none')}" if job.cell.deformed else ""
            learned = learn(job, few, f"-{size}{views}", share=0.8 * (number + 1) / len(sizes))
            assert learned.classifier is not None
            by_size[size] = {"config": learned.config, "run": learned.run}
            classifiers[size] = (learned.encoder, learned.classifier)
        else:
            if learned is None or x is None:
                learned = learn(job, share=0.7)
                x = read(job, learned.encoder, train, None)
            classifiers[size] = (learned.encoder, fit(job, x[:size], train))
    assert learned is not None
    del x
    job.report(0.85)
    encoders = {id(encoder): encoder for encoder, _ in classifiers.values()}
    hashes: dict[str, str] = {}

    def scored(images: ImageSet) -> dict[int, float]:
        rows = {key: read(job, encoder, images, None) for key, encoder in encoders.items()}
        return {size: percent(one, rows[id(encoder)], images) for size, (encoder, one) in classifiers.items()}

    def changed(name: str, how: str, images: ImageSet, make: Callable[[], ImageSet]) -> dict[int, float]:
        made = kept(images, f"{how}, seed {_TEST_SEED}", make, job.runs.parent.parent / "deformed")
        hashes[name] = made.fingerprint()
        return scored(made)

    def under(views: str) -> dict[int, float]:
        how = " ".join([*map(str, resolve(views)), *own_code(TrainConfig(views=views), ["views"]).values()])
        return changed(views, how, test, lambda: deformed(test, views, _TEST_SEED))

    def corrupt(images: ImageSet, name: str, severity: int) -> dict[int, float]:
        what = f"{name} {severity}"
        return changed(what, what, images, lambda: corrupted(images, name, severity, _TEST_SEED))

    policy = scale.test_views or "none"
    on = {"deformed": under(policy), "plain": scored(test)}
    curve = {strength: under(views) for strength, views in strengths(policy).items()}
    job.report(0.9)
    few = test.take(0, min(scale.corrupted, len(test)))
    corruptions = {name: {s: corrupt(few, name, s) for s in SEVERITIES} for name in CORRUPTIONS} if scale.sizes else {}
    scores = {scale.column(size, kind): score for kind in ("deformed", "plain") for size, score in on[kind].items()}
    return {
        "accuracy": on["deformed"][max(sizes)],
        "scores": scores,
        "curve": curve,
        "corruptions": corruptions,
        "corrupted": len(few) if scale.sizes else 0,
        "images": hashes,
        "by_size": by_size,
        "config": learned.config,
        "run": learned.run,
    }


def layers(job: Job) -> dict[str, Any]:
    """Test accuracy of a linear classifier at every layer."""
    learned, train, test = learn(job, share=0.6), job.set(1), job.set(2)
    scores = {}
    for layer in range(1, len(learned.encoder) + 1):
        classifier = fit(job, probe_features(job, learned.encoder, train, layer), train)
        x = read(job, learned.encoder, test, job.scale.test_views, layer)
        scores[f"layer {layer}"] = percent(classifier, x, test)
        job.report(0.6 + 0.4 * layer / len(learned.encoder))
    last = scores[f"layer {len(learned.encoder)}"]
    return {"accuracy": last, "scores": scores, "config": learned.config, "run": learned.run}


_POINTS = 200  # of a curve


def curve(job: Job) -> dict[str, Any]:
    """The training loss: points (epoch, mean loss since the point before), and its means over the first and last tenth."""
    learned = learn(job)
    folder = job.runs / f"{job.cell.name}-seed{job.seed}"
    steps: dict[int, tuple[float, list[float]]] = {}
    for row in read_metrics(folder):
        if "loss" in row:
            steps.setdefault(row["step"], (row["epoch"], []))[1].append(row["loss"])
    logged = [(epoch, float(np.mean(losses))) for epoch, losses in steps.values()]
    each = ceil(len(logged) / _POINTS)
    groups = [logged[start : start + each] for start in range(0, len(logged), each)]
    points = [(group[-1][0], round(float(np.mean([loss for _, loss in group])), 5)) for group in groups]
    tenth = ceil(len(logged) / 10)
    scores = {
        "first tenth": float(np.mean([loss for _, loss in logged[:tenth]])),
        "last tenth": float(np.mean([loss for _, loss in logged[-tenth:]])),
    }
    return {"scores": scores, "points": points, "config": learned.config, "run": learned.run}


def separation(job: Job) -> dict[str, Any]:
    """How far the first test images' embeddings separate, at every layer; for seed 0 also their map."""
    learned, test = learn(job), job.set(2)
    test = test.take(0, min(job.scale.shown, len(test)))
    assert test.labels is not None
    names = test.classes or [str(number) for number in range(test.class_count)]
    kinds = {"class": test.labels.cpu()}
    vehicles = torch.tensor([name in VEHICLES for name in names])
    if vehicles.any():
        kinds["animal or vehicle"] = vehicles[test.labels.cpu()].long()
    scores: dict[str, dict[str, float]] = {}
    places = {}
    whole = replace(job, scale=replace(job.scale, pool_to=1))  # the mean over all places, as in the paper
    for layer in range(1, len(learned.encoder) + 1):
        x = read(whole, learned.encoder, test, job.scale.test_views, layer).cpu()
        for kind, labels in kinds.items():
            scores.setdefault(f"kNN, {kind}", {})[f"layer {layer}"] = nearest_agreement(x, labels)
            scores.setdefault(f"silhouette, {kind}", {})[f"layer {layer}"] = silhouette(x, labels)
        if job.seed == 0:
            places[f"layer {layer}"] = np.round(tsne(x), 1).tolist()
    drawn = {"map": places, "labels": test.labels.tolist(), "classes": names} if places else {}
    return {"scores": scores, **drawn, "images": len(test), "config": learned.config, "run": learned.run}


def margins(job: Job) -> dict[str, Any]:
    """Distances of pairs before training, by their quantiles, and what the margins in use and those proposed make of them."""
    images = job.set(0)
    config = replace(config_of(job.cell, job.scale, job.seed, len(images)), precision="float32")
    [found] = measure_margins(config, images, batches=min(10, len(images) // config.batch))
    loss: Any = make_loss(config.loss)
    scores = {
        "median of positives": quantile(found.positives, 0.5),
        "median of negatives": quantile(found.negatives, 0.5),
        "positives beyond m1 (%)": found.beyond(loss.m1),
        "negatives within m2 (%)": found.within(loss.m2),
        "proposed m1": found.m1,
        "proposed m2": found.m2,
    }
    quantiles = {
        name: np.round(np.quantile(pairs.double().numpy(), np.linspace(0, 1, 501)), 4).tolist()
        for name, pairs in (("positives", found.positives), ("negatives", found.negatives))
    }
    own = {"m1": loss.m1, "m2": loss.m2}
    return {"scores": scores, "quantiles": quantiles, **own, "config": _settings(config), "run": {}}


_PROBED = frozenset({*AFTERWARDS, "probe_set", "probe_rate", "pool_to"})


class Measure(NamedTuple):
    """What is measured of a cell, the options of a scale that it reads beside those that training does, what a result holds of
    it beside `scores` or `accuracy`, and whether its scores are percentages."""

    of: Callable[[Job], dict[str, Any]]
    reads: frozenset[str]
    holds: tuple[str, ...] = ()
    percent: bool = False


MEASURES: dict[str, Measure] = {
    "probe": Measure(probe, _PROBED, percent=True),
    "tested": Measure(
        tested, _PROBED - {"probe_views"} | {"corrupted"}, ("curve", "corruptions", "images"), percent=True
    ),
    "layers": Measure(layers, _PROBED, percent=True),
    "curve": Measure(curve, frozenset(), ("points",)),
    "separation": Measure(separation, frozenset({"test_set", "test_views", "strength", "shown"}), ("images",)),
    "margins": Measure(
        margins, frozenset({"encoder_set", "network", "size", "batch", "m1", "m2"}), ("quantiles", "m1", "m2")
    ),
}
