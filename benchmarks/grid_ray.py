"""Running benchmarks.grid on Ray: start or find it, submit the runs, and stop unfinished ones."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agents.machine.signals import Stop, Stopped
from benchmarks import runs
from benchmarks.grid_table import FAILED, FINISHED, Key, Row, figures
from envs.errors import UserError

TRIES = 3
"""Attempts at a run whose process or machine is lost."""
_LOOK = 0.5
"""Seconds between checks for a stop request: while Ray waits, signals are not handled."""
_PATIENCE = runs.PATIENCE + 10
"""Seconds that runs have to end in after they were asked to stop."""


class Job(NamedTuple):
    """A run to be started or resumed, and finished."""

    folder: Path
    flags: list[str]
    log: Path


@contextmanager
def connected(address: str | None, cpus: int, gpus: float) -> Iterator[Any]:
    """Context: Ray, started here or found at `address`, with a machine that can take a run.

    Raises UserError where that cannot be, Stopped at SIGTERM.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError('benchmarks.grid needs Ray: pip install -e ".[grid]"') from None
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--address {address} cannot be reached ({reason}): is `ray start --head` "
            "running there?"
        ) from None
    except SystemExit:  # what Ray makes of SIGTERM
        raise Stopped(signal.SIGTERM) from None
    try:
        asked = {"CPU": cpus, "GPU": gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= n for name, n in asked.items()) for node in nodes):
            raise UserError(
                f"no machine has {cpus} CPU cores and {gpus:g} GPUs for a run: "
                "lower --cpus or --gpus"
            )
        yield ray
    finally:
        ray.shutdown()


def bring_to_end(
    ray: Any, jobs: dict[Key, Job], stop: Stop, cpus: int, gpus: float
) -> Iterator[Row]:
    """Yield the row of each run as it ends; if a stop is requested, stop the others and raise it.

    They save their state first, so that they can be resumed without loss.
    """
    # Pickled by value: the machines of a cluster need not be able to import our modules.
    for module in (runs, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=TRIES - 1)(attempt)
    pending = {task.remote(*job, gpus): key for key, job in jobs.items()}
    try:
        while pending:
            stop.check()
            ended, _ = ray.wait(list(pending), timeout=_LOOK)
            for reference in ended:
                key = pending.pop(reference)
                yield _row(ray, reference, key, jobs[key].folder)
    finally:
        for reference in pending:
            ray.cancel(reference, force=False)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=_PATIENCE)


def attempt(
    folder: Path, flags: list[str], log: Path, gpus: float
) -> tuple[list[dict[str, Any]] | str, float, str]:
    """Start or resume a run on the machine that Ray chose; a finished run is only read.

    Return the rows of its report or what went wrong, the seconds it took, and the machine's name.
    """
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves it as it is
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell ignores SIGINT for a grid in the background. Ray cancels by this signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.perf_counter()
    found: list[dict[str, Any]] | str
    try:
        runs.train(folder, flags, log)
        found = runs.rows(folder)
    except (runs.RunFailed, OSError, ValueError) as error:
        found = str(error) or type(error).__name__
    return found, time.perf_counter() - begun, socket.gethostname()


def _row(ray: Any, ended: Any, key: Key, folder: Path) -> Row:
    try:
        found, seconds, node = ray.get(ended)
    except ray.exceptions.RayError as error:
        # The process or the machine of the run was lost, each time.
        reason = str(error).strip().splitlines()[0]
        return Row(*key, FAILED, folder=str(folder), error=reason)
    shared: dict[str, Any] = {"seconds": round(seconds, 1), "node": node, "folder": str(folder)}
    if isinstance(found, str):
        return Row(*key, FAILED, error=found, **shared)
    return Row(*key, FINISHED, **figures(found), **shared)
