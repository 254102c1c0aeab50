"""A run's folder: one configuration, one writer, its metrics as JSON lines.

config.yaml            the full configuration
run.json               command, versions, hardware, source tree, data, sizes, and how the run ended
metrics.jsonl          one line a measurement: step, site, loss, ...
checkpoint-*           the last two, while the run is under way, and any that was found damaged
weights.safetensors    encoder and heads, when it has ended
probes.json            its probes, one row a layer
page.html              the same as one page
"""

import datetime
import fcntl
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..config.run import INCIDENTAL, TrainConfig, read_recipe, to_yaml
from ..data import ImageSet
from ..data.memory import read_bounded
from ..errors import Held, InputError
from ..files import refusal, write_whole


@contextmanager
def claimed(folder: Path, config: TrainConfig) -> Iterator[Path]:
    """The folder, made if need be, held by this process alone. Raises InputError where another run has it.

    The system drops the lock of a process that dies, so a stale one is taken over.
    """
    new, unlocked = not os.path.exists(folder), not os.path.exists(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except (OSError, ValueError) as error:
        raise InputError(
            f"The output folder {str(folder)!r} cannot be used ({error}); it takes a folder that can be written."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(
                f"The output folder {folder} is being written by another process; it takes one at a time."
            ) from None
        except OSError as error:
            raise InputError(
                f"The output folder {folder} cannot be locked ({error.strerror}); it takes a file system with locks."
            ) from None
        recipe = folder / "config.yaml"
        if recipe.exists():
            if changed := differences(settled(read_config(folder)), settled(config)):
                raise InputError(
                    f"The output folder {folder} holds another run ({changed}); it takes the same configuration "
                    "or a new folder."
                )
        elif any(path.name != ".lock" and path.suffix != ".part" for path in folder.iterdir()):  # .part: it died there
            if unlocked:
                (folder / ".lock").unlink()
            raise InputError(
                f"The output folder {folder} holds other files and no run; it takes a new or empty folder."
            )
        try:
            yield folder
        finally:
            if new and not recipe.exists():  # nothing came of it
                (folder / ".lock").unlink(missing_ok=True)
                if not any(folder.iterdir()):
                    folder.rmdir()


def settled(config: TrainConfig) -> dict[str, Any]:
    """What decides the numbers of a run: its configuration but for where it is computed and how it is watched."""
    return {name: value for name, value in asdict(config).items() if name not in INCIDENTAL}


def timed(facts: dict[str, Any]) -> str:
    """What a run's `seconds` are: of all its steps, or of those since it was last continued.

    >>> timed({"resumed_at": 1200})
    'seconds from step 1,200 on'
    """
    return f"seconds from step {facts['resumed_at']:,} on" if facts.get("resumed_at") else "seconds"


def refuse_other_images(run: Path | str, facts: dict[str, Any], images: ImageSet) -> None:
    """Raises InputError where the images are not those that a run learned from."""
    if images.fingerprint() != facts["data"].get("sha256"):
        raise InputError(
            f"The images {images.name} are not those that {run} learned from (their hashes differ); it takes the same images "
            "or a new run."
        )


def differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What both have and where they differ, in words; empty where they do not.

    >>> differences({"rate": 0.1, "seed": 0}, {"rate": 0.2, "seed": 0, "batch": 10})
    'rate: 0.1 there, 0.2 now'
    """
    return "; ".join(f"{k}: {v} there, {after[k]} now" for k, v in before.items() if k in after and v != after[k])


def configuration(run: Path | str) -> TrainConfig:
    """The configuration of a run's folder. Raises InputError where there is none."""
    if not os.path.exists(Path(run) / "config.yaml"):
        raise InputError(f"{run} is no run's folder: it has no config.yaml; it takes what train wrote.")
    return read_config(Path(run))


def read_config(folder: Path) -> TrainConfig:
    """A run's configuration. Raises InputError where config.yaml was changed after the run had begun."""
    config = read_recipe(folder / "config.yaml")
    began = read_json(folder / "run.json").get("config") if (folder / "run.json").exists() else None
    if isinstance(began, dict) and (changed := differences(began, settled(config))):
        raise InputError(
            f"{folder / 'config.yaml'} is not what the run began with ({changed}); put it back, or take a new folder."
        )
    return config


def write_config(folder: Path, config: TrainConfig) -> None:
    write_whole(folder / "config.yaml", to_yaml(config).encode())


def write_json(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, f"{json.dumps(values, indent=2, default=_plain)}\n".encode())


def _plain(number: Any) -> Any:
    """Python's own in place of a number of numpy's."""
    return number.item()


def read_json(path: Path, takes: str = "the folder of a run") -> dict[str, Any]:
    """Raises InputError, which says what it takes, where the file is missing or is no JSON object."""
    try:
        values = json.loads(read_bounded(path, 1 << 24))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); it takes {takes}.") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no JSON object; it takes {takes}.")
    return values


def read_facts(folder: Path) -> dict[str, Any]:
    """A run's run.json. Raises InputError where it is missing or is not what a run writes."""
    facts = read_json(folder / "run.json")
    data, earlier = facts.get("data"), facts.get("earlier", [])
    shapes = [facts.get("shape"), facts.get("picture", facts.get("shape"))]
    if not (
        all(map(_is_shape, shapes))
        and isinstance(data, dict)
        and isinstance(earlier, list)
        and all(map(_is_part, [facts, *earlier]))
    ):
        raise InputError(f"{folder / 'run.json'} is not what a run writes; it takes the folder of a run.")
    return facts


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 16 for n in shape) and 1 <= len(shape) <= 3


def picture_shape(folder: Path) -> tuple[int, ...]:
    """(channels, height, width) of the pictures that a run's encoder is shown; of one that learned from patches, whole
    ones, where it takes them."""
    facts = read_facts(folder)
    return tuple(facts.get("picture", facts["shape"]))  # runs of patches from before it was kept are of patches


def _is_part(part: Any) -> bool:
    """What one of a run's parts, between two interruptions, was run on."""
    return isinstance(part, dict) and type(part.get("resumed_at") or 0) is int


def read_probes(folder: Path) -> list[dict[str, Any]]:
    """The probes kept with a run. Raises InputError where probes.json is not what `saccade.probe` writes."""
    rows = read_json(folder / "probes.json").get("probes")
    numbers = ("layer", "seed", "accuracy", "train_size", "test_size")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict)
        and all(isinstance(row.get(name), int | float) for name in numbers)
        and isinstance(row.get("details"), dict)
        and all(isinstance(row.get(name), str) for name in ("protocol", "features"))
        for row in rows
    ):
        raise InputError(f"{folder / 'probes.json'} is not what a probe writes; remove it to probe anew.")
    return rows


def add_probes(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Keep more probes with a run, each once; of two processes that do so at once, one waits. Raises InputError."""
    path = folder / "probes.json"
    try:
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise refusal(error, path) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = read_probes(folder) if path.exists() else []
        rows = json.loads(json.dumps(rows, default=_plain))  # as they come back: the keys of a dict are then texts
        write_json(path, {"probes": [*kept, *(row for row in rows if row not in kept)]})


def surroundings(device: torch.device | None = None) -> dict[str, Any]:
    """What a number depends on beside the configuration: command, versions, hardware, source tree, date.

    Of several GPUs the hardware names `device`; without one, the first.
    """
    packages = ("torch", "torchvision", "numpy", "scikit-learn")
    return {
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "saccade"), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"saccade": __version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
        "hardware": hardware(device),
        "source": source_tree(),
    }


def hardware(device: torch.device | None = None) -> dict[str, Any]:
    """The processor, its cores, the threads used, and the GPU where there is one: `device`, if it is one."""
    model = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    facts: dict[str, Any] = {"processor": model, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(device if device is not None and device.type == "cuda" else None)
    return facts


def source_tree() -> dict[str, Any]:
    """The commit that the package runs from and whether it was changed since; nothing outside a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return {}
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "src"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.stdout.strip(), "changed": bool(changed.stdout.strip())}


class Metrics:
    """The JSON lines of a run; continuing from a step drops the lines written after it. One process alone writes them."""

    def __init__(self, folder: Path, step: int, *, writes: bool = True):
        self.path, self.writes = folder / "metrics.jsonl", writes
        if not writes:
            return
        kept = [row for row in read_metrics(folder) if row["step"] <= step]
        self.warned = {(row.get("site"), row["warning"]) for row in kept if "warning" in row}
        if self.path.exists():
            write_whole(self.path, "".join(f"{json.dumps(row)}\n" for row in kept).encode())

    def add(self, row: dict[str, Any]) -> None:
        """Append a line. Raises RunError where the disk is full."""
        if not self.writes:
            return
        try:
            with self.path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
        except OSError as error:
            raise refusal(error, self.path) from None

    def warn(self, site: int, step: int, warning: str, sentence: str) -> None:
        """Say a warning about a site on standard error and in the lines; each kind once a run."""
        if self.writes and (site, warning) not in self.warned:
            self.warned.add((site, warning))
            self.add({"step": step, "site": site, "warning": warning})
            print(f"Step {step}: {sentence}", file=sys.stderr)

    def flush(self) -> None:
        """Have the lines on the disk, as a checkpoint that follows them must find them there."""
        if self.path.exists():
            with self.path.open("a") as stream:
                os.fsync(stream.fileno())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics; a last line that a dying process left unfinished is passed over.

    Raises InputError where the file cannot be read.
    """
    path = folder / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    try:
        lines = read_bounded(path).decode(errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); it takes the folder of a run.") from None
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not _is_row(row):
            break
        rows.append(row)
    return rows


def losses(metrics: list[dict[str, Any]]) -> dict[int, list[tuple[float, float]]]:
    """The points (epoch, mean loss since the point before) of every site, by its number from 0.

    >>> losses([{"step": 5, "site": 1, "epoch": 0.5, "loss": 2.0}, {"step": 5, "site": 1, "warning": "collapse"}])
    {1: [(0.5, 2.0)]}
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for row in metrics:
        if "loss" in row:
            found.setdefault(row["site"], []).append((row["epoch"], row["loss"]))
    return found


def _is_row(row: Any) -> bool:
    """A step and a site; else numbers, words, and numbers by name or in order."""

    def number(value: Any) -> bool:  # that can be drawn
        return isinstance(value, int | float) and not isinstance(value, bool) and not 1e100 < abs(value) < math.inf

    if not isinstance(row, dict) or not all(type(row.get(name)) is int and row[name] >= 0 for name in ("step", "site")):
        return False
    if "loss" in row and not (number(row["loss"]) and number(row.get("epoch"))):
        return False
    inner = [list(v.values()) if isinstance(v, dict) else v if isinstance(v, list) else [] for v in row.values()]
    return all(isinstance(v, int | float | str | dict | list) for v in row.values()) and all(
        number(v) for values in inner for v in values
    )
