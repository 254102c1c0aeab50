"""The command line: parses, calls, prints. Nothing heavy is imported before a command needs it."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import terminal
from .config.names import EXPORTS
from .config.run import TrainConfig, check, recipe, recipes, to_yaml
from .errors import InputError, Lost, RunError, Stopped, whole
from .terminal import Parser

COMMANDS = {
    "quickstart": "train on handwritten digits without labels, compare, and write a page",
    "train": "train an encoder from a recipe or from options",
    "sweep": "train every combination of some choices, here, on a Ray cluster or in Slurm's queue",
    "probe": "evaluate layers of a run's encoder on labeled images",
    "embed": "write the features of a run's encoder",
    "views": "draw a sheet of pictures and their views",
    "margins": "measure distances of pairs before training and propose the hinge loss's margins",
    "reproduce": "run a table or figure of the paper, cell by cell, and render it beside the published numbers",
    "audit": "find what a configuration needs that a brain could not do",
    "shards": "write images as tar files that training reads in a stream, or count those that there are",
    "page": "write a run's page anew",
    "compare": "show where runs differ: configurations, surroundings, results",
    "export": "write a run's encoder for other programs: Hugging Face layout, ONNX, torch.export",
    "tensorboard": "write a run for TensorBoard: curves, views, weights, embeddings",
    "verify": "replay a run's first steps and say whether this machine reproduces them exactly",
    "list": "name all losses, schedules, rules, engines, networks, views, data and recipes",
}

EXIT_CODES = "Exit codes: 0 done; 1 the run failed; 2 bad input; 130 stopped, what was done is saved."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the run failed, 2 bad input, 130 stopped and saved."""
    argv = list(sys.argv[1:] if argv is None else argv)
    sys.path.insert(0, "")  # dotted paths of the user's own reach modules in the current folder
    try:
        return _dispatch(argv)
    except (InputError, RunError, Stopped) as error:
        if error.first if isinstance(error, Lost) else _speaks():
            print(f"saccade: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 130 if isinstance(error, Stopped) else 1
    except KeyboardInterrupt:
        print("saccade: stopped; what was written is whole.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return 0
    except OSError as error:  # a disk that fills up, or a file that goes away, under a command
        print(f"saccade: {error.filename or 'a file'} cannot be used: {error.strerror}.", file=sys.stderr)
        return 1


def _speaks() -> bool:
    """Whether this is the only process, or the first of those that torchrun started: the others print nothing."""
    return os.environ.get("RANK", "0") == "0"


def _dispatch(argv: list[str]) -> int:
    if argv == ["--version"]:
        from . import __version__

        print(f"saccade {__version__}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(
            "usage: saccade COMMAND [options]\n\nSelf-supervised learning by biologically plausible rules.\n\ncommands:"
        )
        print("\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()))
        print("\nsaccade COMMAND --help explains each.")
        print("saccade --print_completion bash (zsh, tcsh) writes the shell's completion.")
        print(f"{EXIT_CODES}\nOutput that is not shown on a terminal has no colour, nor has any where NO_COLOR is set.")
        return 0
    if argv[0] == "--print_completion":
        from . import completion

        print(completion.script(argv[1:], {command: _parser_of(command) for command in COMMANDS}, COMMANDS), end="")
        return 0
    command, rest = argv[0], argv[1:]
    handler: Callable[[list[str]], int] | None = globals().get(f"_{command}") if command in COMMANDS else None
    if handler is None:
        raise InputError(f"Unknown command {command!r}; it takes {', '.join(COMMANDS)}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command != "train":
        raise InputError(f"saccade {command} was started as several processes; it takes one (train takes several).")
    return handler(rest)


def _parser(command: str, epilog: str = "", **options: Any) -> Parser:
    said = COMMANDS[command]
    described, told = f"{said[0].upper()}{said[1:]}.", f"{epilog} {EXIT_CODES}".strip()
    return Parser(prog=f"saccade {command}", description=described, epilog=told, **options)


_WHILE_TRAINING = ("epochs", "deterministic", "diagnostics", "checkpoint_seconds", "negatives", "divide")


def _parser_with_recipe(command: str, unread: Sequence[str] = (), **options: Any) -> Parser:
    """The parser of a command that takes a recipe, its fields but those that the command would not read, and what it adds."""
    epilog = f"RECIPE is a YAML file or one of: {', '.join(recipes())}. Options stand above it."
    parser = _parser(command, epilog, usage=f"saccade {command} [RECIPE] [options]", **options)
    parser.add_argument(
        "--config", type=str | None, default=None, help=f"a recipe; saccade {command} RECIPE is the same"
    )
    parser.add_class_arguments(TrainConfig, nested_key=None, skip=set(unread))
    return parser


def _parser_of(command: str) -> Parser:
    try:
        globals()[f"_{command}"](terminal.ASK)
    except terminal.Asked as asked:
        return asked.parser
    raise AssertionError(f"{command} parses nothing")


# ------------------------------------------------------------------------------------------------------------- commands


def _train(argv: list[str]) -> int:
    parser = _parser_with_recipe("train", print_config=None)
    parser.add_argument("--out", type=str | None, default=None, help="folder of the run (default: under runs/)")
    parser.add_argument(
        "--dry_run", type=bool, default=False, help="show parameters, memory and estimated time, train nothing"
    )
    parser.add_argument("--print_config", type=bool, default=False, help="write the recipe on standard output and stop")
    terminal.add_flags(parser)
    given = terminal.parse_with_recipe(parser, argv)
    out, dry, show, as_json, quiet = (given.pop(name) for name in ("out", "dry_run", "print_config", "json", "quiet"))
    config = TrainConfig(**given)
    check(config)
    if show and (dry or out is not None):
        raise InputError("--print_config writes the recipe and stops; it goes without --dry_run and --out.")
    if show:
        print(json.dumps(asdict(config), indent=2) + "\n" if as_json else to_yaml(config), end="")
        return 0
    from . import api, progress

    if dry:
        terminal.tell(api.dry_run(config), as_json, quiet=False)
        return 0
    with progress.bar("training", quiet or not _speaks()) as update:
        run = api.train(config, out=out, progress=update)
    if _speaks():
        terminal.tell({"run": run, **api.summary(run), "page": api.page(run)}, as_json, quiet)
    return 0


def _sweep(argv: list[str]) -> int:
    epilog = (
        f"RECIPE is a YAML file or one of: {', '.join(recipes())}; VARIATIONS are fields and lists of values, such as "
        "rate=[1e-4,3e-4]."
    )
    parser = _parser("sweep", epilog=epilog)
    parser.add_argument("recipe", type=str, help="where all runs begin")
    parser.add_argument(
        "variations",
        type=str,
        nargs="*",
        help="what is varied: FIELD=[VALUE, VALUE, ...] or FIELD,FIELD=[[VALUE, VALUE], ...]",
    )
    terminal.add_int(parser, "--seeds", 1, "how many seeds, from the recipe's on")
    parser.add_argument("--engine", type=str, default="local", help=_ENGINE)
    parser.add_argument("--out", type=str, default="runs/sweep", help="folder of the runs")
    parser.add_argument("--train", type=str | None, default=None, help="labeled images to fit a linear probe on")
    parser.add_argument("--test", type=str | None, default=None, help="labeled images to score the probe on")
    parser.add_argument("--test_views", type=str | None, default=None, help="deform the test images by this policy")
    terminal.add_format(parser)
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    form = terminal.known_format(given.format, given.json)
    whole("seeds", given.seeds)
    if (given.train is None) != (given.test is None):
        raise InputError("A probe takes both --train and --test.")
    if given.test_views is not None and given.test is None:
        raise InputError("--test_views goes with a probe, which takes --train and --test.")
    base = recipe(given.recipe)
    from . import progress, sweep

    varied, out = sweep.parse(given.variations), Path(given.out).expanduser()
    sweep.runs(base, varied, given.seeds)  # what cannot run is refused before anything does
    probe = None if given.train is None else sweep.Probe(given.train, given.test, given.test_views)
    with progress.share("sweep", given.quiet) as update:
        found = sweep.run(base, varied, out, seeds=given.seeds, engine=given.engine, probe=probe, progress=update)
    terminal.show(found, {"runs": out, "results": out / "sweep.json"}, form, given.quiet)
    return 0


_ENGINE = 'what runs them: local, "local(workers=2)", "ray(address=\'10.0.0.1:6379\', gpus=0.25)", "slurm(partition=gpu, gpus=1)"'


def _layers(text: str, run: str) -> list[int] | None:
    if text == "last":
        return None
    if text == "all":
        from . import api

        return list(range(1, len(api.load_encoder(run)) + 1))
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"layers is {text!r}; it takes all, last, or numbers such as 1,3,5.") from None


def _probe(argv: list[str]) -> int:
    parser = _parser("probe")
    parser.add_argument("run", type=str, help="folder of a finished run")
    parser.add_argument("--train", type=str, required=True, help="labeled images to fit on")
    parser.add_argument("--test", type=str, required=True, help="labeled images to score on")
    parser.add_argument(
        "--layers", type=str, default="last", help="all, last, or numbers such as 1,3,5; 0 is the pixels"
    )
    parser.add_argument("--protocol", type=str, default="exact", help="exact, paper or knn")
    parser.add_argument("--test_views", type=str | None, default=None, help="deform the test images by this policy")
    parser.add_argument("--initial", type=bool, default=False, help="probe the encoder as it was before training")
    terminal.add_int(parser, "--epochs", None, "of the protocol paper (default: 400)")
    parser.add_argument("--rate", type=float | None, default=None, help="of the protocol paper (default: 0.001)")
    terminal.add_int(parser, "--batch", None, "of the protocol paper (default: 500)")
    terminal.add_int(parser, "--seed", 0, "of the probe's draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv).as_dict()
    as_json, quiet, run = given.pop("json"), given.pop("quiet"), given.pop("run")
    from . import api, progress
    from .report.tables import Table, to_terminal

    with progress.steps(quiet) as update:
        results = api.probe(run, **{**given, "layers": _layers(given["layers"], run)}, progress=update)
    if as_json:
        print(json.dumps([result.as_dict() for result in results], indent=2))
        return 0
    header = ["layer", "features", "protocol", "training images", "test accuracy (%)"]
    rows: list[list[Any]] = [
        [str(r.layer), r.features, r.protocol, str(r.train_size), round(r.accuracy, 2)] for r in results
    ]
    terminal.console().print(to_terminal(Table(header, rows, f"{run}, seed {given['seed']}")))
    terminal.tell({"kept in": Path(run) / "probes.json"}, False, quiet)
    return 0


def _embed(argv: list[str]) -> int:
    parser = _parser("embed")
    parser.add_argument("run", type=str, help="folder of a finished run")
    parser.add_argument("data", type=str, help="images")
    terminal.add_int(parser, "--layer", None, "layer, counted from 1 (default: the last)")
    parser.add_argument("--initial", type=bool, default=False, help="the encoder as training found it")
    parser.add_argument("--out", "-o", type=str, default="embeddings.npz", help="file to write")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    target = terminal.writable(given.out)
    import io

    import numpy as np

    from . import api, progress
    from .files import write_whole

    images = api.load_images(given.data, root=api.configuration(given.run).data_root)
    with progress.steps(given.quiet) as update:
        found = api.embed(
            given.run, images, layer=given.layer, initial=given.initial, device=given.device, progress=update
        )
    arrays = {"embeddings": found.numpy()}
    if images.labels is not None:
        arrays["labels"] = images.labels.numpy()
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # an array might be named allow_pickle
    write_whole(target, content.getvalue())
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    terminal.tell({"embeddings": given.out, "arrays": shapes}, given.json, given.quiet)
    return 0


def _views(argv: list[str]) -> int:
    parser = _parser("views")
    parser.add_argument("data", type=str, help="images")
    parser.add_argument("--views", type=str, default="paper", help="a policy or a list of deformations")
    parser.add_argument("--alone", type=bool, default=False, help="each deformation alone (the paper's Figure 2)")
    terminal.add_int(parser, "--size", None, "side of the views in pixels")
    terminal.add_int(parser, "--rows", 8, "pictures")
    terminal.add_int(parser, "--count", None, "views of each (default: 8)")
    terminal.add_int(parser, "--seed", 0, "of the draws")
    parser.add_argument("--out", "-o", type=str, default="views.png", help="file to write")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    if given.alone and given.count is not None:
        raise InputError("--alone draws each deformation once; it goes without --count.")
    count = 8 if given.count is None else given.count
    for name, value in (("rows", given.rows), ("count", count)):
        whole(name, value, 1, 200)
    whole("seed", given.seed, 0, 2**63 - 1)
    if given.size is not None:
        whole("size", given.size, 1, 1024)
    from . import api
    from .files import write_whole
    from .views import parse
    from .views.sheet import as_png, deformation_sheet, sheet

    images = api.load_images(given.data)
    policy = parse(given.views, given.size)
    import torch

    picked = images.batch(torch.arange(min(given.rows, len(images))))
    made = (
        deformation_sheet(picked, policy, given.seed, given.rows)
        if given.alone
        else sheet(picked, policy, given.seed, given.rows, count)
    )
    write_whole(terminal.writable(given.out), as_png(made))
    terminal.tell({"views": given.out}, given.json, given.quiet)
    return 0


def _audit(argv: list[str]) -> int:
    parser = _parser_with_recipe("audit", (*_WHILE_TRAINING, "device", "precision", "init_from", "download"))
    parser.add_argument(
        "--all", type=bool, default=False, help="every configuration of the paper's Tables 1 and 2, and nothing else"
    )
    parser.add_argument(
        "--results", type=str | None, default=None, help="with --all: folder of the accuracies (results)"
    )
    parser.add_argument("--steps", type=int, default=3, help="real steps that each layer or network learns for")
    parser.add_argument(
        "--format", type=str, default="terminal", help="terminal, markdown or json (--json is the same)"
    )
    parser.add_argument("--page", type=str | None, default=None, help="write an HTML page to this file")
    terminal.add_flags(parser)
    given = terminal.parse_with_recipe(parser, argv)
    form = terminal.known_format(given["format"], given.pop("json"), ("terminal", "markdown", "json"))
    every, results, steps, _, page, quiet = (
        given.pop(name) for name in ("all", "results", "steps", "format", "page", "quiet")
    )
    if every and TrainConfig(**given) != TrainConfig():
        raise InputError("--all audits the paper's tables; it takes no recipe and no option of a run.")
    if results is not None and not every:
        raise InputError("--results goes with --all, which sets accuracies beside the paper's cells.")
    target = None if page is None else terminal.writable(page)
    from . import api, progress
    from .report import audit as report
    from .report.tables import to_markdown, to_terminal
    from .training.folder import surroundings

    caption = "What each configuration needs, found by running a thin copy of it"
    if every:
        with progress.share("audits", quiet) as update:
            audited = api.audit_tables(results or "results", steps=steps, progress=update)
        table, data = report.matrix(audited, caption), {"audits": report.as_data(audited)}
        sections = report.sections(audited, caption)
        facts = {}
    else:
        found = api.audit(TrainConfig(**given), steps=steps)
        table, data, facts = report.verdicts(found), found.as_dict(), report.facts(found)
        sections = [report.section(found, found.name)]
    if form == "json":
        print(json.dumps(data | surroundings(), indent=1))
    elif form == "markdown":
        print(to_markdown(table), end="")
    else:
        terminal.console().print(to_terminal(table))
    for name, fact in facts.items() if form != "json" else ():
        print(f"{'* ' if form == 'markdown' else ''}{name}: {'; '.join(fact) if isinstance(fact, list) else fact}")
    if target is not None:
        from .report.page import write_page

        write_page(target, "Plausibility audit", caption, sections)
        terminal.tell({"page": target}, False, quiet, sys.stderr)
    return 0


def _shards(argv: list[str]) -> int:
    parser = _parser("shards", usage="saccade shards DATA OUT [--per N], or saccade shards FOLDER")
    parser.add_argument(
        "data", type=str, help="images; without OUT, a folder of shards to count and list in its index.json"
    )
    parser.add_argument("out", type=str | None, nargs="?", default=None, help="new folder to write")
    terminal.add_int(parser, "--per", None, "pictures a shard (default: 10000)")
    parser.add_argument("--data_root", type=str | None, default=None, help="folder of the data sets")
    parser.add_argument("--download", type=bool, default=False, help="fetch a data set that is not there")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    from . import data

    if given.out is None:
        if given.per is not None or given.data_root is not None or given.download:
            raise InputError(
                "per, data_root and download go with OUT, the folder to write; without it, shards are counted."
            )
        terminal.tell({"index": data.write_index(Path(given.data))}, given.json, given.quiet)
        return 0
    images = data.load(given.data, root=given.data_root, download=given.download)
    out = data.write_shards(images, Path(given.out).expanduser(), **({} if given.per is None else {"per": given.per}))
    terminal.tell(
        {"shards": out, "pictures": len(images), "train": f"saccade train --data shards:{out}"}, given.json, given.quiet
    )
    return 0


def _page(argv: list[str]) -> int:
    parser = _parser("page")
    parser.add_argument("run", type=str, help="folder of a finished run")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    from . import api

    terminal.tell({"page": api.page(given.run)}, given.json, given.quiet)
    return 0


def _compare(argv: list[str]) -> int:
    parser = _parser("compare")
    parser.add_argument("runs", type=str, nargs="+", help="folders of two runs or more")
    parser.add_argument("--page", type=str | None, default=None, help="write an HTML page to this file")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    target = None if given.page is None else terminal.writable(given.page)
    from . import api
    from .report.tables import to_terminal

    found = api.compare(given.runs, target)
    if given.json:
        print(json.dumps(found.as_dict(), indent=2))
        return 0
    for table in found.tables():
        terminal.console().print(to_terminal(table))
    terminal.tell({} if target is None else {"page": target}, False, given.quiet)
    return 0


def _export(argv: list[str]) -> int:
    parser = _parser("export", usage="saccade export RUN [--to FORM] [--layer LAYER] OUT")
    parser.add_argument("run", type=str, help="folder of a finished run")
    parser.add_argument("out", type=str, help="folder (huggingface) or file (onnx, pt2) to write")
    parser.add_argument("--to", type=str, default="huggingface", help=", ".join(EXPORTS))
    terminal.add_int(parser, "--layer", None, "cut off after this layer, counted from 1 (default: the last)")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    from . import api

    terminal.tell({given.to: api.export(given.run, given.out, to=given.to, layer=given.layer)}, given.json, given.quiet)
    return 0


def _tensorboard(argv: list[str]) -> int:
    parser = _parser("tensorboard")
    parser.add_argument("run", type=str, help="folder of a run, finished or under way")
    parser.add_argument("--data", type=str | None, default=None, help="images to embed (default: those of the run)")
    terminal.add_int(parser, "--count", 500, "how many of them")
    parser.add_argument(
        "--out", "-o", type=str | None, default=None, help="folder (default: tensorboard, in the run's)"
    )
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    from . import api

    out = api.tensorboard(given.run, given.out, images=given.data, count=given.count)
    terminal.tell({"events": out, "show": f"tensorboard --logdir {out}"}, given.json, given.quiet)
    return 0


def _verify(argv: list[str]) -> int:
    parser = _parser("verify")
    parser.add_argument("run", type=str, help="folder of a run")
    terminal.add_int(parser, "--rows", 3, "logged losses to replay")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    from . import api, progress

    with progress.bar("replay", given.quiet) as update:
        verdict = api.verify(given.run, rows=given.rows, progress=update)
    if given.json or not given.quiet:  # the exit code says it too
        print(json.dumps(asdict(verdict), indent=2) if given.json else verdict.said)
    return 0 if verdict.exact else 1


def _list(argv: list[str]) -> int:
    parser = _parser("list")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    from .config.data_names import DATA
    from .config.grammar import Call
    from .config.names import ENGINES, LOSSES, NETWORKS, OPTIMIZERS, RULES, SCHEDULES
    from .config.view_names import DEFORMATIONS, POLICIES

    named: dict[str, Any] = {"losses": LOSSES, "schedules": SCHEDULES, "rules": RULES, "optimizers": OPTIMIZERS}
    named |= {"engines": ENGINES, "networks": NETWORKS, "views": POLICIES, "deformations": DEFORMATIONS, "data": DATA}
    found: dict[str, dict[str, str]] = {
        title: {name: entry.line for name, entry in table.items()} for title, table in named.items()
    }
    found["recipes"] = {name: path.read_text().splitlines()[0].lstrip("# ") for name, path in recipes().items()}
    if given.json:
        print(json.dumps(found, indent=2))
        return 0
    for title, lines in found.items():
        print(title)
        for name, line in lines.items():
            print(f"  {name:<16} {line}")
            with_options = title in ("losses", "schedules", "rules", "optimizers", "engines")
            options = named[title][name].options if with_options else {}
            for option, about in options.items():
                print(f"  {'':<16}   {option}={about.default}: {about.help}")
            if title in ("views", "deformations") and (defaults := named[title][name].defaults):
                print(f"  {'':<16}   {Call(name, (), defaults)}")
    return 0


def _quickstart(argv: list[str]) -> int:
    parser = _parser("quickstart")
    terminal.add_int(parser, "--seeds", 3, "how many seeds")
    parser.add_argument("--all", type=bool, default=False, help="rows for the other schedules and rules too")
    parser.add_argument("--out", type=str, default="runs/quickstart", help="folder of the runs and the page")
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv)
    whole("seeds", given.seeds)
    from . import progress, quickstart
    from .report.tables import to_terminal

    with progress.share("quickstart", given.quiet) as update:
        table, page = quickstart.run(Path(given.out).expanduser(), given.seeds, everything=given.all, progress=update)
    results = page.with_name("results.json")
    if given.json:
        print(results.read_text(), end="")
        return 0
    terminal.console().print(to_terminal(table))
    terminal.tell({"runs": given.out, "results": results, "page": page}, False, given.quiet)
    return 0


def _margins(argv: list[str]) -> int:
    parser = _parser_with_recipe("margins", (*_WHILE_TRAINING, "rule", "optimizer", "rate"))
    terminal.add_int(parser, "--batches", 1, "batches of views to measure")
    parser.add_argument(
        "--beyond", type=float, default=0.5, help="share of positive pairs that m1 is to leave beyond it"
    )
    parser.add_argument(
        "--within", type=float, default=0.9, help="share of negative pairs that m2 is to have within it"
    )
    parser.add_argument("--figure", type=str | None, default=None, help="write the histograms to this SVG file")
    terminal.add_format(parser)
    terminal.add_flags(parser)
    given = terminal.parse_with_recipe(parser, argv)
    batches, beyond, within, figure, quiet = (
        given.pop(name) for name in ("batches", "beyond", "within", "figure", "quiet")
    )
    form = terminal.known_format(given.pop("format"), given.pop("json"))
    target = None if figure is None else terminal.writable(figure)
    config = TrainConfig(**given)
    check(config)
    from . import api, progress
    from .files import write_whole
    from .report import margins

    with progress.share("batches", quiet) as update:
        found = api.margins(config, batches=batches, beyond=beyond, within=within, progress=update)
    if target is not None:
        write_whole(target, margins.figure(found, config).encode())
    table = margins.table(found, config, beyond, within)
    terminal.show(table, {} if target is None else {"figure": target}, form, quiet)
    return 0


def _reproduce(argv: list[str]) -> int:
    parser = _parser("reproduce")
    parser.add_argument(
        "name", type=str, help="table1 to table4, pooling, supplement-b, supplement-c, figure1 to figure9"
    )
    parser.add_argument("--scale", type=str, default="small", help="paper, small, tiny, mini, digits or smoke")
    parser.add_argument(
        "--cells",
        type=str | None,
        default=None,
        help="names with commas between, or published, those that the paper has numbers of (default: all; a wrong name lists them)",
    )
    terminal.add_int(parser, "--seeds", 1, "how many seeds")
    changes = {
        "views": (str, "paper, affine-hsv, or a list of deformations"),
        "negatives": (str, "how few negatives are read: paper or authors"),
        "readings": (
            str,
            'options of the cells\' losses and rules, such as "dtp(order=targets) clapp(reduction=mean)"',
        ),
        "m1": (float, "the hinge's margin for positives"),
        "m2": (float, "the hinge's margin for negatives"),
        "pairs": (int, "pairs of views a layer"),
        "batch": (int, "pictures a step"),
        "rate": (float, "learning rate"),
        "dtp_rate": (float, "that of DTP's layers"),
        "supervised_epochs": (float, "of the networks with labels, on the largest set"),
        "probe_epochs": (int, "passes of the probe over its pictures"),
        "probe_batch": (int, "pictures a step of the probe"),
        "probe_views": (str, "views of the probe's pictures, drawn anew at each epoch"),
        "strength": (float, "of the deformed test images: p, or a factor of the digits' deformations"),
        "test_views": (str, "the test images' views"),
        "precision": (str, "of the arithmetic: auto, float32 or bfloat16"),
        "encoder_set": (str, "pictures that encoders learn from"),
        "probe_set": (str, "pictures that classifiers learn from"),
        "test_set": (str, "pictures to be classified"),
    }
    for option, (kind, about) in changes.items():
        parser.add_argument(f"--{option}", type=kind | None, default=None, help=f"{about} (default: the scale's)")
    terminal.add_int(parser, "--workers", None, "processes side by side (default: one a core, or one on a GPU)")
    parser.add_argument("--engine", type=str, default="local", help=_ENGINE)
    parser.add_argument("--results", type=str, default="results", help="folder of the results")
    parser.add_argument(
        "--merge", type=str | None, default=None, help="a second machine's results, to be copied there first"
    )
    parser.add_argument("--render", type=bool, default=False, help="run nothing, render what there is")
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder of tables, figures and page (default: under runs/)"
    )
    parser.add_argument("--data_root", type=str | None, default=None, help="folder of the data sets")
    parser.add_argument("--download", type=bool, default=False, help="fetch data sets that are not there")
    terminal.add_format(parser)
    terminal.add_flags(parser)
    given = terminal.parse(parser, argv).as_dict()
    form = terminal.known_format(given.pop("format"), given.pop("json"))
    quiet, name, cells = (given.pop(option) for option in ("quiet", "name", "cells"))
    from . import api, progress
    from .paper import FIGURES

    if name in FIGURES and form not in ("terminal", "json"):
        raise InputError(f"{name} has no table to print as {form}; it takes terminal or json.")

    with progress.share(name, quiet) as update:
        names = None if cells is None else [cell.strip() for cell in cells.split(",")]
        table, page = api.reproduce(name, cells=names, progress=update, **given)
    kept = {} if table is None else {"results": given["results"]}
    terminal.show(table, kept | {"rendered": page.parent, "page": page}, form, quiet)
    return 0
