"""Make gymnasium environments: one place for their options and for errors that name the fix."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs import registration
from numpy.typing import NDArray

from envs.errors import UserError, interruptible
from envs.worlds.flat import flatten
from envs.worlds.spec import EnvSpec, unlimited
from envs.worlds.wrappers import ResetOptions, WholeActions, wrap

EnvLike = str | EnvSpec | Callable[[], gym.Env[Any, Any]]
"""An environment id, its specification, or a function that makes an environment."""

OPENGL = "apt-get install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"
"""What draws without a screen on Debian or Ubuntu."""
_ROBOTICS = ("Adroit", "AntMaze", "PointMaze", "FrankaKitchen", "Fetch", "HandManipulate")


def make_env(env: EnvLike) -> gym.Env[Any, Any]:
    """Make one environment; observations become flat vectors (envs.worlds.flat).

    Raises UserError for an id that is not registered, whose packages are not installed, or that
    does not take the arguments; and for observations that cannot be made flat.
    """
    if callable(env):
        return flatten(env(), ())
    spec = EnvSpec.of(env)
    return flatten(make_raw(spec), spec.obs_keys, spec.env_id)


def make_raw(env: EnvSpec | str) -> gym.Env[Any, Any]:
    """Make one environment with its observations as they are.

    Actions for a space of whole numbers are rounded.
    gymnasium's checker is left out: it takes time at every step. Raises UserError as make_env does.
    """
    spec = EnvSpec.of(env)
    env, arguments = spec.env_id, dict(spec.kwargs)
    if env.startswith(_ROBOTICS):
        _register_robotics(env)
    try:
        with interruptible(), _quiet_deprecations(), warnings.catch_warnings():
            # The data decides the version; the latest is no better to compare with.
            warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
            made = gym.make(env, **{"disable_env_checker": True, **arguments})
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        _blame_opengl(env)
        raise UserError(
            f"{env} needs a package that is not installed ({_first_line(error)}); "
            f'for MuJoCo: pip install "gymnasium[mujoco]"'
        ) from error
    except gym.error.Error as error:
        near = difflib.get_close_matches(env, list(gym.registry), n=3, cutoff=0.5)
        hint = f"near matches: {', '.join(near)}" if near else _first_line(error)
        raise UserError(f"{env!r} is not an environment that gymnasium knows; {hint}") from error
    except Exception as error:  # environments raise anything for arguments from a file
        _blame_opengl(env)
        if env.startswith(_ROBOTICS) and isinstance(error, AssertionError):
            # mujoco_utils compares joint types with integers, which newer versions do not have.
            raise UserError(
                f"{env} does not work with the installed version of MuJoCo; "
                f'pip install "mujoco<3.17" (3.3.7 works)'
            ) from error
        if not arguments:
            raise
        raise UserError(
            f"{env} cannot be made with {arguments} ({_first_line(error)}); correct the arguments"
        ) from error
    if spec.wrappers:
        made = wrap(made, spec.wrappers, env)
    space = made.action_space
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        made = WholeActions(made)
    return ResetOptions(made, spec.reset_options) if spec.reset_options else made


def env_sizes(env: EnvLike) -> tuple[int, int]:
    """Return the sizes (O, A) of an environment; UserError where its spaces are not vectors."""
    made, _ = make_vector_env(env)
    made.close()
    obs, action = made.observation_space, made.action_space
    assert obs.shape is not None
    assert action.shape is not None
    return obs.shape[0], action.shape[0]


def make_vector_env(env: EnvLike) -> tuple[gym.Env[Any, Any], str]:
    """Return an environment and its name; UserError where its spaces are not vectors."""
    made = make_env(env)
    name = _name(env, made)
    try:
        _vector(name, "observation", made.observation_space)
        _vector(name, "action", made.action_space)
    except BaseException:
        made.close()
        raise
    return made, name


def action_bounds(
    env: EnvLike, *, finite: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the bounds (A,) of actions; UserError where they are not vectors.

    finite: whether an action without bounds is an error, too.
    """
    made = env() if callable(env) else make_raw(env)
    try:
        space = _vector(_name(env, made), "action", made.action_space)
        if finite and (unlimited(space.low) | unlimited(space.high)).any():
            raise UserError(
                f"{_name(env, made)} has actions without bounds ({space}), but policies are scaled "
                f"to bounds; register it with a bounded action space or choose another environment"
            )
        return space.low.astype(np.float32), space.high.astype(np.float32)
    finally:
        made.close()


def registered(env_id: str) -> registration.EnvSpec | None:
    """Return gymnasium's registration of an id; None where the id or its package is missing.

    As in gym.make, a part before a colon is a module to import, and no version means the latest.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            with interruptible():
                importlib.import_module(module)
        elif name.startswith(_ROBOTICS):
            _register_robotics(name)
        space, plain, number = registration.parse_env_id(name)
    except (ImportError, UserError, gym.error.Error):
        return None
    if number is None and name not in gym.registry:
        latest = registration.find_highest_version(space, plain)
        name = registration.get_env_id(space, plain, latest)
    return gym.registry.get(name)


def time_limit(env: EnvSpec | str) -> int | None:
    """Return the time limit of an environment in steps; None where it has none."""
    spec = EnvSpec.of(env)
    steps = spec.kwargs.get("max_episode_steps")
    if steps is None and (known := registered(spec.env_id)) is not None:
        steps = known.max_episode_steps
    return steps if steps and steps > 0 else None  # -1 means none


def _register_robotics(env_id: str) -> None:
    """Register gymnasium-robotics' environments. Raises UserError where it is not installed."""
    if env_id in gym.registry:
        return
    try:
        # On import it prints news about its Adroit environments, whichever are used.
        quiet = not env_id.startswith("Adroit")
        with interruptible(), redirect_stderr(io.StringIO()) if quiet else nullcontext():
            robotics = importlib.import_module("gymnasium_robotics")
    except ImportError as error:
        _blame_opengl(env_id)
        raise UserError(f"{env_id} needs: pip install gymnasium-robotics") from error
    except Exception:
        _blame_opengl(env_id)
        raise
    gym.register_envs(robotics)


def _blame_opengl(env_id: str) -> None:
    """Raise UserError where MuJoCo, which loads what MUJOCO_GL names, cannot be imported so."""
    chosen = os.environ.get("MUJOCO_GL", "").strip()
    if not chosen:
        return
    try:
        importlib.import_module("mujoco")
    except ModuleNotFoundError:
        return
    except Exception as error:  # OpenGL's bindings raise anything
        raise UserError(
            f"{env_id} cannot be made: MuJoCo does not start with MUJOCO_GL={chosen} "
            f"({_first_line(error)}); unset MUJOCO_GL, or on Debian or Ubuntu: {OPENGL}"
        ) from error


@contextmanager
def _quiet_deprecations() -> Iterator[None]:
    """Hide MuJoCo's deprecation warnings about gymnasium's XML files, not those of the simulation.

    MuJoCo 4 writes a line for every HalfCheetah made, to stderr and to MUJOCO_LOG.TXT.
    """
    try:
        with interruptible():
            mujoco = importlib.import_module("mujoco")
        before = mujoco.get_mju_user_warning()
    except Exception:  # an environment that needs it tells why
        yield
        return
    mujoco.set_mju_user_warning(lambda _message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _vector(name: str, kind: str, space: spaces.Space[Any]) -> spaces.Box:
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return space
    raise UserError(
        f"{name} has the {kind} space {space}; only flat Box spaces and Dicts of them are "
        f"supported, wrap it or choose another environment"
    )


def _name(env: EnvLike, made: gym.Env[Any, Any]) -> str:
    return type(made.unwrapped).__name__ if callable(env) else EnvSpec.of(env).env_id


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
