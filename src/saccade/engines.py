"""Many runs: on the cores of this machine, on a Ray cluster, or in Slurm's queue. The engines are theirs; this joins them.

Every engine has the contract of `parallel.side_by_side`: a function of (task, report) for each task, results by name. A
task may be started again where its machine died, so a function keeps what it did on a disk that all machines see, and
continues there: as `saccade.train` does in a run's folder.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config.grammar import imported
from .config.names import ENGINES, choose
from .errors import Held, InputError, RunError, Stopped
from .files import make_folder
from .parallel import Report, side_by_side

Function = Callable[[Any, Report], Any]
Progress = Callable[[float], None] | None
_RETRIES = 10  # of a task whose process or node died
_PATIENCE = 120  # seconds for the process of a machine that died to let go of its folder


def run(
    function: Function, tasks: Mapping[str, Any], engine: str = "local", progress: Progress = None
) -> dict[str, Any]:
    """`function(task, report)` of every task, by name, on an engine such as `local(workers=2)` or `ray(gpus=0.25)`.

    `progress` is called with the share of all work that is done. The first exception of a task is raised. Raises
    InputError for an unknown engine, or one that is not installed or not to be reached.
    """
    if not tasks:
        return {}
    call, entry = choose(engine, ENGINES, "engine")
    start = imported(entry.path if entry else call.name, "engine")
    return start(function, tasks, progress, **call.options)


def local(function: Function, tasks: Mapping[str, Any], progress: Progress, *, workers: int | None) -> dict[str, Any]:
    """Processes of this machine, one a core unless `workers` says how many."""
    return side_by_side(function, tasks, workers=workers, progress=progress)


def ray(
    function: Function, tasks: Mapping[str, Any], progress: Progress, *, address: str, cpus: float, gpus: float
) -> dict[str, Any]:
    """Tasks of a Ray cluster, each with its share of processors and GPUs; those of a node that dies start elsewhere."""
    ray = _library("ray", "ray")
    joins = not ray.is_initialized()
    try:
        if joins:
            ray.init(None if address == "none" else address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The Ray cluster at {address!r} cannot be reached ({str(error).splitlines()[0]}); it takes an address such as "
            "auto or 10.0.0.1:6379, or none for one of this machine alone."
        ) from None
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
    board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()  # where this process is: it stays
    remote = ray.remote(_ray_task).options(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)
    waiting = {remote.remote(board, function, name, task): name for name, task in tasks.items()}
    found: dict[str, Any] = {}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=1.0)
            for one in done:
                name = waiting.pop(one)
                try:
                    found[name] = ray.get(one)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[0]
                    raise RunError(f"The run {name} could not be finished on the cluster: {reason}") from None
            if progress:
                progress(sum(ray.get(board.shares.remote()).values()) / len(tasks))
    finally:
        for one in waiting:
            ray.cancel(one, force=True)
        ray.kill(board)
        if joins:
            ray.shutdown()
    if progress:
        progress(1.0)
    return {name: found[name] for name in tasks}


class _Board:
    """How far each task is."""

    def __init__(self) -> None:
        self.done: dict[str, float] = {}

    def tell(self, name: str, share: float) -> None:
        self.done[name] = share

    def shares(self) -> dict[str, float]:
        return self.done


def _ray_task(board: Any, function: Function, name: str, task: Any) -> Any:
    return _patiently(function, task, lambda share: board.tell.remote(name, share))


def slurm(
    function: Function,
    tasks: Mapping[str, Any],
    progress: Progress,
    *,
    folder: str,
    partition: str | None,
    hours: float,
    cpus: int,
    gpus: int,
    at_once: int,
    cluster: str,
) -> dict[str, Any]:
    """An array job, through submitit. A task that Slurm warns of its end goes back into the queue, and continues."""
    submitit = _library("submitit", "slurm")
    place = Path(folder)
    make_folder(place)
    executor = submitit.AutoExecutor(place, cluster=cluster, **{f"{cluster}_max_num_timeout": 10_000})
    options: dict[str, Any] = {"timeout_min": max(1, round(60 * hours)), "cpus_per_task": cpus, "gpus_per_node": gpus}
    if cluster == "slurm":
        options |= {"slurm_partition": partition, "slurm_array_parallelism": at_once, "slurm_signal_delay_s": 120}
    executor.update_parameters(name="saccade", **options)
    shares = {name: place / f"{number}.share" for number, name in enumerate(tasks)}
    for path in shares.values():
        path.unlink(missing_ok=True)
    queued = [_SlurmTask(function, tasks[name], path) for name, path in shares.items()]
    jobs = executor.submit_array(queued)
    try:
        while not all(job.done() for job in jobs):
            if progress:
                progress(sum(_read(path) for path in shares.values()) / len(tasks))
            time.sleep(1)
        found = {name: _result(job) for name, job in zip(tasks, jobs, strict=True)}
    except BaseException:
        for job in jobs:
            job.cancel(check=False)
        raise
    if progress:
        progress(1.0)
    return found


class _SlurmTask:
    """A task in Slurm's queue; submitit calls `checkpoint` at the warning, and queues what it gives."""

    def __init__(self, function: Function, task: Any, told: Path):
        self.function, self.task, self.told = function, task, told

    def __call__(self) -> Any:
        def tell(share: float) -> None:
            self.told.write_text(str(share))

        try:
            return _patiently(self.function, self.task, tell)
        except Stopped:  # by SIGTERM or the run's own warning; it is saved, and goes back into the queue
            os.kill(os.getpid(), signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
            raise

    def checkpoint(self) -> Any:
        return _library("submitit", "slurm").helpers.DelayedSubmission(self)


def _read(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # not begun, or being written
        return 0.0


def _result(job: Any) -> Any:
    error = job.exception()
    if error is None:
        return job.result()
    raise RunError(f"Job {job.job_id} of the queue failed: {str(error).strip().splitlines()[-1]}")


def _patiently(function: Function, task: Any, report: Report) -> Any:
    """The function's result; where its folder is still held by a process that is about to end, after a wait."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return function(task, report)
        except Held:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def _library(name: str, extra: str) -> Any:
    try:
        module = __import__(name)
    except ImportError:
        raise InputError(f"The engine {extra} needs {name}; it takes pip install 'saccade[{extra}]'.") from None
    return module
