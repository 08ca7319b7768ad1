"""Make gymnasium environments: one place for their options, and for errors that name the fix."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from envs.errors import UserError
from envs.trajectories import unlimited

EnvLike = str | Callable[[], gym.Env[Any, Any]]
"""An environment id, or a function without arguments that makes an environment."""

_ROBOTICS = ("Adroit", "AntMaze", "PointMaze", "FrankaKitchen", "Fetch", "HandManipulate")


def make_env(env: EnvLike) -> gym.Env[Any, Any]:
    """Make one environment without gymnasium's checker, which costs time at every step.

    Raises UserError for an id that is not registered or whose packages are not installed.
    """
    if not isinstance(env, str):
        return env()
    if env.startswith(_ROBOTICS):
        _register_robotics(env)
    try:
        with _quiet_deprecations(), warnings.catch_warnings():
            # The data decides which version it is compared on; the latest is no better.
            warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
            return gym.make(env, disable_env_checker=True)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(
            f"{env} needs a package that is not installed ({_first_line(error)}); "
            f'for MuJoCo: pip install "gymnasium[mujoco]"'
        ) from error
    except gym.error.Error as error:
        near = difflib.get_close_matches(env, list(gym.registry), n=3, cutoff=0.5)
        hint = f"near matches: {', '.join(near)}" if near else _first_line(error)
        raise UserError(f"{env!r} is not an environment that gymnasium knows; {hint}") from error


def env_sizes(env: EnvLike) -> tuple[int, int]:
    """Return the observation and action sizes (O, A) of an environment with flat Box spaces."""
    made = make_env(env)
    try:
        sizes: list[int] = []
        for kind, space in (("observation", made.observation_space), ("action", made.action_space)):
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise UserError(
                    f"{env} has the {kind} space {space}; only flat Box spaces are supported, "
                    f"wrap it (gymnasium.wrappers.FlattenObservation) or choose another environment"
                )
            sizes.append(int(space.shape[0]))
        return sizes[0], sizes[1]
    finally:
        made.close()


def action_bounds(env: EnvLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the least and the greatest actions (A,) of an environment with a flat Box of them.

    Raises UserError where they have no bounds.
    """
    made = make_env(env)
    try:
        space = made.action_space
        assert isinstance(space, spaces.Box)
        if unlimited(space.low).any() or unlimited(space.high).any():
            raise UserError(
                f"{env} has actions without bounds ({space}), and policies are scaled to bounds; "
                f"register it with a bounded action space or choose another environment"
            )
        return space.low.astype(np.float32), space.high.astype(np.float32)
    finally:
        made.close()


def registered(env_id: str) -> EnvSpec | None:
    """Return how gymnasium makes an id, None where it or the package that has it is not there."""
    if env_id.startswith(_ROBOTICS):
        try:
            _register_robotics(env_id)
        except UserError:
            return None
    return gym.registry.get(env_id)


def _register_robotics(env_id: str) -> None:
    """Register gymnasium-robotics' environments, or say how to get them."""
    if env_id in gym.registry:
        return
    try:
        robotics = importlib.import_module("gymnasium_robotics")
    except ImportError as error:
        raise UserError(f"{env_id} needs: pip install gymnasium-robotics") from error
    gym.register_envs(robotics)


@contextmanager
def _quiet_deprecations() -> Iterator[None]:
    """Keep MuJoCo's deprecation notes about gymnasium's own XML off the terminal and the disk.

    MuJoCo 4 writes one line for every HalfCheetah made, to stderr and to MUJOCO_LOG.TXT in the
    working directory. Only the making of an environment is quiet: warnings of the simulation
    itself, such as an unstable state, still appear.
    """
    try:
        mujoco = importlib.import_module("mujoco")
        before = mujoco.get_mju_user_warning()
    except (ImportError, AttributeError):
        yield
        return
    mujoco.set_mju_user_warning(lambda _message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
