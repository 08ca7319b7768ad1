"""Compare a data set with the environment that agents are evaluated in."""

from __future__ import annotations

import numpy as np

from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.worlds.interface import Interface, interface
from envs.worlds.make import time_limit
from envs.worlds.wrappers import SKIP_STEPS

_NEARLY_ALL = 0.9


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
    if note := _horizon(trajectories, time_limit(trajectories.env)):
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


def _horizon(data: Trajectories, limit: int | None) -> str | None:
    """Return a note where nearly all episodes that did not terminate were cut before the limit.

    They are more than half of all.
    Not where they were cut at a goal: each at its largest reward, after different numbers of steps.
    """
    open_ended = np.flatnonzero(~data.terminated)
    lengths = data.lengths[open_ended]
    if any(name in SKIP_STEPS for name, _ in data.env.wrappers):
        return None  # the limit counts other steps
    cut = lengths < (limit or 0)
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


def _at_goals(data: Trajectories, episodes: np.ndarray) -> bool:
    """Whether nearly all of these episodes have their largest reward at the last step alone."""
    sparse = 0
    for index in episodes:
        reward = data.reward[data.starts[index] : data.starts[index + 1]]
        sparse += bool(len(reward) == 1 or reward[-1] > reward[:-1].max())
    return sparse >= _NEARLY_ALL * len(episodes)
