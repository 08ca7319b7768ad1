"""envpool steps environments in C++ threads: for evaluations during training, never for scores.

It has its own build of MuJoCo and other initial states for a seed, so a score measured with it
could not be repeated elsewhere. To choose a checkpoint it is as good as gymnasium, where
`check_supported` finds both environments to be the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.errors import UserError
from envs.rollout.loop import Actor, action_error, check_actions
from envs.rollout.queue import Progress, Rollout, check_failures
from envs.worlds.make import make_env, time_limit
from envs.worlds.spec import EnvSpec

SHARED = (
    "max_episode_steps",
    "frame_skip",
    "forward_reward_weight",
    "ctrl_cost_weight",
    "healthy_reward",
    "terminate_when_unhealthy",
    "reset_noise_scale",
    "exclude_current_positions_from_observation",
)
"""Arguments of an environment that have the same meaning in both."""
TOLERANCE = 1e-4
"""Of `largest_difference`: far above rounding, far below another reward or model."""


def pool_rollout(
    env: EnvSpec | str,
    actor: Actor,
    seeds: Sequence[int],
    *,
    num_envs: int = 16,
    num_threads: int = 0,
    progress: Progress | None = None,
) -> Rollout:
    """Run a queue of episodes as envs.rollout.queue.rollout does, in environments of envpool.

    Each episode has its own environment (2 ms, 0.6 MB), seeded with its seed; num_envs of them are
    stepped at once. So envpool never resets an environment itself, and results depend neither on
    num_envs nor on num_threads (0: one for each core). Rewards have the precision of float32.
    Unlike in gymnasium, an episode that terminates in the last step of the time limit is not
    `terminated`. An episode with an observation or a reward that is not finite has failed.
    Raises UserError where envpool is missing, or does not have the environment or its arguments.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or num_envs < 1:
        raise UserError(f"{len(seeds)} episodes over {num_envs} environments; both need 1 or more")
    spec = EnvSpec.of(env)
    pool = _make(spec, seeds, num_threads)
    space, total = pool.action_space, len(seeds)
    returns, lengths = np.zeros(total), np.zeros(total, np.int64)
    terminated, failures = np.zeros(total, np.bool_), dict[int, str]()
    starts = np.array(pool.reset()[0], np.float64)
    begun, done = min(num_envs, total), 0
    rows = np.arange(begun)  # each row's place in the queue
    obs, reward, resets = starts[rows], np.zeros(begun), np.ones(begun, np.bool_)
    while len(rows):
        # Fresh arrays at every step: an actor may keep what it was given.
        actions = np.asarray(actor(obs, reward, resets, rows.copy()))
        if (bad := check_actions(actions, (len(rows), *space.shape))) is not None:
            raise action_error(i := int(rows[bad]), seeds[i], int(lengths[i]))
        obs, reward, fell, truncated, _ = pool.step(actions, rows)
        obs, reward = np.array(obs, np.float64), np.array(reward, np.float64)
        resets = np.zeros(len(rows), np.bool_)
        returns[rows] += reward
        lengths[rows] += 1
        invalid = ~(np.isfinite(obs).all(axis=1) & np.isfinite(reward))
        for i in rows[invalid]:
            failures[int(i)] = f"seed {seeds[i]}, step {lengths[i] - 1}: not finite"
            returns[i] = np.nan
        if invalid.any():
            check_failures(spec.env_id, failures, total)
        ended = np.flatnonzero(fell | truncated | invalid)
        if not len(ended):
            continue
        terminated[rows[ended]] = (fell & ~invalid)[ended]
        for _ in ended:
            done += 1
            if progress is not None:
                progress(done, total)
        fresh, last = np.split(ended, [min(len(ended), total - begun)])
        rows[fresh] = np.arange(begun, begun + len(fresh))
        begun += len(fresh)
        obs[fresh], reward[fresh], resets[fresh] = starts[rows[fresh]], 0.0, True
        if len(last):
            keep = np.delete(np.arange(len(rows)), last)
            rows, obs, reward, resets = rows[keep], obs[keep], reward[keep], resets[keep]
            hook = getattr(actor, "keep", None)
            if hook is not None and len(rows):
                hook(keep)
    return Rollout(
        returns,
        lengths,
        terminated,
        failures=failures,
        env=spec,
        action_low=np.asarray(space.low, np.float32),
        action_high=np.asarray(space.high, np.float32),
    )


def check_supported(env: EnvSpec | str) -> None:
    """Raise UserError where envpool is missing, or its environment differs from gymnasium's."""
    spec = EnvSpec.of(env)
    difference = largest_difference(spec)
    if difference > TOLERANCE:
        raise _refusal(
            f"envpool's {spec.env_id} is not gymnasium's: in a trial they differ by "
            f"{difference:.2g}"
        )


def largest_difference(
    env: EnvSpec | str, *, seeds: Sequence[int] = range(4), steps: int = 50
) -> float:
    """Return the largest difference from gymnasium, of observations and rewards (x) over 1 + |x|.

    Both start in envpool's initial states and take the same random actions, which are small, as
    rounding errors grow fast where HalfCheetah tumbles. The result is infinite where an episode
    ends in only one of them. Raises UserError where gymnasium cannot be put into envpool's state:
    observations must be positions, of which the first may be missing, and velocities.
    """
    spec = EnvSpec.of(env)
    pool = _make(spec, seeds, 1)
    ours = make_env(spec)
    try:
        starts, walker = pool.reset()[0], _walker(spec.env_id, ours, pool)
        actions = np.random.default_rng(0).uniform(-0.3, 0.3, (steps, *pool.action_space.shape))
        actions = (actions * pool.action_space.high).astype(np.float32)
        theirs = [pool.step(np.repeat(action[None], len(seeds), 0)) for action in actions]
        worst = 0.0
        for k, start in enumerate(starts):
            ours.reset(seed=0)
            split = len(start) - walker.model.nv
            positions = np.zeros(walker.model.nq)
            positions[len(positions) - split :] = start[:split]
            walker.set_state(positions, start[split:])
            worst = max(worst, _relative(walker._get_obs(), start))
            for action, (obs, reward, *flags, _) in zip(actions, theirs, strict=True):
                seen, gain, *ends, _ = ours.step(action)
                worst = max(worst, _relative(obs[k], seen), _relative(reward[k], gain))
                if any(ends) != any(flag[k] for flag in flags):
                    return np.inf
                if any(ends):
                    break
        return worst
    finally:
        ours.close()


def _walker(env_id: str, env: Any, pool: Any) -> Any:
    # The environment with MuJoCo's state, if all of it but the first positions is observed.
    walker, sizes = env.unwrapped, (env.observation_space.shape, env.action_space.shape)
    model: Any = getattr(walker, "model", None)
    if sizes == (pool.observation_space.shape, pool.action_space.shape) and hasattr(model, "nq"):
        (seen,) = pool.observation_space.shape
        if model.nv <= seen <= model.nq + model.nv:
            return walker
    raise _refusal(f"envpool's {env_id} cannot be compared with gymnasium's")


def _relative(found: Any, expected: Any) -> float:
    return float((np.abs(found - expected) / (1 + np.abs(expected))).max())


def _make(spec: EnvSpec, seeds: Sequence[int], num_threads: int) -> Any:
    env_id = spec.env_id
    if spec.wrappers or spec.reset_options:
        raise _refusal(f"envpool's {env_id} has neither wrappers nor options of a reset")
    if spec.obs_keys:
        raise _refusal(f"envpool has no {env_id} whose observations are put together from parts")
    try:
        envpool: Any = importlib.import_module("envpool")
    except ImportError as error:
        raise UserError(
            f'--eval.stepper envpool needs: pip install -e ".[envpool]" ({error}); '
            f"or use --eval.stepper gymnasium"
        ) from error
    if env_id not in envpool.list_all_envs():
        raise _refusal(f"envpool has no {env_id}")
    defaults = envpool.make_spec(env_id).config._asdict()
    arguments = {**spec.kwargs, "max_episode_steps": time_limit(spec)}
    for name, value in arguments.items():
        if name not in SHARED or name not in defaults or value is None:
            raise _refusal(f"envpool cannot make {env_id} with {name}={value}")
        arguments[name] = type(defaults[name])(value)
    numbers = [seed % 2**31 for seed in seeds]
    return envpool.make_gymnasium(
        env_id, num_envs=len(numbers), seed=numbers, num_threads=num_threads, **arguments
    )


def _refusal(why: str) -> UserError:
    return UserError(f"{why}: use --eval.stepper gymnasium")
