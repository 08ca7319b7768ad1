"""The project's own data sets: rolled out at the first use, then read as Minari data sets."""

from __future__ import annotations

import shutil
from typing import Any

from envs.behaviour import mixes, pointmaze
from envs.behaviour.generate import generate_level
from envs.behaviour.mixes import ENVIRONMENTS, LEVELS, stages
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.files import locked
from envs.sources import minari
from envs.sources.minari.folder import OTHER_ROOT, hidden
from envs.sources.source import Source
from envs.worlds.spec import EnvSpec

LOCAL_DATA = {
    f"minrnn/{family}/{level}-v0": (family, level) for family in ENVIRONMENTS for level in LEVELS
} | {f"minrnn/pointmaze/{maze}-v0": ("pointmaze", maze) for maze in pointmaze.RECIPES}
"""Ids of the data sets that are rolled out here, with their family and level."""

_RECIPE = "minrnn_recipe"  # metadata: the digest of the recipe, which shows a stale data set


def load(
    name: str,
    *,
    seed: int = 0,
    progress: bool = True,
    cache: bool = True,
    obs_keys: tuple[str, ...] = (),
) -> Trajectories:
    """Read one of the project's own data sets; roll it out first if it is not on the disk.

    A seed other than 0 gives another data set, such as minrnn/hopper/medium-seed1-v0.
    cache, obs_keys: as in `minari.read`. Of two processes at once, one makes the set and the other
    waits.
    """
    if name not in LOCAL_DATA:
        raise UserError(f"{name} is not one of {', '.join(LOCAL_DATA)}")
    family, level = LOCAL_DATA[name]
    dataset_id = name if seed == 0 else f"minrnn/{family}/{level}-seed{seed}-v0"
    if family == "pointmaze":
        recipe, roll_out = pointmaze.fingerprint(level, seed), _pointmaze
    else:
        recipe, roll_out = mixes.fingerprint(family, level, seed), _mix
    if not minari.exists(dataset_id):
        lock, partial = hidden("lock", dataset_id), hidden("partial", dataset_id)
        with locked(lock, work=f"makes {dataset_id}", advice=OTHER_ROOT, progress=progress):
            for leftover in partial.parent.glob(f"{partial.name}-*"):  # of killed processes
                shutil.rmtree(leftover, ignore_errors=True)
            if not minari.exists(dataset_id):
                minari.check_new(dataset_id)
                made = roll_out(family, level, seed, progress)
                minari.write(dataset_id, **made, extra={_RECIPE: recipe})
    if minari.metadata(dataset_id).get(_RECIPE) != recipe:
        raise UserError(
            f"{dataset_id} on this disk was made by another version of the project; delete "
            f"{minari.root() / dataset_id} and it is made again"
        )
    return minari.read(dataset_id, cache=cache, obs_keys=obs_keys)


def _mix(family: str, level: str, seed: int, progress: bool) -> dict[str, Any]:
    """Roll out checkpoints; return what minari.write takes."""
    mix = ", ".join(
        f"{stage.policy.lstrip('0')} ({stage.episodes}"
        + (f", noise x {stage.noise:g})" if stage.noise != 1.0 else ")")
        for stage in stages(family, level)
    )
    return {
        "episodes": generate_level(family, level, seed=seed, progress=progress),
        "env": ENVIRONMENTS[family],
        "algorithm": "SAC",
        "description": f"{level} on {ENVIRONMENTS[family]}: episodes sampled from checkpoints of "
        f"one SAC run of the minrnn project, in training order; checkpoint (episodes): {mix}. "
        f"Seed {seed}. Not D4RL's data of that name.",
    }


def _pointmaze(family: str, level: str, seed: int, progress: bool) -> dict[str, Any]:
    """Run the waypoint controller; return what minari.write takes."""
    recipe = pointmaze.RECIPES[level]
    return {
        "episodes": pointmaze.generate(level, seed=seed, progress=progress),
        "env": EnvSpec(recipe.env_id, pointmaze.RECORDED),
        "eval_env": EnvSpec(recipe.env_id, pointmaze.EVALUATED),
        "algorithm": "waypoint controller",
        "code": "envs/behaviour/pointmaze.py of the minrnn project",
        "description": f"{level} maze, made as Minari's D4RL/pointmaze sets are: a noisy waypoint "
        f"controller goes from goal to goal in {recipe.env_id} without a reset; an episode is cut "
        f"at each success, where it earns its one reward. Made for the environment with "
        f"continuing_task=False, where an episode ends at its success. Seed {seed}.",
    }


SOURCE = Source(
    f"one of {', '.join(sorted({each.rsplit('/', 1)[0] for each in LOCAL_DATA}))} (and /...)",
    LOCAL_DATA.__contains__,
    lambda name, options: load(
        name,
        seed=options.seed,
        progress=options.progress,
        cache=options.cache,
        obs_keys=options.obs_keys,
    ),
    lambda: LOCAL_DATA,
)
