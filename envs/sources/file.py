"""HDF5 files by their paths, in D4RL's layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.sources import d4rl
from envs.sources.hdf5 import check_signature
from envs.sources.source import Options, Source
from envs.worlds.spec import EnvSpec

_ENDINGS = (".hdf5", ".h5", ".npz")


def exists(name: str, kind: Callable[[Path], bool] = Path.is_file) -> bool:
    """Return whether a name is the path of a file, or of another `kind`."""
    try:
        return kind(Path(name).expanduser())
    except (OSError, RuntimeError):  # too long for a path, or the home of an unknown user
        return False


def is_file(name: str) -> bool:
    """Return whether a name stands for a file, which may be missing."""
    return name.endswith(_ENDINGS) or exists(name)


def is_path(name: str) -> bool:
    """Return whether a name can only be a path."""
    return name.startswith(("/", "./", "../", "~", ".\\", "..\\")) or Path(name).is_absolute()


def _load(name: str, options: Options) -> Trajectories:
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"{name}: there is no such home folder; write the whole path") from None
    if path.suffix == ".npz" and path.exists():
        raise UserError(
            f"{path} has to become a data set first: python -m envs.sources.arrays {path} "
            f"--env-id ENV --id me/name-v0, then --env me/name-v0"
        )
    check_signature(path, "name an HDF5 file")
    if options.evaluate and not options.env_id:
        raise UserError(
            f"{path} does not say which environment it is of; add it, as in --data.env-id "
            f"Hopper-v4, or train without evaluation: --eval.episodes 0"
        )
    env = None
    if options.env_id:
        env = options.env(EnvSpec(options.env_id, obs_keys=options.obs_keys))
    return d4rl.read_file(path, name=str(path), env=env, cache=options.cache)


SOURCE = Source("a file", is_file, _load)
