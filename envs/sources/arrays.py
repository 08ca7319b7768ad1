"""Convert flat arrays of demonstrations (.npz) into a Minari data set.

python -m envs.sources.arrays FILE.npz --env-id AdroitHandDoor-v1 --id me/door/human-v0
"""

from __future__ import annotations

import argparse
import lzma
import math
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.script import run_script
from envs.sources import minari
from envs.sources.d4rl.split import Episodes, go_on, goal_runs, same_rows
from envs.sources.hdf5 import MAX_RATIO, SMALL
from envs.worlds.make import make_env

_BROKEN = (
    *(OSError, EOFError, RuntimeError, ArithmeticError, MemoryError, NotImplementedError),
    *(TypeError, ValueError, AttributeError, LookupError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError, struct.error),
)
"""Errors of zipfile and NumPy over a damaged file."""
_NAMES = {
    "obs": ("observations", "observation", "obs"),
    "action": ("actions", "action"),
    "reward": ("rewards", "reward"),
    "next_obs": ("next_observations", "next_observation", "next_obs"),
    "terminal": ("terminals", "terminal", "terminations"),
    "timeout": ("timeouts", "timeout", "truncations"),
    "lengths": ("episode_lengths",),
}


def read_npz(
    path: Path, time_limit: int | None, note: Callable[[str], object] = lambda text: None
) -> list[Episode]:
    """Read episodes that lie end to end: observations (N, O), actions (N, A), rewards (N,).

    Episodes end where `episode_lengths` says, else at terminals | timeouts; steps after the last
    end are an episode that was cut. An end at the time limit is not a termination, whatever the
    file says. Further terminal steps at a goal are left out, and next observations are not used if
    at ends of episodes they are those of the next episode; `note` is called with a line on each.
    Raises UserError naming what is missing or does not fit.
    """
    given, found = _members(path), dict[str, NDArray[Any]]()
    for name, names in _NAMES.items():
        if present := [given[each] for each in names if each in given]:
            found[name] = present[0]
        elif name in ("obs", "action", "reward"):
            raise UserError(f"{path} has no {names[0]}; it has: {', '.join(given) or 'nothing'}")
    for name, values in found.items():
        if values.dtype.kind not in "biuf" or values.ndim == 0:
            raise UserError(
                f"{path}: {_NAMES[name][0]} is of type {values.dtype} and shape {values.shape}; "
                f"store an array of numbers"
            )
    obs, action, reward = found["obs"], found["action"], found["reward"]
    steps = len(action)
    if steps == 0:
        raise UserError(f"{path} has no steps; choose another file")
    if len(obs) != steps or reward.size != steps:
        raise UserError(f"{path}: {len(obs)} observations, {steps} actions, {reward.size} rewards")
    reward = reward.reshape(steps)
    terminal, timeout = (_flags(found, name, steps, path) for name in ("terminal", "timeout"))
    ends = _ends(found.get("lengths"), terminal | timeout, path)
    next_obs = found.get("next_obs", obs)
    if next_obs.shape != obs.shape:
        raise UserError(f"{path}: next_observations {next_obs.shape}, observations {obs.shape}")
    final_obs = next_obs if "next_obs" in found else obs[:0]  # none
    later = np.array(ends[:-1], np.int64)  # where another episode begins
    if len(final_obs) and len(later) and (final_obs[later - 1] == obs[later]).all():
        note("next_observations not used: they are the next rows at the ends of episodes, too")
        final_obs = obs[:0]
    runs = np.zeros(len(ends), np.bool_)
    if "lengths" not in found:
        runs = _runs_at_goals(ends, terminal, obs, found.get("next_obs"))
        if runs.any():
            note(f"{runs.sum()} steps left out that follow on the goal at the goal")
    return [
        Episode(
            np.concatenate((obs[first:end], final_obs[end - 1 : end])),
            action[first:end],
            reward[first:end],
            bool(terminal[end - 1]) and end - first != time_limit,
        )
        for first, end, again in zip((0, *ends[:-1]), ends, runs, strict=True)
        if not again
    ]


def _runs_at_goals(
    ends: Sequence[int],
    terminal: NDArray[np.bool_],
    obs: NDArray[Any],
    next_obs: NDArray[Any] | None,
) -> NDArray[np.bool_]:
    """Return which episodes (E,) are further steps at a goal (see envs.sources.d4rl.split)."""
    lengths, over = np.diff(ends, prepend=0), terminal[np.array(ends) - 1]
    episodes, breaks = Episodes(lengths, over, ()), None
    runs, flat = goal_runs(episodes), obs.reshape(len(obs), -1)
    if next_obs is not None:
        after = next_obs.reshape(len(obs), -1)
        breaks = np.zeros(len(obs), np.bool_)
        breaks[:-1] = ~same_rows(after[:-1], flat[1:])
        breaks = None if 2 * breaks.sum() > len(breaks) else breaks
    some = 0 < 2 * runs.sum() < len(obs)
    return runs & (some and go_on(runs, episodes, flat, breaks))


def _members(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a .npz file; UserError where one claims more bytes than it can hold."""
    given: dict[str, NDArray[Any]] = {}
    try:
        left = max(SMALL, MAX_RATIO * path.stat().st_size)
        with zipfile.ZipFile(path) as file:
            for member in file.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    continue
                with file.open(member) as stored:
                    shape, dtype = _header(stored)
                    size = math.prod(shape) * dtype.itemsize
                    left -= size
                    if left < 0 or size > member.file_size:
                        raise ValueError(f"{name} claims {size:,} bytes, more than the file holds")
                with file.open(member) as stored:
                    given[name] = np.lib.format.read_array(stored, allow_pickle=False)
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as .npz ({reason}); make or download it again"
        ) from error
    return given


def _header(stored: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the type in the header of a .npy file."""
    version = np.lib.format.read_magic(stored)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stored)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stored)
    else:  # 3.0 is for structured arrays, which are not read
        raise ValueError(f"an array is stored in the .npy format {version[0]}.{version[1]}")
    return shape, dtype


def _ends(lengths: NDArray[Any] | None, over: NDArray[np.bool_], path: Path) -> tuple[int, ...]:
    steps = len(over)
    if lengths is None:
        ends = np.flatnonzero(over) + 1
        return tuple(int(end) for end in ends) + (() if steps in ends else (steps,))
    lengths = lengths.ravel()
    if (bad := np.flatnonzero(~(lengths >= 1) | (lengths != np.round(lengths)))).size:
        raise UserError(
            f"{path}: episode_lengths has {lengths[bad[0]]} for episode {bad[0]}; "
            f"every episode needs a whole number of steps, 1 or more"
        )
    if lengths.sum() != steps:
        raise UserError(f"{path}: episode_lengths add up to {lengths.sum()}, of {steps} steps")
    return tuple(int(end) for end in np.cumsum(lengths))


def _flags(
    found: Mapping[str, NDArray[Any]], name: str, steps: int, path: Path
) -> NDArray[np.bool_]:
    values = found.get(name, np.zeros(steps, np.bool_))
    if values.size != steps:
        raise UserError(
            f"{path}: {_NAMES[name][0]} has {values.size} entries for {steps} steps; "
            f"store one for each step, or leave it out"
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError(f"{path}: {_NAMES[name][0]} has NaN; store 0 or 1 for every step")
    return values.reshape(steps).astype(np.bool_)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as python -m envs.sources.arrays."""
    parser = argparse.ArgumentParser(description="Convert a .npz file into a Minari data set.")
    parser.add_argument("file", type=Path, help="observations, actions, rewards, end to end")
    parser.add_argument("--env-id", required=True, help="such as AdroitHandDoor-v1")
    parser.add_argument(
        "--id",
        dest="dataset_id",
        metavar="ID",
        required=True,
        help="the new data set's id: NAME/SPACE-v0",
    )
    return run_script(lambda: _convert(**vars(parser.parse_args(argv))))


def _convert(file: Path, env_id: str, dataset_id: str) -> None:
    minari.check_new(dataset_id)
    env = make_env(env_id)
    env.close()
    limit = None if env.spec is None else env.spec.max_episode_steps
    episodes = read_npz(file, limit, lambda text: sys.stdout.write(f"note   {text}\n"))
    path = minari.write(
        dataset_id,
        episodes,
        env=env_id,
        author="unknown",
        description=f"{len(episodes)} episodes of {file.name}",
        code="envs/sources/arrays.py of the minrnn project",
    )
    sys.stdout.write(f"{dataset_id}: {len(episodes)} episodes in {path}\n")


if __name__ == "__main__":
    sys.exit(main())
