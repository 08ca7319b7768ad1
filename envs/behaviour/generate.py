"""Roll out behaviour policies into episodes: any policy, and the project's own data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from envs.behaviour.actor import PolicyActor
from envs.behaviour.mixes import ENVIRONMENTS, WEIGHTS, stages
from envs.behaviour.policy import Policy, load_policy
from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.rollout import Progress, rollout


def run_policy(
    policy: Policy,
    env_id: str,
    episodes: int,
    seed: Sequence[int],
    *,
    noise: float = 1.0,
    num_envs: int = 16,
    progress: Progress | None = None,
) -> list[Episode]:
    """Roll out `episodes` episodes of one policy; seed is any sequence of integers.

    noise: scale of the policy's own noise.
    The first n episodes are the same whatever `episodes` and `num_envs` are.
    """
    if min(seed) < 0:
        raise UserError(f"seed {min(seed)} is below zero; choose 0 or more")
    # Two streams, so that asking for more episodes does not change the first ones.
    env_seeds, noise_seeds = (
        np.random.SeedSequence([*seed, stream]).generate_state(episodes) for stream in (0, 1)
    )
    result = rollout(
        env_id,
        PolicyActor(policy, noise_seeds.tolist(), noise=noise),
        env_seeds.tolist(),
        num_envs=num_envs,
        record=True,
        progress=progress,
    )
    assert result.episodes is not None
    return list(result.episodes)


def generate_level(
    family: str, level: str, *, seed: int = 0, num_envs: int = 16, progress: bool = True
) -> list[Episode]:
    """Roll out one of the project's own data sets: its checkpoints, in training order."""
    env_id, mix = ENVIRONMENTS[family], stages(family, level)
    episodes: list[Episode] = []
    total = sum(stage.episodes for stage in mix)
    with progress_bar(total, f"making {family} {level}", "episodes", progress) as bar:
        for stage in mix:
            policy = load_policy(WEIGHTS / env_id / f"{stage.policy}.npz")
            episodes += run_policy(
                policy,
                env_id,
                stage.episodes,
                (seed, int(stage.policy)),
                noise=stage.noise,
                num_envs=num_envs,
                progress=lambda _done, _total: bar.update(),
            )
    return episodes


def progress_bar(total: int, title: str, unit: str, show: bool) -> tqdm[Any]:
    """Return a progress bar of `total` units, which is hidden without `show`."""
    return tqdm(total=total, desc=title, unit=unit, disable=not show, leave=False, unit_scale=True)
