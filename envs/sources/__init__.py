"""Sources: each turns an id into Trajectories. `load` chooses the one that knows the id."""

from __future__ import annotations

import difflib

from envs.catalog import LOCAL_DATA
from envs.errors import UserError
from envs.make import env_sizes
from envs.sources import local, minari
from envs.trajectories import Trajectories

__all__ = ["check_env", "load", "near_matches"]


def load(name: str, *, seed: int = 0, progress: bool = True) -> Trajectories:
    """Load a data set by its id: one of the project's own, or a Minari data set on the disk.

    seed: of the rollouts, for the project's own sets; others do not depend on it.
    Raises UserError for an unknown id (with near matches) and for data that cannot be used.
    """
    if name in LOCAL_DATA:
        return local.load(name, seed=seed, progress=progress)
    if minari.exists(name):
        return minari.read(name)
    near = near_matches(name)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(_known())}"
    raise UserError(f"{name} is not a data set on this disk ({minari.root()}); {hint}")


def near_matches(name: str, count: int = 3) -> list[str]:
    """Return the known ids most like this name, best first."""
    plain = {_plain(known): known for known in _known()}
    return [plain[key] for key in difflib.get_close_matches(_plain(name), plain, count, 0.55)]


def check_env(trajectories: Trajectories) -> None:
    """Raise UserError where the data's sizes are not those of its environment."""
    name, env_id = trajectories.name, trajectories.env_id
    if not env_id:
        raise UserError(f"{name} names no environment; write it again with an env_id")
    obs_dim, action_dim = env_sizes(env_id)
    if (trajectories.obs_dim, trajectories.action_dim) != (obs_dim, action_dim):
        raise UserError(
            f"{name} has observations of size {trajectories.obs_dim} and actions of size "
            f"{trajectories.action_dim}, {env_id} has {obs_dim} and {action_dim}; "
            f"the data is of another environment or version"
        )


def _known() -> list[str]:
    return sorted({*LOCAL_DATA, *minari.list_ids()})


def _plain(name: str) -> str:
    """Reduce an id to what people type: no project's name, no version, no kind of separator."""
    plain = name.lower().removeprefix("minrnn/").rsplit("-v", 1)[0]
    return plain.replace("/", "-").replace("_", "-")
