"""Sources: each turns an id or a file into Trajectories. `load` chooses the one that knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from envs.data.combine import combine
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.sources import d4rl, local, minari
from envs.sources.hdf5 import check_signature
from envs.sources.names import closest
from envs.worlds.catalog import LOCAL_DATA
from envs.worlds.make import env_sizes

__all__ = ["check_env", "load", "near_matches"]

_FILES = (".hdf5", ".h5", ".npz")


def load(
    name: str,
    *,
    env_id: str | None = None,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    download: bool = True,
    cache: bool = True,
    progress: bool = True,
    evaluate: bool = False,
) -> Trajectories:
    """Load a data set, or several, separated by commas.

    name: one of the project's own, a Minari id, a name of D4RL's, or the path of an HDF5 file in
    D4RL's layout, whose environment `env_id` names (see `evaluate`). What is not on the disk is
    rolled out or downloaded; with download=False, the latter is an error.
    weights: the share of training steps that each of several data sets gets; by default all steps
    are alike.
    seed: of the rollouts, for the project's own sets; others do not depend on it.
    cache: keep a copy of large sets that later starts map into memory.
    evaluate: whether an environment is needed: a file without one is refused before it is read.
    Raises UserError for an unknown id (with near matches) and for data that cannot be used.
    """
    options = {"seed": seed, "download": download, "cache": cache, "progress": progress}
    options["evaluate"] = evaluate
    names = [name] if _exists(name) else [part.strip() for part in name.split(",")]
    if not all(names):
        raise UserError(f"{name!r} names an empty data set; separate names by single commas")
    if env_id is not None and not any(_is_file(part) for part in names):
        raise UserError(f"--data.env-id is for files; {name} knows that it is of an environment")
    return combine([_load(part, env_id, **options) for part in names], weights)


def _load(
    name: str,
    env_id: str | None,
    *,
    seed: int,
    download: bool,
    cache: bool,
    progress: bool,
    evaluate: bool,
) -> Trajectories:
    if name in LOCAL_DATA:
        return local.load(name, seed=seed, progress=progress, cache=cache)
    if _is_file(name):
        return _load_file(Path(name).expanduser(), env_id, cache, evaluate)
    if minari.exists(name):
        return minari.read(name, cache=cache)
    if name in d4rl.names():
        _check_download(download, name, d4rl.file_of(name))
        return d4rl.load(name, progress=progress, cache=cache)
    if "/" in name and not name.startswith("minrnn/") and minari.is_id(name):
        _check_download(download, name, minari.root() / name)
        from envs.sources.minari import remote  # takes a while, and is rarely needed

        remote.download(name, progress=progress)
        return minari.read(name, cache=cache)
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    near, folder = near_matches(name), _exists(name, Path.is_dir)
    if folder and (_is_path(name) or not near):
        return UserError(f"{name} is a folder; name a file in it, or the id of a data set")
    if _is_path(name):
        return UserError(f"{name} does not exist; check the path")
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        own = sorted({each.rsplit("/", 1)[0] for each in LOCAL_DATA})
        d4rl_families = sorted({each.split("-", 1)[0] for each in d4rl.names()})
        hint = (
            f"name a file, a Minari id, one of {', '.join(own)} (and /...), or D4RL's "
            f"{', '.join(d4rl_families)} (and -...); `python train.py --help` has more of it"
        )
    return UserError(f"{name} is not a data set on this disk ({minari.root()}); {hint}")


def _load_file(path: Path, env_id: str | None, cache: bool, evaluate: bool) -> Trajectories:
    if path.suffix == ".npz" and path.exists():
        raise UserError(
            f"{path} has to become a data set first: python -m envs.sources.arrays {path} "
            f"--env-id ENV --id me/name-v0, then --env me/name-v0"
        )
    check_signature(path, "name an HDF5 file")
    if evaluate and not env_id:
        raise UserError(
            f"{path} does not say which environment it is of; add it, as in --data.env-id "
            f"Hopper-v4, or train without evaluation: --eval.episodes 0"
        )
    return d4rl.read_file(path, name=str(path), env_id=env_id, cache=cache)


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _is_file(name: str) -> bool:
    return name.endswith(_FILES) or _exists(name)


def _exists(name: str, kind: Callable[[Path], bool] = Path.is_file) -> bool:
    try:
        return kind(Path(name).expanduser())
    except (OSError, RuntimeError):  # too long for a path, or nobody's home
        return False


def _check_download(allowed: bool, name: str, path: Path) -> None:
    if not allowed and not path.exists():
        raise UserError(f"{name} is not on this disk ({path}), and --data.no-download forbids it")


def near_matches(name: str, count: int = 3) -> list[str]:
    """Return the known ids most like this name, best first."""
    return closest(name, _known(), count)


def check_env(trajectories: Trajectories) -> None:
    """Raise UserError where the data's sizes are not those of its environment."""
    name, env_id = trajectories.name, trajectories.env_id
    if not env_id:
        why = trajectories.notes[0] if trajectories.notes else "write it again with an env_id"
        raise UserError(
            f"{name} names no environment to evaluate in ({why}); --eval.episodes 0 trains on it "
            f"without"
        )
    obs_dim, action_dim = env_sizes(
        env_id, obs_keys=trajectories.obs_keys, env_kwargs=trajectories.env_kwargs
    )
    if (trajectories.obs_dim, trajectories.action_dim) != (obs_dim, action_dim):
        raise UserError(
            f"{name} has observations of size {trajectories.obs_dim} and actions of size "
            f"{trajectories.action_dim}, {env_id} has {obs_dim} and {action_dim}; "
            f"the data is of another environment or version"
        )


def _known() -> list[str]:
    return sorted({*LOCAL_DATA, *minari.list_ids(), *d4rl.names()})
