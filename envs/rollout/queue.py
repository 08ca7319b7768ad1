"""The unbiased episode queue: every queued episode is run once and counts, for any K."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.rollout.episode import Played, World
from envs.rollout.loop import Actor, play
from envs.worlds.make import EnvLike
from envs.worlds.spec import EnvSpec

Progress = Callable[[int, int], object]
"""Called with (episodes done, episodes in all)."""


@dataclass(frozen=True)
class Rollout:
    """The results, indexed by the place in the queue: entry i was reset with seeds[i]."""

    returns: NDArray[np.float64]
    """(E,) sums of rewards; NaN where the episode failed"""
    lengths: NDArray[np.int64]
    """(E,) steps, up to where it failed"""
    terminated: NDArray[np.bool_]
    """(E,) False where the time limit ended the episode"""
    success: NDArray[np.bool_] | None = None
    """(E,) True where info["success"] (or "is_success") was true after any step of the episode;
    None where the environment reports neither."""
    episodes: tuple[Episode, ...] | None = None
    """With record=True: every step, T + 1 observations each; without those that failed."""
    failures: dict[int, str] = field(default_factory=dict[int, str])
    """What happened, in one line, by the episode's place in the queue; see `forgiving`."""
    env: EnvSpec = field(default_factory=EnvSpec)
    action_low: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    action_high: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def trajectories(self) -> Trajectories | None:
        """The recorded episodes as Trajectories, or None without record=True."""
        if self.episodes is None:
            return None
        return Trajectories.from_episodes(
            self.episodes,
            env=self.env,
            name=f"rollout of {self.env.env_id}",
            action_low=self.action_low,
            action_high=self.action_high,
        )


def rollout(
    env: EnvLike,
    actor: Actor,
    seeds: Sequence[int],
    *,
    num_envs: int = 16,
    num_procs: int = 1,
    record: bool = False,
    forgiving: bool = False,
    part_of: int = 0,
    progress: Progress | None = None,
) -> Rollout:
    """Run every queued episode once, K = num_envs at a time, and return all of their results.

    env: an id, a specification, or a function that makes an environment.
    Episode i starts with env.reset(seed=seeds[i]). Each environment takes the next episode of the
    queue when its own ends; when the queue is dry the rows shrink. Nothing is left out and nothing
    is cut, so the results have no bias towards short episodes, and an actor whose rows do not
    influence each other gives the same results for any K.
    num_procs: processes that share environments and queue, this one among them
    (envs.rollout.processes);
    the actor is pickled for the others. They start within seconds, so that it pays for long ones.
    forgiving: an environment that raises an error, or gives an observation or a reward that is not
    finite, fails its episode alone, and is made anew for the next; otherwise that is raised. Where
    it cannot be made anew, the other environments play on without it. What is an error of the
    actor's is raised in any case.
    part_of: episodes of a queue that other machines play too; by default these are all.
    progress(done, total) is called after each episode. Environments are closed at the end, and on
    errors. Raises UserError where the actor returns an action that is not finite, where more than
    half of the episodes fail, and where no environment is left to play the others.

    Example:
        >>> import numpy as np
        >>> def still(obs, reward, resets, episode):
        ...     return np.zeros((len(obs), 1))
        >>> result = rollout("Pendulum-v1", still, seeds=range(5), num_envs=2)
        >>> result.lengths.tolist(), result.terminated.any().item()
        ([200, 200, 200, 200, 200], False)
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or min(num_envs, num_procs) < 1:
        raise UserError(
            f"{len(seeds)} episodes over {num_envs} environments in {num_procs} processes; "
            f"all need 1 or more"
        )
    world = World(env, seeds, record, forgiving)
    played: list[Played | None] = [None] * len(seeds)
    count, failures = itertools.count(1), dict[int, str]()
    name = "the environment" if callable(env) else EnvSpec.of(env).env_id

    def finished(episode: Played) -> None:
        played[episode.index] = episode
        if episode.failure is not None:
            failures[episode.index] = episode.failure
            too_many(name, failures, part_of or len(seeds))
        done = next(count)
        if progress is not None:
            progress(done, len(seeds))

    num_envs = min(num_envs, len(seeds))
    num_procs = min(num_procs, num_envs)
    if num_procs == 1:
        queue = iter(range(len(seeds)))
        facts = play(world, actor, num_envs, lambda: next(queue, None), finished)
    else:
        from envs.rollout.processes import spread

        facts = spread(world, actor, num_envs, num_procs, finished)
    if left := played.count(None):
        raise UserError(
            f"{left} of {len(seeds)} episodes of {name} were not played, as every environment "
            f"failed and none could be made anew, the last at {list(failures.values())[-1]}: mend "
            "the environment, or its version"
        )
    return replace(_collect(played), failures=dict(sorted(failures.items())), **facts)


class TooManyFailed(UserError):
    """More than half of the episodes failed."""


def too_many(name: str, failures: Mapping[int, str], total: int) -> None:
    """Raise TooManyFailed where more than half of the episodes did: what is left means nothing."""
    if 2 * len(failures) > total:
        raise TooManyFailed(
            f"{len(failures)} of {total} episodes of {name} failed, one of them at "
            f"{next(iter(failures.values()))}: mend the environment, or its version"
        )


def _collect(queue: list[Played | None]) -> Rollout:
    played = [p for p in queue if p is not None]
    assert len(played) == len(queue), "episodes were lost"  # all behind them would move up
    successes = [p.success for p in played]
    episodes = tuple(p.episode for p in played if p.episode is not None)
    return Rollout(
        np.array([p.total for p in played]),
        np.array([p.length for p in played], np.int64),
        np.array([p.terminated for p in played], np.bool_),
        np.array([bool(s) for s in successes]) if any(s is not None for s in successes) else None,
        episodes or None,
    )
