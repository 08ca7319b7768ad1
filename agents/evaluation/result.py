"""The result of an evaluation: the episodes of one target return, and their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from envs.scoring import statistics


@dataclass(frozen=True)
class Result:
    """The episodes in which one return was asked for, of one trained run or of several.

    An episode whose environment failed has no return. Means, rates and intervals are over the
    others; show the number of `failures` beside them.
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
    """The engine that ran the steps of the model (see agents.acting.engines)."""
    actions: tuple[np.ndarray, ...] | None = None
    """Each episode's actions (T, A) if they were recorded; none of an episode that failed."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """How the environment failed, by the place of the episode."""

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


def merge_runs(results: Sequence[Result]) -> Result:
    """Return the results of several runs for one target as one; each has as many episodes."""
    first = results[0]
    if len(results) == 1:
        return first
    assert {(r.target, len(r.returns)) for r in results} == {(first.target, len(first.returns))}

    def joined(name: str) -> np.ndarray | None:
        values = [getattr(result, name) for result in results]
        return None if any(value is None for value in values) else np.concatenate(values)

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
