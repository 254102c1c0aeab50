"""The few functions that join the rooms; the command line is a thin layer over them, and so can anyone's script be.

A run is a folder. Functions take the folder's path, or what `train` returned, which is the same.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import networks, views
from .adapters.brainscore import BrainScoreModel
from .adapters.export import write_onnx, write_pt2
from .adapters.huggingface import write_pretrained
from .adapters.tensorboard import few_features, write_tensorboard
from .config.names import EXPORTS
from .config.run import TrainConfig, check, from_dict, head_of, recipe, to_yaml
from .config.view_names import steady
from .data import ImageSet
from .data import load as load_images
from .errors import InputError, NotHere, whole
from .evaluation.features import features
from .evaluation.margins import Margins, pairs
from .evaluation.margins import margins as measure_margins
from .evaluation.probe import ProbeResult, seen
from .evaluation.probe import probe as probe_encoder
from .files import refuse_file
from .losses import make as make_loss
from .losses import needs
from .paper import FIGURES, NAMES, TABLES, found, run_cells, scaled
from .paper import merge as merge_results
from .paper import results as paper_results
from .paper.audits import audited
from .paper.figures import draw
from .paper.results import write as write_table
from .paper.run import check_cells, chosen, refuse_idle
from .paper.scales import with_letters
from .plausibility.audit import audit as run_audit
from .plausibility.own import named
from .plausibility.verdict import Report
from .report import figures
from .report.audit import Audited
from .report.compare import Comparison
from .report.compare import compare as compare_runs
from .report.margins import own as own_margins
from .report.page import Block, Picture, Section, Svg, Text, write_page
from .report.run import run_sections
from .report.tables import Table
from .training import build, pick_device, pick_precision, read_weights
from .training import run as run_training
from .training.estimate import dry_run as dry_run
from .training.folder import (
    add_probes,
    configuration,
    losses,
    picture_shape,
    read_facts,
    read_metrics,
    refuse_other_images,
    timed,
)
from .training.loop import Progress
from .training.own_code import failures_told, refuse_other_code
from .training.verify import verify
from .training.weights import begin, refuse_other_start
from .views.sheet import sheet

__all__ = [
    "TrainConfig",
    "audit",
    "brainscore_model",
    "compare",
    "embed",
    "evaluate",
    "export",
    "load_encoder",
    "load_images",
    "margins",
    "page",
    "probe",
    "reproduce",
    "tensorboard",
    "train",
    "verify",
]

Images = ImageSet | str | PathLike[str]


def train(
    config: TrainConfig | str | None = None,
    *,
    out: Path | str | None = None,
    images: Images | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Train an encoder and return the run's folder; an interrupted run continues, a finished one is kept.

    `config` is a configuration, or the name or file of a recipe; `options` are fields of it in place of the recipe's,
    or of `TrainConfig`'s defaults. `out` is the folder (default: under `runs`, named after the choices). `images`
    stands in for the configured data. `progress` is called with (step, steps, mean loss) at each line of the metrics.

    Raises InputError for what cannot run, before anything is written; RunError where numbers are no longer finite, the disk is
    full, or code of one's own fails; Stopped where a signal asked for it.
    """
    config = _configured(config, options, "train")
    given = None if images is None else _images(images, config, torch.device("cpu"))
    folder = default_folder(config) if out is None else Path(out).expanduser()
    return run_training(config, folder, images=given, progress=progress)


def _configured(config: TrainConfig | str | None, options: dict[str, Any], command: str) -> TrainConfig:
    """A configuration, recipe or the defaults, with `options` in place of its own. Raises InputError for what cannot run."""
    if not isinstance(config, TrainConfig):
        config = TrainConfig() if config is None else recipe(config)
    config = from_dict(asdict(config) | options, command)
    check(config)
    return config


def default_folder(config: TrainConfig) -> Path:
    """`runs/` and a name made of the choices."""
    parts = (config.data, config.network, config.loss, config.schedule, config.rule, f"seed{config.seed}")
    name = "-".join(str(part) for part in parts)
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return Path("runs") / plain[-150:].strip("_")


def load_encoder(run: Path | str, *, initial: bool = False, device: str = "cpu") -> nn.Sequential:
    """The encoder of a finished run, a plain `nn.Sequential` of layers in evaluation mode; `initial`: as it started.

    It takes float images (batch, channels, height, width) in [0, 1], standardized where the run's views did that to every
    picture; `encoder[:k]` ends at layer k.

    Raises InputError where the run began with another run's encoder (`init_from`) that is no longer there as it was, or
    with other code of a network of the user's own.
    """
    config, facts = configuration(run), read_facts(Path(run))
    refuse_other_code(run, facts, config, ["network"])
    encoder = networks.build(config.network, tuple(facts["shape"]), config.seed)
    if initial:
        refuse_other_start(run, config, facts)
        begin(encoder, config)
    else:
        networks.load_weights(encoder, read_weights(Path(run), "encoder."), run)
    return encoder.to(pick_device(device)).eval()


def load_classifier(run: Path | str, *, device: str = "cpu") -> nn.Sequential:
    """A supervised run's whole network: images to scores (batch, classes)."""
    config = configuration(run)
    encoder = load_encoder(run, device=device)
    heads = read_weights(Path(run), "heads.")
    site = max((int(name.split(".")[0]) for name in heads), default=-1)
    own = {name.partition(".")[2]: tensor for name, tensor in heads.items() if name.startswith(f"{site}.")}
    if site < 0 or not needs(make_loss(config.loss)).labels:
        raise InputError(f"{run} was trained without labels and names no classes; probe it.")
    shape = networks.shapes(encoder, tuple(read_facts(Path(run))["shape"]))[-1]
    head = networks.head(head_of(config), shape, len(own["linear.bias"]), config.seed, site, bias=True)
    networks.load_weights(head, own, run)
    return nn.Sequential(encoder, head.to(next(encoder.parameters()).device)).eval()


def _images(images: Images, config: TrainConfig, device: torch.device) -> ImageSet:
    if isinstance(images, ImageSet):
        return images
    if not isinstance(images, str | PathLike):
        raise InputError(
            f"The images are of type {type(images).__name__}; it takes an ImageSet, as load_images gives it, or what names one."
        )
    return load_images(images, root=config.data_root, download=config.download, device=device)


def _learned_from(run: Path | str, config: TrainConfig, device: torch.device) -> ImageSet:
    """The images that a run learned from. Raises InputError where there are others in their place now."""
    images = _images(config.data, config, device)
    refuse_other_images(run, read_facts(Path(run)), images)
    return images


def _fitting(images: ImageSet, run: Path | str) -> ImageSet:
    channels = read_facts(Path(run))["shape"][0]
    if images.shape[0] != channels:
        raise InputError(f"{images.name} has pictures of {images.shape[0]} channels; the run {run} takes {channels}.")
    return images


def probe(
    run: Path | str,
    train: Images,
    test: Images,
    *,
    layers: Sequence[int] | None = None,
    protocol: str = "exact",
    test_views: str | None = None,
    initial: bool = False,
    seed: int = 0,
    epochs: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[ProbeResult]:
    """Probe layers of a run's encoder (default: the last), fit on `train`, score on `test`; kept in probes.json.

    Args:
        train, test: what `load_images` gives, or takes.
        layers: counted from 1; 0 is the pixels.
        protocol: exact, paper or knn (see `evaluation.probe.probe`).
        test_views: deforms the test images by a policy, drawn once for each picture.
        initial: probe the encoder as it was before training.
        seed: of the rows that the protocol exact holds out, or of the protocol paper's weights and order; knn draws nothing.
        epochs, rate, batch: the protocol paper's alone (default: 400, 1e-3, 500).
        device, precision: where and in which numbers features are computed: auto, cpu or cuda; auto, float32 or bfloat16.
        progress: called with (what, done, total).

    What the run did to every picture alike is done to all: `size`, and such views as standardize.

    Raises InputError where a set has no labels, or does not fit the encoder; RunError where the protocol paper's weights are
    no longer finite.
    """
    if whole("seed", seed, 0) and protocol == "knn":
        raise InputError(f"seed is {seed}, and the protocol knn draws nothing; it takes no seed.")
    test_views = test_views or None
    given = {"epochs": epochs, "rate": rate, "batch": batch}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options and protocol != "paper":
        raise InputError(f"{next(iter(options))} goes with the protocol paper; the protocol {protocol} takes none.")
    place = pick_device(device)
    encoder = load_encoder(run, initial=initial, device=str(place))
    config = configuration(run)
    layers = [len(encoder)] if layers is None else layers
    results = probe_encoder(
        encoder,
        _fitting(_images(train, config, place), run),
        _fitting(_images(test, config, place), run),
        layers=layers,
        protocol=protocol,
        deform_train=seen(config),
        deform_test=seen(config, test_views),
        seed=seed,
        **options,
        precision=pick_precision(precision, place),
        progress=progress,
    )
    names = {
        part: one.name if isinstance(one, ImageSet) else os.fspath(one)
        for part, one in (("train", train), ("test", test))
    }
    rows = [r.as_dict() | names | {"test_views": test_views, "initial": initial} for r in results]
    add_probes(Path(run), rows)
    return results


def evaluate(run: Path | str, test: Images, *, test_views: str | None = None, device: str = "auto") -> float:
    """Test accuracy, in percent, of a supervised run's own classifier.

    Raises InputError for a run that learned without labels, and for images without labels, or of other classes.
    """
    place = pick_device(device)
    network = load_classifier(run, device=str(place))
    config = configuration(run)
    images = _fitting(_images(test, config, place), run)
    if images.labels is None:
        raise InputError(f"{images.name} has no labels, and an accuracy needs them.")
    scores = features([network], images, [1], deform=seen(config, test_views))[1]
    classes = read_facts(Path(run))["data"].get("classes")
    if images.labels.max() >= scores.shape[1] or (classes and images.classes and classes != images.classes):
        raise InputError(f"{images.name} has other classes than {run} was trained on; an accuracy needs the same ones.")
    return 100 * float((scores.argmax(1).cpu() == images.labels.cpu()).double().mean())


def embed(
    run: Path | str,
    images: Images,
    *,
    layer: int | None = None,
    initial: bool = False,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> Tensor:
    """The features of one layer (default: the last) for every image: float32 (images, features), flattened; `initial`: of the
    encoder as training found it.

    Raises InputError for a layer that the run does not have, for images of other channels, and where the weights are not those
    that the run wrote.
    """
    place = pick_device(device)
    encoder = load_encoder(run, initial=initial, device=str(place))
    layer = len(encoder) if layer is None else layer
    if not isinstance(layer, Integral) or isinstance(layer, bool) or not 0 <= layer <= len(encoder):
        raise InputError(f"layer is {layer!r}; the run {run} has layers 1 to {len(encoder)}, and 0 for the pixels.")
    config = configuration(run)
    loaded = _fitting(_images(images, config, place), run)
    report = partial(progress, "embedding") if progress else None
    return features(encoder, loaded, [layer], deform=seen(config), progress=report)[layer].cpu()


def distances(run: Path | str, images: Images | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """L1 distances of positive and of negative pairs in one batch of views, before training and after.

    Of the top site's embeddings; each is (positives (batch,), negatives (batch * (batch - 1),)).
    """
    config = configuration(run)
    refuse_other_start(run, config, read_facts(Path(run)))
    place = pick_device(config.device)
    loaded = _learned_from(run, config, place) if images is None else _images(images, config, place)
    found = {}
    for when in ("before", "after"):
        model = build(config, loaded)
        if when == "after":
            networks.load_weights(
                model.encoder, {**model.encoder.state_dict(), **read_weights(Path(run), "encoder.")}, run
            )
            top = model.sites[-1]
            if top.head is not None:
                prefix = f"heads.{top.index}."
                networks.load_weights(top.head, {**top.head.state_dict(), **read_weights(Path(run), prefix)}, run)
        found[when] = pairs(model, loaded)[-1]
    return found


def margins(
    config: TrainConfig | str | None = None,
    *,
    images: Images | None = None,
    batches: int = 1,
    beyond: float = 0.5,
    within: float = 0.9,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> list[Margins]:
    """Distances of a network's positive and negative pairs before training, and margins for the hinge loss by a rule.

    `config` and `options` are those of `train`; `images` stand in for the configured data. One `Margins` for each site: for all
    of the network end to end, for every layer with its head layer by layer. The rule is that of `evaluation.margins.margins`,
    whose arguments `batches` (of views to measure), `beyond` and `within` (shares between 0 and 1) are, and `progress`, which is
    told the share of the batches that are measured.

    Raises InputError for a loss that has no pairs, and for shares that are not between 0 and 1.
    """
    config = _configured(config, options, "margins")
    loaded = _images(images if images is not None else config.data, config, pick_device(config.device))
    with failures_told(config, InputError):
        return measure_margins(config, loaded, batches=batches, beyond=beyond, within=within, progress=progress)


def reproduce(
    name: str,
    *,
    scale: str = "small",
    cells: list[str] | None = None,
    seeds: int = 1,
    results: Path | str = "results",
    out: Path | str | None = None,
    merge: Path | str | None = None,
    render: bool = False,
    data_root: str | None = None,
    download: bool = False,
    workers: int | None = None,
    engine: str = "local",
    progress: Callable[[float], None] | None = None,
    **changes: Any,
) -> tuple[Table | None, Path]:
    """Run what is missing of a table or figure of the paper, and render it; returns the table, if it is one, and its page.

    Args:
        name: `table1` to `table4`, `pooling`, `supplement-b`, `supplement-c`, `figure1` to `figure9`.
        scale: paper, small, tiny, mini, smoke or digits; `changes` (see `paper.scaled`) make another of it. Where EMNIST's
            letters are to be had, and `changes` name no set, Table 4 and supplement B have them in place of MNIST's split.
        cells: some of a table's cells, by name, or `["published"]`, those that the paper has a number of; default: all. `seeds`:
            how many, from 0.
        results: folder of the results, one JSON file a cell and seed: what is there is not run again.
        out: folder of what is rendered (default: `runs/paper/NAME-SCALE`).
        merge: results of a second machine, to be copied into `results` first.
        render: run nothing.
        data_root, download: where the data sets are, and whether those that are not there are fetched, as in `train`.
        workers, engine: how many cells run side by side (default: one a core), and what runs them, as in a sweep.
        progress: told the share of the work that is done.

    Raises InputError for unknown names, and where the images cannot be had.
    """
    if name not in NAMES:
        raise InputError(f"Unknown name {name!r}; it takes {', '.join(NAMES)}.")
    whole("seeds", seeds)
    if isinstance(cells, str):
        raise InputError(f"cells is {cells!r}; it takes a list of names.")
    load = partial(load_images, root=data_root, download=download)
    scales = (TABLES[name] if name in TABLES else FIGURES[name]).scales
    picked = scaled(scales, scale, **changes)
    asked = {option: value for option, value in changes.items() if value is not None}
    if not {"encoder_set", "probe_set", "test_set"} & asked.keys():
        asked |= with_letters(picked, load)
        picked = scaled(scales, scale, **asked)
    folder = Path("runs") / "paper" / f"{name}-{picked.name}" if out is None else Path(out).expanduser()
    kept = Path(results).expanduser()
    for place in (folder, kept):
        refuse_file(place)
    if name in FIGURES:
        for option in asked:
            if option not in FIGURES[name].reads:
                raise InputError(f"Nothing of {name} depends on {option}; it takes {', '.join(FIGURES[name].reads)}.")
        of_runs = cells is not None or merge or render or workers is not None or engine != "local" or seeds > 1
        if of_runs or kept != Path("results"):
            raise InputError(
                f"{name} is drawn without runs; cells, seeds, results, merge, render, workers and engine go with "
                f"{', '.join(TABLES)}."
            )
        return None, draw(FIGURES[name], picked, folder, load)
    table = TABLES[name].at(picked)
    refuse_idle(table, scale, asked)
    check_cells(table, picked)
    chosen(table, cells)
    idle = (
        cells is not None or workers is not None or engine != "local" or seeds > 1 or download or data_root is not None
    )
    if render and idle:
        raise InputError(
            "render runs nothing and renders what there is; it goes without cells, seeds, workers, engine, data_root and download."
        )
    if merge is not None:
        merge_results(Path(merge).expanduser(), kept)
    if not render:
        run_cells(
            table,
            picked,
            range(seeds),
            kept,
            cells=cells,
            root=data_root,
            download=download,
            workers=workers,
            engine=engine,
            progress=progress,
        )
    have = found(table, picked, kept)
    return paper_results(table, picked, have), write_table(table, picked, have, folder)


def run_page_sections(run: Path | str) -> list[Section]:
    """The sections of a run's page: its curves, sample views, distances of pairs before and after, what was run."""
    config = configuration(run)
    what_was_run, *sections = run_sections(Path(run))
    try:
        images = _learned_from(run, config, torch.device("cpu"))
    except InputError as error:  # the file has been written over, say
        return [*sections, Section("Views", [Text(str(error))]), what_was_run]
    caption = f"Training images, each with views of it ({config.views})."
    sections.append(Section("Views", [Picture(figures.picture(_sample(images, config)), caption)]))
    if needs(make_loss(config.loss)).layout == "pair":
        caption = (
            "L1 distances between embeddings of two views, of one picture (positive) and of two (negative), in a batch."
        )
        try:
            found = distances(run, images)
            block: Block = Svg(figures.distances(found["before"], found["after"], *own_margins(config)), caption)
        except InputError as error:  # the encoder that it began with is gone, say
            block = Text(str(error))
        sections.append(Section("Distances of pairs", [block]))
    return [*sections, what_was_run]


def _sample(images: ImageSet, config: TrainConfig) -> Tensor:
    """A sheet of the first six images, each with eight views: uint8 (3, height, width)."""
    policy = views.parse(config.views, config.size)
    return sheet(images.batch(torch.arange(min(6, len(images)))), policy, config.seed)


def page(run: Path | str) -> Path:
    """Write a run's page anew: one self-contained HTML file in its folder. What cannot be drawn is said there.

    Raises InputError for what is no run's folder.
    """
    path = Path(run) / "page.html"
    config = configuration(run)
    write_page(
        path,
        f"saccade run {Path(run).name}",
        f"{config.loss}, {config.schedule}, {config.rule}",
        run_page_sections(run),
    )
    return path


def compare(runs: Sequence[Path | str], page: Path | str | None = None) -> Comparison:
    """Two runs or more side by side: what differs in their configurations and surroundings, and their results.

    Written as an HTML page too where `page` names a file. Raises InputError for fewer than two different runs.
    """
    if isinstance(runs, str | Path):
        raise InputError(
            f"The runs to compare are {str(runs)!r}, one path; it takes a list of two different runs or more."
        )
    found = compare_runs(runs)
    if page is not None:
        write_page(page, "saccade runs compared", ", ".join(found.names), found.sections())
    return found


def export(run: Path | str, out: Path | str, *, to: str = "huggingface", layer: int | None = None) -> Path:
    """Write a finished run's encoder for other programs, and return where: `out`.

    `to`: "huggingface", a folder with weights as safetensors, configuration and a model card, which
    `saccade.from_pretrained` reads; "onnx", a file for any ONNX runtime; "pt2", a file for `torch.export.load`. `layer`
    cuts the encoder off after that layer, counted from 1, for the last two. The files' outputs are held against the
    encoder's before they are written.

    Raises InputError for another form, a layer that is not there, a run whose views did more to every picture than scale it
    to [0, 1], and where packages that a form needs are missing.
    """
    out, run = Path(out).expanduser(), Path(run)
    if to not in EXPORTS:
        raise InputError(f"Unknown form {to!r} to export to; it takes {', '.join(EXPORTS)}.")
    encoder, config = _of_plain_pictures(run), configuration(run)
    if layer is not None and (to == "huggingface" or type(layer) is not int or not 1 <= layer <= len(encoder)):
        takes = "none, for the whole encoder" if to == "huggingface" else f"1 to {len(encoder)}"
        raise InputError(f"layer is {layer} for the form {to} of {run}; it takes {takes}.")
    if to == "huggingface":
        report: Report | None = None
        with suppress(InputError):  # of what trained on other pictures than can be had here, say: the card goes without
            report = audit(config)
        return write_pretrained(encoder, config, run, out, report)
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out} cannot be written; it takes a file in a folder that exists.")
    write = write_onnx if to == "onnx" else write_pt2
    write(encoder[:layer], picture_shape(run), out)
    return out


def brainscore_model(run: Path | str, **options: Any) -> BrainScoreModel:
    """A finished run's encoder in the form that Brain-Score takes; `options` are those of `BrainScoreModel`.

    Raises InputError for a run whose views did more to every picture than scale it to [0, 1].
    """
    return BrainScoreModel(_of_plain_pictures(run), picture_shape(Path(run)), Path(run).resolve().name, **options)


def _of_plain_pictures(run: Path | str) -> nn.Sequential:
    """A run's encoder, for programs that hand it pictures as they are, in [0, 1]."""
    if through := steady(configuration(run).views):
        raise InputError(
            f"The run {run} saw every picture through {through}, which other programs would leave out; it takes a run whose "
            "views leave it out."
        )
    return load_encoder(run)


def tensorboard(
    run: Path | str, out: Path | str | None = None, *, images: Images | None = None, count: int = 500
) -> Path:
    """Write a run for TensorBoard, and return the folder: curves, a sheet of views, histograms of the encoder's weights
    before and after training, and embeddings of `count` images. A run under way is written as far as it is.

    `out`: default `tensorboard` in the run's folder. `images`: whose embeddings; default, those it learned from. Raises
    InputError without the package tensorboard, and for a folder that holds other files.
    """
    whole("count", count)
    run = Path(run)
    config = configuration(run)
    place = torch.device("cpu")
    loaded = _learned_from(run, config, place) if images is None else _images(images, config, place)
    weights: dict[int, nn.Module] = {0: load_encoder(run, initial=True)}
    embeddings = None
    facts = read_facts(run)
    if facts.get("finished"):
        encoder = load_encoder(run)
        weights[int(facts["steps"])] = encoder
        few = _fitting(loaded, run).take(0, count)
        found = features(encoder, few, [len(encoder)], deform=seen(config))[len(encoder)]
        pictures = few.batch(torch.arange(len(few))).float() / 255
        labels = None
        if few.labels is not None:
            labels = [few.classes[k] if few.classes else str(k) for k in few.labels.tolist()]
        embeddings = (few_features(found), pictures, labels)
    return write_tensorboard(
        Path(out).expanduser() if out is not None else run / "tensorboard",
        read_metrics(run),
        config=to_yaml(config),
        sheet=_sample(loaded, config),
        weights=weights,
        embeddings=embeddings,
    )


def summary(run: Path | str) -> dict[str, Any]:
    """Where a finished run's files are, the first and last loss of its sites, and how long it took."""
    run, facts = Path(run), read_facts(Path(run))
    courses = {
        f"site {site + 1}: ": f"{points[0][1]:.4g} to {points[-1][1]:.4g}"
        for site, points in sorted(losses(read_metrics(run)).items())
    }
    said: dict[str, Any] = {"weights": run / "weights.safetensors", "metrics": run / "metrics.jsonl"}
    if courses:
        said["loss"] = "; ".join(f"{site if len(courses) > 1 else ''}{course}" for site, course in courses.items())
    return said | {"steps": facts.get("steps"), timed(facts): facts.get("seconds")}


def audit(
    config: TrainConfig | str | None = None, *, images: Images | None = None, steps: int = 3, **options: Any
) -> Report:
    """Which of the paper's plausibility conditions a configuration meets, found by running a few of its steps.

    `config` and `options` are those of `train`; loss, rule, schedule and network may be Python objects too: a function, a
    class, or a module, of which a copy is run. `images` stand in for the configured data; where those are a named set that is
    not here, the built-in digits do, for no verdict depends on what the images show. Each site learns for `steps` steps.

    >>> import torch
    >>> def squared(z_a, z_b):
    ...     return ((z_a.detach() - z_b) ** 2).sum()
    >>> report = audit(network=torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU()), loss=squared, rule="rf")
    >>> report.verdict("asymmetric")
    'met'

    Raises InputError for what cannot be trained.
    """
    with named(options) as (texts, names):
        config = _configured(config, texts, "audit")
        here = torch.device("cpu")
        if images is None:
            try:
                loaded = load_images(config.data, root=config.data_root)
            except NotHere:
                loaded = load_images("digits")
        else:
            loaded = _images(images, config, here).to(here)
        pick_device(config.device)  # refused, if there is none, as training would
        with failures_told(config, InputError):
            report = run_audit(config, loaded, steps)
    for part, name in names.items():
        report.configuration[part] = name
        report.setting = report.setting.replace(texts[part], name)
    return report


def audit_tables(
    results: Path | str = "results",
    *,
    steps: int = 3,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Audited]:
    """Audit each configuration that the paper's Tables 1 and 2 train, side by side, and the one that meets all conditions.

    Accuracies are those in the JSON files under `results`. `workers` is the number of processes (default: one a core).
    """
    return audited(Path(results), steps=steps, workers=workers, progress=progress)
