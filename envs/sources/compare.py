"""Compare a data set with the environment that agents are evaluated in."""

from __future__ import annotations

import numpy as np

from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.worlds.interface import Interface, interface
from envs.worlds.make import time_limit
from envs.worlds.wrappers import SKIP_STEPS

_NEARLY_ALL, _SOME = 0.9, 0.01
_SAMPLE = 20_000  # rows whose observations are looked at
_SEVERAL = 10  # episodes; of fewer, equal lengths may be chance


def check_env(trajectories: Trajectories) -> tuple[str, ...]:
    """Return one line for each way in which the data's environment may not be as it was recorded.

    Raises UserError where its observations or actions are not those of the data.
    """
    name, env_id = trajectories.name, trajectories.env_id
    if not env_id:
        why = trajectories.notes[0] if trajectories.notes else "write it again with an env_id"
        raise UserError(
            f"{name} names no environment to evaluate in ({why}); --eval.episodes 0 trains on it "
            f"without"
        )
    found = interface(trajectories.env)
    obs_dim, action_dim = found.obs_dim, found.action_dim
    if (trajectories.obs_dim, trajectories.action_dim) != (obs_dim, action_dim):
        raise UserError(
            f"{name} has observations of size {trajectories.obs_dim} and actions of size "
            f"{trajectories.action_dim}, {env_id} has {obs_dim} and {action_dim}; the data is of "
            f"another environment or version, or made with other arguments: --data.env-kwargs"
        )
    notes: dict[str, None] = {}
    for recorded in trajectories.recorded:
        _check_spaces(recorded, found, trajectories)
        if how := recorded.other_obs(found):
            notes[
                f"recorded with observations in {how} of {env_id}: another version, or a wrapper "
                f"that is not named, has scaled them"
            ] = None
    if not (trajectories.recorded or trajectories.env.obs_keys) and len(found.parts) > 1:
        notes[
            f"observations are taken for the parts of {env_id} in the order "
            f"{', '.join(found.parts)}; --data.obs-keys names another"
        ] = None
    for note in (
        _outside(trajectories, found),
        _horizon(trajectories, time_limit(trajectories.env)),
    ):
        if note:
            notes[note] = None
    return tuple(notes)


def _check_spaces(recorded: Interface, env: Interface, data: Trajectories) -> None:
    """Raise UserError where the names and sizes of parts, or the bounds of actions, differ."""
    if how := recorded.other_parts(env):
        raise UserError(
            f"{data.name} was recorded with the {how}, which {data.env_id} has; the data is of "
            f"another version, or --data.obs-keys names the parts that both have"
        )
    if how := recorded.other_actions(env):
        raise UserError(
            f"{data.name} was recorded with actions in {how}, which {data.env_id} takes: through a "
            f"wrapper that its metadata do not name, or in another version; record it in the "
            f"environment with gymnasium's RescaleAction, or --eval.episodes 0 trains without it"
        )


def _outside(data: Trajectories, env: Interface) -> str | None:
    """Return a note where observations are outside of the environment's bounds."""
    if not env.obs_low:
        return None
    rows = np.unique(np.linspace(0, data.num_steps - 1, _SAMPLE, dtype=np.int64))
    obs = data.obs[rows] + (0.0 if data.obs_offset is None else data.obs_offset)
    low, high = (np.array(side) for side in (env.obs_low, env.obs_high))
    with np.errstate(invalid="ignore", over="ignore"):
        slack = np.nan_to_num(1e-3 * (high - low), posinf=0.0)
        share = ((obs < low - slack) | (obs > high + slack)).mean(axis=0)
    worst = int(share.argmax())
    if share[worst] <= _SOME:
        return None
    return (
        f"observations lie outside of the bounds that {data.env_id} has (number {worst} at "
        f"{100 * share[worst]:.3g} % of the steps, in [{low[worst]:g}, {high[worst]:g}]): they may "
        f"be in other units, or in another order"
    )


def _horizon(data: Trajectories, limit: int | None) -> str | None:
    """Return a note where nearly all episodes that did not terminate were cut before the limit.

    And where episodes are longer than the limit. Not where less than half of all were cut, nor
    where they were cut at a goal: each at its largest reward, after different numbers of steps.
    """
    open_ended = np.flatnonzero(~data.terminated)
    lengths = data.lengths[open_ended]
    if any(name in SKIP_STEPS for name, _ in data.env.wrappers):
        return None  # the limit counts other steps
    longer = int((data.lengths > (limit or np.inf)).sum())
    if longer:
        most = int(data.lengths.max())
        return (
            f"{longer} of {data.num_episodes} episodes have up to {most} steps, an evaluation ends "
            f"after {limit}: their returns do not compare; --data.env-kwargs max_episode_steps "
            f"{most} evaluates over as many"
        )
    cut = lengths < (limit or 0)
    if limit and (note := _equal_lengths(data, limit)):
        return note
    if limit is None or cut.sum() < max(_NEARLY_ALL * len(cut), data.num_episodes / 2 + 0.1):
        return None
    most = int(lengths[cut].max())
    if (lengths[cut] == most).mean() < _NEARLY_ALL and _at_goals(data, open_ended[cut]):
        return None
    least = int(lengths[cut].min())
    after = f"{least} to {most}" if least < most else f"{most}"
    return (
        f"{int(cut.sum())} of {data.num_episodes} episodes were cut after {after} steps, an "
        f"evaluation lasts up to {limit}: their returns do not compare; --data.env-kwargs "
        f"max_episode_steps {most} evaluates over as many"
    )


def _equal_lengths(data: Trajectories, limit: int) -> str | None:
    """Return a note where nearly all episodes terminated after the same number of steps."""
    most = int(data.lengths.max())
    equal = (data.lengths == most) & data.terminated
    few = data.num_episodes < _SEVERAL or equal.mean() < _NEARLY_ALL
    if few or not 1 < most < limit:
        return None
    return (
        f"{int(equal.sum())} of {data.num_episodes} episodes terminated after exactly {most} "
        f"steps, an evaluation lasts up to {limit}: if that was a time limit, their returns do "
        f"not compare; --data.env-kwargs max_episode_steps {most} evaluates over as many"
    )


def _at_goals(data: Trajectories, episodes: np.ndarray) -> bool:
    """Whether nearly all of these episodes have their largest reward at the last step alone."""
    sparse = 0
    for index in episodes:
        reward = data.reward[data.starts[index] : data.starts[index + 1]]
        sparse += bool(len(reward) == 1 or reward[-1] > reward[:-1].max())
    return sparse >= _NEARLY_ALL * len(episodes)
