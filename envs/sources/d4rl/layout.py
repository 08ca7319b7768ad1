"""Reader of D4RL's flat layout: one array for each quantity, with the episodes end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.data.bounds import Float32
from envs.data.builder import TrajectoriesBuilder, with_offset
from envs.data.offset import Float64, first_finite
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.sources.d4rl.split import Episodes, Flags, go_on, goal_runs, same_rows, split
from envs.sources.d4rl.table import Entry, Layout
from envs.sources.hdf5 import check_claim, has, numeric, open_hdf5, read_into
from envs.sources.hdf5 import read as read_rows
from envs.worlds.spec import EnvSpec

_BLOCK = 1 << 21  # numbers
_COMPARED = 1000  # rows of each block whose next observations are compared


def read(path: Path, layout: Layout, low_high: tuple[Float32, Float32] | None) -> Trajectories:
    """Read a file in this layout.

    Without low_high, the bounds of actions are -1 and 1, or with `open_bounds` those of the data.
    Raises UserError where the file cannot be used, or does not fit the Entry.
    """
    with open_hdf5(path) as file:
        width = _arrays(file, path, layout)[1].shape[1]
        if low_high is not None and len(low_high[0]) != width:
            raise UserError(
                f"{path} has actions of size {width}, {layout.env.env_id} takes "
                f"{len(low_high[0])}; name the environment that the file is of with --data.env-id"
            )
        made, episodes, env, final_note = with_offset(
            lambda offset: _fill(file, path, layout, offset)
        )
        runs, run_note = _runs_at_goals(file, layout, made, episodes)
    notes = [*([layout.remark] if layout.remark else []), *episodes.notes, *final_note]
    if made.obs.shape[1] == layout.leading:
        notes.append(f"observations from {layout.leading} on are all 0: left out")
    terminated = episodes.terminated
    made.drop(runs)
    terminated = terminated[~runs]
    notes += run_note
    if layout.shift:
        for positions in (made.obs, made.final_obs):
            if positions is not None:
                positions[:, : len(layout.shift)] += np.array(layout.shift, np.float32)
        amounts = ", ".join(f"{amount:g}" for amount in layout.shift)
        notes.append(f"positions moved by ({amounts}), to where {layout.env.env_id} has them")
    low, high = low_high or (None, None)
    if layout.open_bounds:
        low, high = np.full(width, -np.inf), np.full(width, np.inf)
    return made.finish(
        terminated=terminated,
        env=env,
        action_low=low,
        action_high=high,
        horizon=layout.horizon,
        notes=notes,
    )


def check(path: Path, entry: Entry) -> None:
    """Raise UserError where a file is not this data set: by its keys, sizes and last rows."""
    with open_hdf5(path) as file:
        for data in (*_arrays(file, path, entry), numeric(file, "terminals")):
            read_rows(data, slice(-1, None))


def _arrays(
    file: h5py.File, path: Path, layout: Layout
) -> tuple[h5py.Dataset, h5py.Dataset, h5py.Dataset]:
    obs, action = numeric(file, "observations", ndim=2), numeric(file, "actions", ndim=2)
    reward = numeric(file, "rewards")
    steps = len(obs)
    if not steps:
        raise UserError(f"{path} has no steps; choose another file")
    if len(action) != steps or reward.shape not in ((steps,), (steps, 1)):
        raise UserError(
            f"{path}: observations of shape {obs.shape}, actions {action.shape}, rewards "
            f"{reward.shape}; store one row of each for every step"
        )
    found = (obs.shape[1], action.shape[1])
    if isinstance(layout, Entry) and found != layout.sizes:
        raise UserError(
            f"{path} has observations and actions of sizes {found}, {layout.name} has "
            f"{layout.sizes}; delete it and it is downloaded again"
        )
    return obs, action, reward


def _fill(
    file: h5py.File, path: Path, layout: Layout, offset: Float64 | None
) -> tuple[TrajectoriesBuilder, Episodes, EnvSpec, list[str]]:
    """Read the episodes as the file has them; return also their environment, and notes.

    offset: (O,) what is taken off observations.
    """
    obs, action, reward = _arrays(file, path, layout)
    steps, sizes = len(obs), (obs.shape[1], action.shape[1])
    # For all arrays together: small types become float32 here.
    check_claim(4 * steps * (sum(sizes) + 1), path.stat().st_size, str(path))
    timeout = _flags(file, "timeouts", steps, path) if has(file, "timeouts") else None
    terminal = _flags(file, "terminals", steps, path)
    episodes = split(terminal, timeout, layout.limit, lambda: _breaks(file, obs))
    del terminal, timeout
    rows = slice(0, int(episodes.lengths.sum()))
    made, env = None, layout.env
    if layout.leading is not None:
        leading = layout.leading, sizes[1]
        made = TrajectoriesBuilder(layout.name, episodes.lengths, *leading, _part(offset, leading))
        if not _read_leading(obs, made.obs, made.obs_offset):
            made, env = None, layout.full_env or layout.env
    if made is None:
        made = TrajectoriesBuilder(layout.name, episodes.lengths, *sizes, _part(offset, sizes))
        _read_obs(obs, made.obs, rows, made.obs_offset)
    for block in _blocks(obs):
        made.first_obs[:] = first_finite(read_rows(obs, block)[:, : made.obs.shape[1]])
        if np.isfinite(made.first_obs).all():
            break
    read_into(action, made.action, rows)
    read_into(reward, made.reward, rows)
    return made, episodes, env, _read_final_obs(file, made)


def _part(offset: Float64 | None, sizes: tuple[int, ...]) -> Float64 | None:
    # An offset that was found for other dimensions is of a reading that was given up.
    return offset if offset is not None and len(offset) == sizes[0] else None


def _read_obs(data: h5py.Dataset, out: Float32, rows: slice, offset: Float64 | None) -> None:
    """Read rows of observations into a float32 array of as many columns, without the offset."""
    if offset is None:
        read_into(data, out, rows)
        return
    size = max(1, _BLOCK // max(1, data.shape[1]))
    for row in range(rows.start, rows.stop, size):
        block = slice(row, min(row + size, rows.stop))
        values = read_rows(data, block)[:, : len(offset)]
        out[block.start - rows.start : block.stop - rows.start] = values - offset


def _read_final_obs(file: h5py.File, made: TrajectoriesBuilder) -> list[str]:
    """Read the final observations; without usable next_observations, return a note.

    Within an episode, they have to be the next rows' observations (they are not if only one of the
    two was normalised). If they are that at the ends, too, they are the observations moved by one.
    """
    (final_obs, made.final_obs), last = (made.final_obs, None), made.starts[1:] - 1
    if final_obs is None or not has(file, "next_observations"):
        return []
    obs = numeric(file, "observations", ndim=2)
    try:
        after = numeric(file, "next_observations", ndim=2)
    except UserError as error:
        return [f"next_observations not used: {error}"]
    if after.shape != obs.shape:
        return [f"next_observations not used: their shape is {after.shape}, not {obs.shape}"]
    inside, at_ends = list[Flags](), list[Flags]()
    for rows in _blocks(after):
        first, end = np.searchsorted(last, (rows.start, rows.stop))
        width = after.shape[1] if made.obs_offset is None else final_obs.shape[1]
        values: Float32 = np.empty((rows.stop - rows.start, width), np.float32)
        _read_obs(after, values, rows, made.obs_offset)
        values = values[:, : final_obs.shape[1]]
        final_obs[first:end] = values[last[first:end] - rows.start]
        some = np.arange(rows.start, min(rows.start + _COMPARED, rows.stop))
        for found, which in ((inside, np.setdiff1d(some, last)), (at_ends, last[first:end])):
            which = which[which < len(made.obs) - 1]
            found.append(same_rows(values[which - rows.start], made.obs[which + 1]))
    if len(last) > 1 and np.concatenate(at_ends).all():
        return ["next_observations not used: they are the next rows at the ends of episodes, too"]
    if 2 * (same := np.concatenate(inside)).sum() < len(same):
        return ["next_observations not used: they are not the observations of the next rows"]
    made.final_obs = final_obs
    return []


def _runs_at_goals(
    file: h5py.File, layout: Layout, made: TrajectoriesBuilder, episodes: Episodes
) -> tuple[Flags, list[str]]:
    """Return which episodes (E,) to leave out as further steps at a goal, and the notes.

    In a user's own file, a run may also have episodes of one step: they are left out only if
    there is no reset between them. A file mostly of such episodes is taken as it is.
    """
    runs, none = goal_runs(episodes), np.zeros(len(episodes.lengths), np.bool_)
    count = int(runs.sum())
    if not (layout.goal_runs or (not isinstance(layout, Entry) and 2 * count < len(made.obs))):
        return none, []
    if not count:
        return none, []
    obs = numeric(file, "observations")
    if layout.goal_runs or go_on(runs, episodes, made.obs, _breaks(file, obs)):
        return runs, [f"{count} steps left out that follow on the goal at the goal"]
    return none, [
        f"{count} of {len(runs)} episodes are one terminal step after another: if they are further "
        f"steps at a goal, mark the first of each run alone as terminal"
    ]


def _flags(file: h5py.File, key: str, steps: int, path: Path) -> Flags:
    data = numeric(file, key)
    if data.shape not in ((steps,), (steps, 1)):
        raise UserError(f"{path}: {key} has shape {data.shape} for {steps} steps; store one each")
    values = read_rows(data).reshape(steps)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError(f"{path}: {key} has NaN; store 0 or 1 for every step")
    return values.astype(np.bool_)


def _breaks(file: h5py.File, obs: h5py.Dataset) -> Flags | None:
    """Return (N,) where next_observations differ from the next row's observation.

    None where they tell nothing: they are missing, or differ at most rows (one was normalised).
    """
    if not has(file, "next_observations"):
        return None
    after = numeric(file, "next_observations")
    if after.shape != obs.shape:
        return None
    breaks = np.zeros(len(obs), np.bool_)
    for rows in _blocks(obs):
        last = min(rows.stop, len(obs) - 1)
        if rows.start >= last:
            break
        here = read_rows(after, slice(rows.start, last))
        there = read_rows(obs, slice(rows.start + 1, last + 1))
        breaks[rows.start : last] = ~same_rows(here, there)
    return None if 2 * breaks.sum() > len(breaks) else breaks


def _read_leading(obs: h5py.Dataset, out: Float32, offset: Float64 | None) -> bool:
    """Read the first columns into `out`; return False as soon as another column is not 0."""
    rows, columns = out.shape
    for block in _blocks(obs):
        part: NDArray[np.float32] = np.empty((block.stop - block.start, obs.shape[1]), np.float32)
        read_into(obs, part, block)
        if part[:, columns:].any():
            return False
        kept = out[block.start : block.stop]
        kept[:] = part[: len(kept), :columns] - (0.0 if offset is None else offset)
    return rows > 0


def _blocks(data: h5py.Dataset) -> Iterator[slice]:
    """Yield slices of rows of about 8 MB that do not cut the chunks of a data set (N, ·)."""
    chunk = data.chunks[0] if data.chunks else 1
    rows = max(1, _BLOCK // max(1, data.shape[1]))
    size = chunk * (rows // chunk) or rows
    for row in range(0, len(data), size):
        yield slice(row, min(row + size, len(data)))
