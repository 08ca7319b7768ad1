"""Try an agent in its environment: ask for returns, play every queued episode, report what came."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from agents.acting import engines
from agents.acting.policy import Policy
from agents.evaluation.across_ranks import whole
from agents.machine.ranks import ALONE, Ranks
from agents.model.decision import DecisionModel
from configs import Stepper
from envs.errors import UserError
from envs.rollout import Rollout, check_failures, rollout
from envs.rollout.envpool import pool_rollout
from envs.rollout.processes import choose_num_procs
from envs.scoring import statistics
from envs.worlds.make import env_sizes, time_limit
from envs.worlds.spec import EnvSpec


@dataclass(frozen=True)
class Result:
    """What came of asking for one return, of one trained run or of several.

    An episode whose environment failed has no return. Means, rates and intervals are over the
    others, and are to be shown with the number of `failures` beside them.
    """

    target: float
    returns: np.ndarray
    """(episodes,) raw returns in the order of their seeds, NaN where the environment failed;
    several runs lie end to end."""
    lengths: np.ndarray
    """(episodes,) steps, up to where it failed."""
    success: np.ndarray | None = None
    """(episodes,) whether the environment reported success; None where it does not say."""
    terminated: np.ndarray | None = None
    """(episodes,) False where the time limit ended the episode."""
    num_runs: int = 1
    """Trained runs, each with as many of the episodes."""
    engine: str = ""
    """What ran the model's steps (see agents.acting.engines)."""
    actions: tuple[np.ndarray, ...] | None = None
    """Each episode's actions (T, A), where they were asked for; none where it failed."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """What the environment did wrong, by the episode's place."""

    @property
    def finished(self) -> np.ndarray:
        """(episodes,) whether the episode was played to its end."""
        return np.isfinite(self.returns)

    @property
    def obtained(self) -> np.ndarray:
        """The returns of the episodes that were played to their end."""
        return self.returns[self.finished]

    @property
    def mean(self) -> float:
        """Mean return over all episodes that finished."""
        return float(self.obtained.mean())

    @property
    def iqm(self) -> float:
        """Interquartile mean of the returns of all episodes that finished."""
        return statistics.iqm(self.obtained)

    @property
    def mean_length(self) -> float:
        """Mean number of steps of the episodes that finished."""
        return float(self.lengths[self.finished].mean())

    @property
    def success_rate(self) -> float | None:
        """Share of successes in the episodes that finished."""
        return None if self.success is None else float(self.success[self.finished].mean())

    def by_run(self, values: np.ndarray) -> np.ndarray:
        """Return values (episodes,) as (num_runs, episodes of a run)."""
        return values.reshape(self.num_runs, -1)

    @cached_property
    def mean_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean return."""
        return statistics.nested_interval(self.by_run(self.returns), statistics.row_means)

    @cached_property
    def iqm_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the interquartile mean."""
        return statistics.nested_interval(self.by_run(self.returns), statistics.row_iqms)

    @cached_property
    def success_interval(self) -> tuple[float, float] | None:
        """95 % interval of the share of successes; None where the environment does not say."""
        if self.success is None:
            return None
        low, high = statistics.rate_interval(self.success[self.finished])
        if self.num_runs == 1:
            return low, high
        # Wilson's interval takes episodes for independent; those of one run are not.
        won = np.where(self.finished, self.success, np.nan)
        nested = statistics.nested_interval(self.by_run(won), statistics.row_means)
        return min(low, nested[0]), max(high, nested[1])


def pool(results: Sequence[Result]) -> Result:
    """Return the results of several runs for one target, which have as many episodes, as one."""
    first = results[0]
    if len(results) == 1:
        return first
    assert {(r.target, len(r.returns)) for r in results} == {(first.target, len(first.returns))}

    def joined(name: str) -> np.ndarray | None:
        parts = [getattr(result, name) for result in results]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    lists = [result.actions for result in results]
    starts = np.cumsum([0, *(len(result.returns) for result in results)]).tolist()
    return Result(
        first.target,
        np.concatenate([result.returns for result in results]),
        np.concatenate([result.lengths for result in results]),
        joined("success"),
        joined("terminated"),
        sum(result.num_runs for result in results),
        ", ".join(dict.fromkeys(result.engine for result in results)),
        None if None in lists else tuple(a for actions in lists for a in actions or ()),
        {
            start + place: text
            for start, result in zip(starts, results, strict=False)
            for place, text in result.failures.items()
        },
    )


def evaluate(
    model: DecisionModel,
    env: EnvSpec | str,
    targets: Sequence[float],
    *,
    episodes: int,
    seed: int,
    num_envs: int,
    window: int | None = None,
    device: torch.device | str = "cpu",
    engine: str = "auto",
    num_procs: int | None = 1,
    record: bool = False,
    stepper: Stepper = "gymnasium",
    ranks: Ranks = ALONE,
    progress: Callable[[int, int], object] | None = None,
) -> list[Result]:
    """Play `episodes` episodes for each target, all in one queue; the same seeds for each target.

    Every queued episode counts, however long it takes; one whose environment fails has no return
    (see Result), and more than half of those of one target raise UserError. `window` re-runs that
    many last steps at each step instead of carrying the state, which `engine` does (see
    agents.acting.engines). `num_envs` environments, in `num_procs` processes, are stepped at once;
    None takes as many processes as are soonest done, where that cannot change a score. `record`
    keeps the actions. `stepper="envpool"` plays other episodes, in one process with threads (see
    envs.rollout.envpool): to choose
    by, not to report; parts of observations, `num_procs` and `record` are for gymnasium.
    `ranks` share the episodes, and all of them return all results; actions stay where they were.
    """
    spec = EnvSpec.of(env)
    if stepper == "envpool" and (spec.obs_keys or record or num_procs != 1):
        raise ValueError("envpool takes no obs_keys, num_procs or record")
    if record and ranks.size > 1:
        raise ValueError("one process alone can record actions")
    asked = np.repeat(np.asarray(targets, dtype=np.float64), episodes)
    seeds = [seed + i for _ in targets for i in range(episodes)]
    check_env(model, spec)
    was_training = model.training
    try:
        mine = slice(ranks.rank, None, ranks.size)
        policy = Policy(model, asked[mine], window=window, device=device, engine=engine)
        if num_procs is None:
            limit = time_limit(spec) or 0
            alike = policy.engine.name in engines.SAME_FOR_ANY_ROWS
            num_procs = choose_num_procs(len(seeds) * limit) if alike else 1
        shared: dict[str, Any] = {"num_envs": num_envs, "progress": progress}
        with exact_matmul():
            if ranks.size > 1 and not seeds[mine]:
                played = None
            elif stepper == "envpool":
                played = pool_rollout(spec, policy, seeds[mine], **shared)
            else:
                more = {"num_procs": num_procs, "record": record}
                more |= {"tolerant": True, "queue_size": len(seeds)}
                played = rollout(spec, policy, seeds[mine], **shared, **more)
    finally:
        model.train(was_training)
    played = whole(played, ranks)
    parts = [range(i * episodes, (i + 1) * episodes) for i in range(len(targets))]
    actions = _actions(played)
    return [
        _result(played, float(target), part, policy.engine.name, actions, spec.env_id)
        for target, part in zip(targets, parts, strict=True)
    ]


def _result(
    played: Rollout,
    target: float,
    part: range,
    engine: str,
    actions: Sequence[np.ndarray] | None,
    env_id: str,
) -> Result:
    """Return the part of a rollout that one target was asked in."""
    failures = {i - part.start: played.failures[i] for i in part if i in played.failures}
    if failures:
        check_failures(f"{env_id}, asked for {target:g},", failures, len(part))
    here = slice(part.start, part.stop)
    return Result(
        target,
        played.returns[here],
        played.lengths[here],
        None if played.success is None else played.success[here],
        played.terminated[here],
        engine=engine,
        actions=None if actions is None else tuple(actions[here]),
        failures=failures,
    )


def _actions(played: Rollout) -> list[np.ndarray] | None:
    """Return each episode's actions, none of those that failed; None where none were recorded."""
    if played.episodes is None:
        return None
    recorded, none = iter(played.episodes), np.zeros((0, len(played.action_low)), np.float32)
    places = range(len(played.returns))
    return [none if i in played.failures else next(recorded).action for i in places]


def check_env(model: DecisionModel, env: EnvSpec | str) -> None:
    """Raise UserError where the environment cannot be made, or is not of the model's sizes."""
    fits = (model.obs_dim, model.action_dim)
    sizes = env_sizes(env)
    if sizes != fits:
        raise UserError(
            f"the agent was trained for observations and actions of sizes {fits}, "
            f"{EnvSpec.of(env).env_id} has {sizes}: evaluate it in the environment that it "
            f"was trained for"
        )


@contextmanager
def exact_matmul():
    """Act in full float32: reported scores do not depend on a CPU's reduced-precision units."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def beyond_data(model: DecisionModel, targets: Sequence[float]) -> str | None:
    """Say which targets lie outside the returns-to-go of the data, and what is asked instead."""
    low, high = float(model.normaliser.rtg_low), float(model.normaliser.rtg_high)
    slack = 1e-3 * max(abs(low), abs(high))  # targets are rounded
    outside = [target for target in targets if not low - slack <= target <= high + slack]
    if not outside:
        return None
    names = ", ".join(f"{target:g}" for target in outside)
    return f"beyond the data, which has {low:.0f} to {high:.0f}, and taken for its ends: {names}"


def describe_memory(window: int | None) -> str:
    """Say how the agent remembers while it acts."""
    return "state carried through the episode" if window is None else f"window of {window} re-run"
