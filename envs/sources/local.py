"""The project's own data sets: rolled out at first use, then read like any Minari data set."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from envs.behaviour.generate import generate_level
from envs.behaviour.mixes import ENVIRONMENTS, LEVELS, stages
from envs.errors import UserError
from envs.sources import minari
from envs.trajectories import Trajectories

try:
    import fcntl
except ImportError:  # Windows: two processes may both do the work, and the first one's stays
    fcntl = None

_ID = re.compile(r"^minrnn/(?P<family>[^/]+)/(?P<level>[^/]+)-v0$")


def ids() -> tuple[str, ...]:
    """Return the ids of all data sets that can be made here."""
    return tuple(f"minrnn/{family}/{level}-v0" for family in ENVIRONMENTS for level in LEVELS)


def parse(name: str) -> tuple[str, str] | None:
    """Return (family, level) for an id of the project's own, else None."""
    match = _ID.fullmatch(name)
    if match is None or match["family"] not in ENVIRONMENTS or match["level"] not in LEVELS:
        return None
    return match["family"], match["level"]


def load(name: str, *, seed: int = 0, progress: bool = True) -> Trajectories:
    """Read a data set of the project's own; roll it out first where it is not on the disk.

    A seed other than 0 makes another data set of the same kind, minrnn/hopper/medium-seed1-v0.
    Two processes that ask for the same one at once wait for each other.
    """
    parsed = parse(name)
    if parsed is None:
        raise UserError(f"{name} is not one of {', '.join(ids())}")
    family, level = parsed
    dataset_id = name if seed == 0 else f"minrnn/{family}/{level}-seed{seed}-v0"
    if not minari.exists(dataset_id):
        with _one_at_a_time(dataset_id, progress):
            if not minari.exists(dataset_id):
                _make(dataset_id, family, level, seed, progress)
    return minari.read(dataset_id)


def _make(dataset_id: str, family: str, level: str, seed: int, progress: bool) -> None:
    minari.check_new(dataset_id)
    mix = stages(family, level)
    parts = ", ".join(
        f"{stage.policy.lstrip('0')} ({stage.episodes}"
        + (f", noise x {stage.noise:g})" if stage.noise != 1.0 else ")")
        for stage in mix
    )
    minari.write(
        dataset_id,
        generate_level(family, level, seed=seed, progress=progress),
        env_id=ENVIRONMENTS[family],
        algorithm="SAC",
        description=f"{level} on {ENVIRONMENTS[family]}: episodes sampled from checkpoints of one "
        f"SAC run of the minrnn project, in training order; checkpoint (episodes): {parts}. "
        f"Seed {seed}. Not D4RL's data of that name.",
    )


@contextmanager
def _one_at_a_time(dataset_id: str, progress: bool) -> Iterator[None]:
    """Hold a lock on this data set, and clear what a killed process has left of it."""
    folder = minari.root()
    lock = folder / f".lock-{dataset_id.replace('/', '.')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")
    except OSError as error:
        raise UserError(
            f"cannot write in {folder} ({error.strerror}); point MINARI_DATASETS_PATH to a folder "
            f"that can be written"
        ) from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                with tqdm(
                    desc=f"waiting for another process that makes {dataset_id}",
                    bar_format="{desc}",
                    leave=False,
                    disable=not progress,
                ):
                    fcntl.flock(file, fcntl.LOCK_EX)
            _clear(folder, dataset_id)
        yield


def _clear(folder: Path, dataset_id: str) -> None:
    for leftover in folder.glob(f"{minari.partial_prefix(dataset_id)}*"):
        shutil.rmtree(leftover, ignore_errors=True)
