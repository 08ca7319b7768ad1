"""Evaluate one agent in its environment: ask for returns, and play every queued episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from agents.acting import engines
from agents.acting.policy import Policy
from agents.evaluation.across_ranks import gather
from agents.evaluation.result import Result
from agents.evaluation.spec import EvalSpec
from agents.machine.ranks import ALONE, Ranks
from agents.model.decision import DecisionModel
from envs.errors import UserError
from envs.rollout import Rollout, check_failures, rollout
from envs.rollout.envpool import pool_rollout
from envs.rollout.processes import choose_num_procs
from envs.worlds.interface import interface
from envs.worlds.make import env_sizes, time_limit
from envs.worlds.spec import EnvSpec


def evaluate(
    model: DecisionModel,
    env: EnvSpec,
    spec: EvalSpec,
    *,
    ranks: Ranks = ALONE,
    progress: Callable[[int, int], object] | None = None,
) -> list[Result]:
    """Play `spec.episodes` episodes for each target, all in one queue; return a result for each.

    Every queued episode counts, however long it takes. An episode whose environment fails has no
    return (see Result); if more than half of the episodes of one target fail, UserError is raised.
    `ranks` share the episodes and all of them return all results; recorded actions need a single
    rank. Progress is reported as (episodes done, episodes in all).
    """
    if spec.stepper == "envpool" and (env.obs_keys or spec.record or spec.num_procs != 1):
        raise ValueError("envpool takes no obs_keys, num_procs or record")
    if spec.record and ranks.size > 1:
        raise ValueError("one process alone can record actions")
    asked = np.repeat(np.asarray(spec.targets, dtype=np.float64), spec.episodes)
    seeds = [spec.seed + i for _ in spec.targets for i in range(spec.episodes)]
    check_env(model, env)
    was_training = model.training
    try:
        mine = slice(ranks.rank, None, ranks.size)
        options: Any = {"window": spec.window, "device": spec.device, "engine": spec.engine}
        policy = Policy(model, asked[mine], **options)
        num_procs = spec.num_procs
        if num_procs is None:
            limit = time_limit(env) or 0
            alike = policy.engine.name in engines.SAME_FOR_ANY_ROWS
            num_procs = choose_num_procs(len(seeds) * limit) if alike else 1
        shared: dict[str, Any] = {"num_envs": spec.num_envs, "progress": progress}
        with exact_matmul():
            if ranks.size > 1 and not seeds[mine]:
                played = None
            elif spec.stepper == "envpool":
                played = pool_rollout(env, policy, seeds[mine], **shared)
            else:
                more = {"num_procs": num_procs, "record": spec.record}
                more |= {"tolerant": True, "queue_size": len(seeds)}
                played = rollout(env, policy, seeds[mine], **shared, **more)
    finally:
        model.train(was_training)
    played = gather(played, ranks)
    actions = _actions(played)
    results: list[Result] = []
    for place, target in enumerate(spec.targets):
        first, last = place * spec.episodes, (place + 1) * spec.episodes
        episodes = slice(first, last)
        failures = {i - first: text for i, text in played.failures.items() if first <= i < last}
        if failures:
            check_failures(f"{env.env_id}, asked for {target:.10g},", failures, spec.episodes)
        results.append(
            Result(
                float(target),
                played.returns[episodes],
                played.lengths[episodes],
                None if played.success is None else played.success[episodes],
                played.terminated[episodes],
                engine=policy.engine.name,
                actions=None if actions is None else tuple(actions[episodes]),
                failures=failures,
            )
        )
    return results


def _actions(played: Rollout) -> list[np.ndarray] | None:
    """Return the actions of each episode, none of those that failed; None if not recorded."""
    if played.episodes is None:
        return None
    recorded, none = iter(played.episodes), np.zeros((0, len(played.action_low)), np.float32)
    places = range(len(played.returns))
    return [none if i in played.failures else next(recorded).action for i in places]


def check_env(model: DecisionModel, env: EnvSpec) -> None:
    """Raise UserError if the environment cannot be made, or is not of the sizes of the model."""
    fits, sizes = (model.obs_dim, model.action_dim), env_sizes(env)
    if sizes != fits:
        raise UserError(
            f"the agent was trained for observations and actions of sizes {fits}, {env.env_id} has "
            f"{sizes}: evaluate it in the environment that it was trained for"
        )


def other_actions(model: DecisionModel, env: EnvSpec) -> str | None:
    """Return how the bounds of the agent's actions differ from the environment's, as text.

    None if they do not. The data may have had no bounds; or, as 0.1.0 made no wrappers again, the
    agent may be one of its, trained on actions that a wrapper scaled.
    """
    found, head = interface(env), model.head
    low, high = (tuple(side.tolist()) for side in (head.action_low, head.action_high))
    mine = dataclasses.replace(found, action_low=low, action_high=high)
    how = mine.other_actions(found)
    return how and f"actions are in {how}, as {env.env_id} takes them"


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
    """Return which targets are outside the returns-to-go of the data, as text; None if none are."""
    low, high = float(model.normaliser.rtg_low), float(model.normaliser.rtg_high)
    slack = 1e-3 * max(abs(low), abs(high))  # targets are rounded
    outside = [target for target in targets if not low - slack <= target <= high + slack]
    if not outside:
        return None
    names = ", ".join(f"{target:.10g}" for target in outside)
    return f"beyond the data, which has {low:.0f} to {high:.0f}, and taken for its ends: {names}"
