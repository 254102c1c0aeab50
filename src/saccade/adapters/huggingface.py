"""The layout in which Hugging Face keeps models: `model.safetensors`, `config.json`, and a model card as `README.md`.

The card is made from the run: what it learned from, how, by which seeds, what its audit found, what its probes scored. A
section of which the run has nothing is not there. Nothing is pickled, and nothing here opens a network connection.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize
from torch import nn

from .. import __version__, networks
from ..config.grammar import is_dotted
from ..config.run import INCIDENTAL, TrainConfig, head_of, network_of
from ..data.memory import read_bounded
from ..errors import InputError
from ..files import write_whole
from ..plausibility.verdict import CONDITIONS, Report
from ..report.run import probe_tables
from ..report.tables import Cell, Table, number_text, to_markdown
from ..training.checkpoint import portable
from ..training.folder import losses, picture_shape, read_facts, read_json, read_metrics, timed

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
CITATION = """@article{tang2022biologically,
  title = {Biologically Plausible Training Mechanisms for Self-Supervised Learning in Deep Networks},
  author = {Tang, Mufeng and Yang, Yibo and Amit, Yali},
  journal = {Frontiers in Computational Neuroscience},
  volume = {16},
  year = {2022},
  doi = {10.3389/fncom.2022.789253}
}"""


def write_pretrained(
    encoder: nn.Sequential, config: TrainConfig, run: Path, folder: Path, audit: Report | None = None
) -> Path:
    """Write the encoder of a finished run to `folder`, which is new, empty, or holds an earlier export.

    Raises InputError for a folder with other files.
    """
    facts = read_facts(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be used ({error.strerror}); it takes one to write to.") from None
    if names - {WEIGHTS, CONFIG, CARD} or (CONFIG in names and _config(folder).get("model_type") != "saccade"):
        raise InputError(f"The folder {folder} holds other files; it takes a new or empty folder.")
    training = {name: value for name, value in asdict(config).items() if name not in (*INCIDENTAL, "init_from")}
    content = {
        "model_type": "saccade",
        "saccade_version": __version__,
        "network": network_of(config),  # whatever a later version calls these layers
        "image_shape": facts["shape"],
        "training": training,
    }
    write_whole(folder / WEIGHTS, serialize(portable(encoder.state_dict()), {"format": "pt"}))
    write_whole(folder / CONFIG, (json.dumps(content, indent=2) + "\n").encode())
    write_whole(folder / CARD, card(encoder, config, run, folder.resolve().name, audit).encode())
    return folder


def from_pretrained(folder: Path | str, *, trust: bool = False) -> nn.Sequential:
    """The encoder that `saccade export RUN --to huggingface FOLDER` wrote: layers in evaluation mode, no network needed.

    A folder from elsewhere may name a network by a dotted path, and building that runs code on this machine: it takes
    `trust=True`.

    >>> import saccade, tempfile, torch
    >>> options = {"data": "digits[:40]", "views": "digits", "network": "conv4 maxpool", "epochs": 1, "batch": 20}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = saccade.train(**options, out=f"{folder}/run")
    ...     encoder = saccade.from_pretrained(saccade.export(run, f"{folder}/model", to="huggingface"))
    >>> encoder(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 4, 14, 14])

    Raises InputError for a folder that does not hold such an export, whole.
    """
    folder = Path(folder)
    config = _config(folder)
    network, shape = config.get("network"), config.get("image_shape")
    sizes = tuple(shape) if isinstance(shape, list) else ()
    whole = len(sizes) == 3 and all(type(n) is int and 0 < n < 1 << 16 for n in sizes)
    if config.get("model_type") != "saccade" or not isinstance(network, str) or not whole:
        raise InputError(f"{folder / CONFIG} is not what saccade writes; it takes a folder that saccade exported.")
    if is_dotted(network) and not trust:
        raise InputError(f"{folder} names its network as the code {network}, which would be run; it takes trust=True.")
    encoder = networks.build(network, sizes)
    try:
        tensors = parse_tensors(read_bounded(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder / WEIGHTS} cannot be read ({error}); it takes a folder that saccade exported."
        ) from None
    networks.load_weights(encoder, tensors, folder)
    return encoder.eval()


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / CONFIG, "a folder that saccade exported")


def card(encoder: nn.Sequential, config: TrainConfig, run: Path, name: str, audit: Report | None = None) -> str:
    """The model card, Markdown under a YAML head."""
    facts, sides = read_facts(run), picture_shape(run)
    shape = "x".join(map(str, sides))
    weights = sum(p.numel() for p in encoder.parameters())
    head = {
        "library_name": "saccade",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["self-supervised-learning", "biologically-plausible", *_choices(config)],
    }
    said = (
        f"An encoder of {len(encoder)} layers and {weights:,} weights for images of {shape} (channels, height, width), "
        f"trained on {facts['data'].get('name')} with the loss `{config.loss}`, the schedule `{config.schedule}` and the "
        f"update rule `{config.rule}`."
    )
    use = (
        "```python\nimport saccade\nimport torch\n\n"
        f'encoder = saccade.from_pretrained("{name}")  # a torch.nn.Sequential in evaluation mode\n'
        f"features = encoder(torch.zeros(1, {', '.join(map(str, sides))}))  # images in [0, 1]\n```"
    )
    sections = {
        "Use": use,
        "Data": _table({name: facts["data"].get(name) for name in ("name", "images", "sha256")}),
        "Training protocol": _table(_protocol(config, facts)),
        "Seeds": f"Seed {config.seed} fixes initial weights, order, views and every other draw.",
        "Audit": "" if audit is None else _audited(audit),
        "Results": "\n".join([*_losses(run), *map(to_markdown, probe_tables(run))]),
        "Where it ran": _table(_surroundings(facts)),
        "Citation": f"```bibtex\n{CITATION}\n```",
    }
    body = "\n".join(f"## {title}\n\n{text.strip()}\n" for title, text in sections.items() if text)
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {name}\n\n{said}\n\n{body}"


def _choices(config: TrainConfig) -> list[str]:
    return [choice.partition("(")[0] for choice in (config.loss, config.schedule, config.rule)]


def _table(values: dict[str, Any]) -> str:
    rows: list[list[Cell]] = [[name, _said(value)] for name, value in values.items() if value is not None]
    return to_markdown(Table(["", ""], rows, "")) if rows else ""


def _said(value: Any) -> str:
    return f"{value:,}" if type(value) is int else f"{value:g}" if isinstance(value, float) else str(value)


def _protocol(config: TrainConfig, facts: dict[str, Any]) -> dict[str, Any]:
    names = ("views", "size", "network", "loss", "schedule", "rule", "optimizer", "rate", "epochs", "batch")
    values = {name: getattr(config, name) for name in names} | {"head": head_of(config)}
    return values | {name: facts.get(name) for name in ("steps", "precision")}


def _audited(audit: Report) -> str:
    rows: list[list[Cell]] = [
        [said, audit.verdict(condition), ", ".join(audit.blamed(condition)) or "no part"]
        for condition, said in CONDITIONS.items()
    ]
    caption = "What the configuration needs that a brain could not do, found by running a thin copy of it"
    return to_markdown(Table(["condition", "verdict", "violated by"], rows, caption))


def _losses(run: Path) -> list[str]:
    """The first and last mean loss of every site."""
    return [
        f"Training loss of site {site + 1}: {number_text(points[0][1], 2)} at first, {number_text(points[-1][1], 2)} at the end.\n"
        for site, points in sorted(losses(read_metrics(run)).items())
    ]


def _surroundings(facts: dict[str, Any]) -> dict[str, Any]:
    versions, hardware = facts.get("versions", {}), facts.get("hardware", {})
    return {
        "date": facts.get("date"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()) or None,
        "hardware": ", ".join(
            f"{number} {name}" if isinstance(number, int) else str(number) for name, number in hardware.items()
        )
        or None,
        "device": facts.get("device"),
        timed(facts): facts.get("seconds"),
        "pairs per second": facts.get("pairs_per_second"),
    }
