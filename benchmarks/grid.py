"""Many runs of train.py at once, on Ray: `python -m benchmarks.grid`.

    python -m benchmarks.grid --envs mujoco/hopper/medium-v0 --backbones mingru minlstm \
        --seeds 0 1 2 -- --optim.updates 10000

One run for each data set, backbone and seed; what follows `--` goes to train.py. Each is a row of
OUT/grid.csv as soon as it ends. The command resumes where it was stopped: finished runs are not
repeated, unfinished ones are resumed, failed ones are tried again. Ctrl-C and SIGTERM let the runs
save their state first. A run that fails gets a row with its error and does not stop the others; its
stderr is in OUT/logs.

Ray runs on this machine's cores and GPUs, or on those of the cluster of which `--address` names the
head. There the checkout, Python, the data and OUT have to be at the same paths on every machine.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tyro
from filelock import FileLock, Timeout

from agents.machine.signals import Stop, Stopped
from agents.runs.folder import finished
from benchmarks import runs
from benchmarks.grid_ray import Job, bring_to_end, connected
from benchmarks.grid_table import FAILED, FINISHED, Key, Row, Table, figures, means
from configs import cli, saved
from envs.errors import UserError, remedy
from envs.files import file_name, write_json
from envs.script import command, run_script

OURS = (
    *("--env", "--model.backbone", "--seed", "--threads"),
    *("--run-dir", "--resume", "--resume-if-there"),
)
"""Options of train.py that the grid sets."""


@dataclass(frozen=True)
class Options:
    """What to run, and where."""

    envs: tuple[str, ...] = ("minrnn/hopper/medium-replay-v0",)
    """Ids of the data sets."""
    backbones: tuple[str, ...] = ("mingru", "minlstm")
    """Backbones."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds."""
    out: Path = Path("runs/grid")
    """Folder of the runs, of their table and of their logs."""
    address: str | None = None
    """Head of a Ray cluster, such as 10.0.0.1:6379; `auto` is the one that this machine is part of.
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
        rows = Table(out / "grid.csv")
        _same_flags(out, flags, rows)
        try:
            _run_missing(options, folders, flags, rows)
        except (Stopped, KeyboardInterrupt) as stopped:
            done = sum(map(rows.finished, folders))
            again = command(["python", "-m", "benchmarks.grid", *given])
            print(f"\nstopped, {done} of {len(folders)} runs are finished; to go on: {again}")
            raise SystemExit(stopped.code if isinstance(stopped, Stopped) else 130) from None
    from benchmarks.timing import table  # late: torch takes a second to import

    found = [rows.rows[key] for key in folders]
    header = ["data", "backbone", "runs", "score", "return", "calibration error"]
    table(f"{rows.path}: the highest target, mean over seeds ± deviation", header, means(found))
    if failed := [row for row in found if row.status == FAILED]:
        others = "" if _any_begun(out, rows) else ", as does one with other flags behind --"
        raise UserError(
            f"{len(failed)} of {len(found)} runs failed, the first with: {failed[0].error}; their "
            f"logs are in {out / 'logs'}, and the same command tries them again{others}"
        )


def plan(options: Options, out: Path) -> dict[Key, Path]:
    """Return the folder of each run; all data sets and backbones of the first seed come first."""
    keys = [
        Key(env, backbone, seed)
        for seed, env, backbone in itertools.product(options.seeds, options.envs, options.backbones)
    ]
    names = {
        key: Path(file_name(key.env)) / f"{file_name(key.backbone)}-seed{key.seed}"
        for key in dict.fromkeys(keys)
    }
    # Windows and macOS take names for equal that differ in case alone.
    if len({str(name).casefold() for name in names.values()}) < len(names):
        raise UserError(f"two data sets of {', '.join(options.envs)} would share a folder: rename")
    return {key: out / name for key, name in names.items()}


def _run_missing(options: Options, folders: dict[Key, Path], flags: list[str], rows: Table) -> None:
    """Add the row of each run that has none; finished runs are only read."""
    for key, folder in folders.items():
        if not rows.finished(key) and finished(folder):
            with suppress(runs.RunFailed):  # its job reports the error
                rows.put(Row(*key, FINISHED, **figures(runs.rows(folder)), folder=str(folder)))
    missing = [key for key in folders if not rows.finished(key)]
    if done := len(folders) - len(missing):
        print(f"{done} of {len(folders)} runs are finished", flush=True)
    if not missing:
        return
    jobs = {key: _job(key, folders[key], flags, options.cpus) for key in missing}
    size = options.cpus, options.gpus
    # In this order: Ray has handlers of its own.
    with connected(options.address, *size) as ray, Stop() as stop:
        for row in bring_to_end(ray, jobs, stop, *size):
            rows.put(row)
            done += row.status == FINISHED
            _tell(row, done, len(folders))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Context: no other grid writes into the folder; UserError where one does."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"another grid is writing into {out}: wait for it, or stop it") from None


def _same_flags(out: Path, flags: list[str], rows: Table) -> None:
    """Check that the flags are those of the grid's earlier runs, which are to be comparable."""
    file = out / "flags.json"
    if file.exists() and (begun := _read_flags(file)) != flags and _any_begun(out, rows):
        raise UserError(
            f"the runs in {out} were begun with the flags {' '.join(begun) or '(none)'}, not "
            f"{' '.join(flags) or '(none)'}: repeat those, or choose another --out"
        )
    write_json(file, flags)


def _read_flags(file: Path) -> list[str]:
    try:
        begun = json.loads(file.read_bytes())
        if not isinstance(begun, list) or not all(isinstance(flag, str) for flag in begun):
            raise ValueError("it is not a list of flags")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): {remedy(error, 'remove it')}") from None
    return begun


def _any_begun(out: Path, rows: Table) -> bool:
    """Whether a run has results, or a state to resume from; a run that failed earlier has none."""
    return any(map(rows.finished, rows.rows)) or any(
        finished(folder) or (folder / saved.FILE).exists() for folder in out.glob("*/*")
    )


def _check(flags: list[str]) -> None:
    """Refuse flags that the grid sets or train.py would refuse, before anything is written."""
    for flag in flags:
        if flag.split("=")[0].replace("_", "-") in OURS:
            raise UserError(f"{flag} is set by the grid: leave it out behind --")
    try:
        cli.parse(flags, "")
    except SystemExit as refused:
        if not refused.code:  # --help
            raise
        raise UserError(
            "train.py refuses the flags behind --, for the reason above: `python train.py --help` "
            "lists its options"
        ) from None


def _job(key: Key, folder: Path, flags: list[str], cpus: int) -> Job:
    own = ["--env", key.env, "--model.backbone", key.backbone, "--seed", str(key.seed)]
    log = folder.parents[1] / "logs" / f"{folder.parent.name}-{folder.name}.txt"
    return Job(folder, [*own, "--threads", str(cpus), *flags], log)


def _tell(row: Row, done: int, total: int) -> None:
    score = "" if row.score is None else f", score {row.score:.1f}"
    got = "not evaluated" if row.mean is None else f"return {row.mean:.0f} asked {row.target:.0f}"
    what = row.error or got + score
    name = f"{row.env} {row.backbone} seed {row.seed}"
    print(f"[{done}/{total}] {name}: {what} ({row.seconds or 0:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
