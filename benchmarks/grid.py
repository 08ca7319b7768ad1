"""Many runs of train.py at once, on Ray: `python -m benchmarks.grid`.

    python -m benchmarks.grid --envs mujoco/hopper/medium-v0 --backbones mingru minlstm \
        --seeds 0 1 2 -- --optim.updates 10000

One run for each data set, backbone and seed; what follows `--` goes to train.py. Each is a row of
OUT/grid.csv as soon as it ends. The command goes on where it was stopped: finished runs are not
repeated, unfinished ones are gone on with, failed ones are tried again. A run that fails is a row
with its error, and stops no other; what it wrote to stderr is in OUT/logs.

Ray runs on this machine's cores and GPUs, or on those of the cluster of which `--address` names the
head. There the checkout, Python, the data and OUT have to be at the same paths on every machine.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from filelock import FileLock, Timeout

from agents.atomic import write_json
from benchmarks import runs
from benchmarks.grid_table import FAILED, FINISHED, Key, Row, Table, figures, means
from benchmarks.timing import table
from envs.errors import UserError
from envs.script import run_script

OURS = ("--env", "--model.backbone", "--seed", "--run-dir", "--resume", "--threads")
"""Options of train.py that the grid sets."""
TRIES = 3
"""Attempts at a run whose process or machine is lost."""


@dataclass(frozen=True)
class Options:
    """What to run, and where."""

    envs: tuple[str, ...] = ("minrnn/hopper/medium-replay-v0",)
    """Data sets."""
    backbones: tuple[str, ...] = ("mingru", "minlstm")
    """Backbones."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds."""
    out: Path = Path("runs/grid")
    """Folder of the runs, of their table and of their logs."""
    address: str | None = None
    """Head of a Ray cluster, as 10.0.0.1:6379; `auto` is the one that this machine is part of.
    Default: this machine alone."""
    cpus: int = 1
    """CPU cores for each run, which are its threads."""
    gpus: float = 0.0
    """GPUs for each run; 0.5 lets two runs share one, 0 trains on CPUs."""

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise ValueError("cpus must be at least 1, and gpus must not be negative")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, a row for each as it ends; then print the means over the seeds."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    place = given.index("--") if "--" in given else len(given)
    options = tyro.cli(Options, description=__doc__, args=given[:place])
    out, flags = options.out.resolve(), given[place + 1 :]
    _check(flags)
    folders = plan(options, out)
    with _alone(out):
        _same_flags(out, flags)
        rows = Table(out / "grid.csv")
        missing = [key for key in folders if not rows.finished(key)]
        if done := len(folders) - len(missing):
            print(f"{done} of {len(folders)} runs are finished", flush=True)
        if missing:
            with _ray(options) as ray:
                jobs = {key: _flags(key, flags, options.cpus) for key in missing}
                for row in _run(ray, options, {key: folders[key] for key in missing}, jobs, out):
                    rows.put(row)
                    done += row.status == FINISHED
                    _tell(row, done, len(folders))
    found = [rows.rows[key] for key in folders]
    header = ["data", "backbone", "runs", "score", "return", "calibration error"]
    table(f"{rows.path}: the highest target, mean over seeds ± deviation", header, means(found))
    if failed := [row for row in found if row.status == FAILED]:
        raise UserError(
            f"{len(failed)} of {len(found)} runs failed, the first with: {failed[0].error}; their "
            f"logs are in {out / 'logs'}, and the same command tries them again"
        )


def plan(options: Options, out: Path) -> dict[Key, Path]:
    """Return the folder of each run; every data set and backbone comes once before any twice."""
    keys = [
        Key(env, backbone, seed)
        for seed, env, backbone in itertools.product(options.seeds, options.envs, options.backbones)
    ]
    names = {
        key: Path(_plain(key.env)) / f"{_plain(key.backbone)}-seed{key.seed}"
        for key in dict.fromkeys(keys)
    }
    if len(set(names.values())) < len(names):
        raise UserError(f"two data sets of {', '.join(options.envs)} would share a folder: rename")
    return {key: out / name for key, name in names.items()}


def attempt(
    folder: Path, flags: list[str], log: Path, gpus: float
) -> tuple[list[dict[str, Any]] | str, float, str]:
    """Bring a run to its end, on the machine that Ray chose; nothing is done where it is there.

    Return the rows of its report or what went wrong, the seconds it took, and the machine's name.
    """
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves it as it is
    begun, report = time.perf_counter(), folder / "results.json"
    found: list[dict[str, Any]] | str
    try:
        if not report.exists():
            runs.train(folder, flags, log)
        found = json.loads(report.read_text())["results"]["last"]
    except (runs.RunFailed, OSError, ValueError, LookupError) as error:
        found = str(error) or type(error).__name__
    return found, time.perf_counter() - begun, socket.gethostname()


def _run(
    ray: Any,
    options: Options,
    folders: dict[Key, Path],
    flags: dict[Key, list[str]],
    out: Path,
) -> Iterator[Row]:
    """Yield the row of each run as it ends."""
    # By value: the machines of a cluster need not find our modules.
    for module in (runs, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=TRIES - 1)(attempt)
    pending = {}
    for key, folder in folders.items():
        log = out / "logs" / f"{'-'.join(folder.relative_to(out).parts)}.txt"
        pending[task.remote(folder, flags[key], log, options.gpus)] = key
    try:
        while pending:
            (ended,), _ = ray.wait(list(pending))
            key = pending.pop(ended)
            yield _row(ray, ended, key, folders[key])
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


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


@contextmanager
def _ray(options: Options) -> Iterator[Any]:
    """Context: Ray, started here or connected to. Raises UserError where that cannot be."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError('benchmarks.grid needs Ray: pip install -e ".[grid]"') from None
    local: dict[str, Any] = {} if options.address else {"include_dashboard": False}
    try:
        ray.init(
            options.address or "local", log_to_driver=False, logging_level=logging.ERROR, **local
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--address {options.address} cannot be reached ({reason}): is `ray start --head` "
            "running there?"
        ) from None
    try:
        asked = {"CPU": options.cpus, "GPU": options.gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= n for name, n in asked.items()) for node in nodes):
            raise UserError(
                f"no machine has {options.cpus} CPU cores and {options.gpus:g} GPUs for a run: "
                "lower --cpus or --gpus"
            )
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Context: no other grid writes into the folder; UserError where one does."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"another grid is writing into {out}: wait for it, or stop it") from None


def _same_flags(out: Path, flags: list[str]) -> None:
    """Hold the grid to the flags that it was begun with: its runs are to be comparable."""
    file = out / "flags.json"
    if not file.exists():
        write_json(file, flags)
        return
    try:
        begun = [str(flag) for flag in json.loads(file.read_text())]
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it") from None
    if begun != flags:
        raise UserError(
            f"the runs in {out} were begun with the flags {' '.join(begun) or '(none)'}, not "
            f"{' '.join(flags) or '(none)'}: repeat those, or choose another --out"
        )


def _check(flags: list[str]) -> None:
    for flag in flags:
        if flag.split("=")[0].replace("_", "-") in OURS:
            raise UserError(f"{flag} is set by the grid: leave it out behind --")


def _flags(key: Key, flags: list[str], cpus: int) -> list[str]:
    own = ["--env", key.env, "--model.backbone", key.backbone, "--seed", str(key.seed)]
    return [*own, "--threads", str(cpus), *flags]


def _plain(name: str) -> str:
    return name.replace(",", "+").strip("/.").replace("/", "-")[-100:]


def _tell(row: Row, done: int, total: int) -> None:
    score = "" if row.score is None else f", score {row.score:.1f}"
    what = row.error or f"return {row.mean:.0f} asked {row.target:.0f}{score}"
    name = f"{row.env} {row.backbone} seed {row.seed}"
    print(f"[{done}/{total}] {name}: {what} ({row.seconds or 0:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
