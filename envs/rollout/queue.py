"""The unbiased queue of episodes: each is run once and counts, for any number of environments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.rollout.episode import Outcome, Settings
from envs.rollout.loop import Actor, run_episodes
from envs.worlds.make import EnvLike
from envs.worlds.spec import EnvSpec

Progress = Callable[[int, int], object]
"""Called with (episodes done, all episodes)."""


@dataclass(frozen=True)
class Rollout:
    """Results of a rollout; entry i is the episode that was reset with seeds[i]."""

    returns: NDArray[np.float64]
    """(E,) sums of rewards; NaN where the episode failed"""
    lengths: NDArray[np.int64]
    """(E,) steps, up to a failure"""
    terminated: NDArray[np.bool_]
    """(E,) False where the time limit ended the episode"""
    success: NDArray[np.bool_] | None = None
    """(E,) True where info["success"] (or "is_success") was true after any step of the episode;
    None where the environment reports neither."""
    episodes: tuple[Episode, ...] | None = None
    """With record=True: the episodes that did not fail, with T + 1 observations each."""
    failures: dict[int, str] = field(default_factory=dict[int, str])
    """One line for each failed episode, by its place in the queue; see `tolerant`."""
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
    tolerant: bool = False,
    queue_size: int = 0,
    progress: Progress | None = None,
) -> Rollout:
    """Run every queued episode once, K = num_envs at a time, and return all results.

    Episode i starts with env.reset(seed=seeds[i]). Each environment takes the next episode of the
    queue when its own ends; when the queue is empty, the actor gets fewer rows. No episode is left
    out or cut short, so the results are not biased towards short episodes, and an actor whose rows
    are independent gives the same results for any K.
    num_procs: processes that share the environments and the queue, this one included. The actor is
    pickled for the others, which take seconds to start.
    tolerant: an environment that raises an error, or returns an observation or a reward that is not
    finite, fails its episode alone and is made again for the next one; otherwise the error is
    raised. Where it cannot be made again, the other environments continue without it. Errors of the
    actor are always raised.
    queue_size: the number of episodes where other machines run a part of the queue; by default
    that of `seeds`.
    progress(done, total) is called after each episode. Environments are closed at the end and on
    errors. Raises UserError where the actor returns an action that is not finite, where more than
    half of the episodes fail, and where no environment is left to run the rest.

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
    settings = Settings(env, seeds, record, tolerant)
    outcomes: list[Outcome | None] = [None] * len(seeds)
    count, failures = itertools.count(1), dict[int, str]()
    name = "the environment" if callable(env) else EnvSpec.of(env).env_id

    def finished(outcome: Outcome) -> None:
        outcomes[outcome.index] = outcome
        if outcome.failure is not None:
            failures[outcome.index] = outcome.failure
            check_failures(name, failures, queue_size or len(seeds))
        done = next(count)
        if progress is not None:
            progress(done, len(seeds))

    num_envs = min(num_envs, len(seeds))
    num_procs = min(num_procs, num_envs)
    if num_procs == 1:
        queue = iter(range(len(seeds)))
        fields = run_episodes(settings, actor, num_envs, lambda: next(queue, None), finished)
    else:
        from envs.rollout.processes import run_in_processes

        fields = run_in_processes(settings, actor, num_envs, num_procs, finished)
    if left := outcomes.count(None):
        raise UserError(
            f"{left} of {len(seeds)} episodes of {name} were not run: every environment failed and "
            f"none could be made again, the last at {list(failures.values())[-1]}; repair the "
            "environment, or choose another version of it"
        )
    return replace(_collect(outcomes), failures=dict(sorted(failures.items())), **fields)


class TooManyFailed(UserError):
    """More than half of the episodes failed."""


def check_failures(name: str, failures: Mapping[int, str], total: int) -> None:
    """Raise TooManyFailed where more than half of the episodes failed: the rest means nothing."""
    if 2 * len(failures) > total:
        raise TooManyFailed(
            f"{len(failures)} of {total} episodes of {name} failed, one of them at "
            f"{next(iter(failures.values()))}; repair the environment, or choose another version "
            f"of it"
        )


def _collect(queue: list[Outcome | None]) -> Rollout:
    outcomes = [outcome for outcome in queue if outcome is not None]
    assert len(outcomes) == len(queue), "episodes were lost"  # all behind them would move up
    successes = [outcome.success for outcome in outcomes]
    episodes = tuple(o.episode for o in outcomes if o.episode is not None)
    return Rollout(
        np.array([o.total for o in outcomes]),
        np.array([o.length for o in outcomes], np.int64),
        np.array([o.terminated for o in outcomes], np.bool_),
        np.array([bool(s) for s in successes]) if any(s is not None for s in successes) else None,
        episodes or None,
    )
