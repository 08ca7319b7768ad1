"""Pictures of an environment, also on machines without a screen."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from agents.machine import device
from envs.errors import UserError
from envs.worlds.flat import flatten
from envs.worlds.make import OPENGL, make_env, make_raw
from envs.worlds.spec import EnvSpec

INSTALL = f"on Debian or Ubuntu: {OPENGL}; MUJOCO_GL=egl|osmesa chooses one"


def rendering_env(env: EnvSpec | str) -> gym.Env[Any, Any]:
    """Make an environment whose render() returns an image (H, W, 3) of bytes.

    Raises UserError if it has no such mode, or if this machine cannot draw.
    """
    device.before_opengl()
    spec = EnvSpec.of(env)
    plain = make_env(spec)
    modes = plain.metadata.get("render_modes", [])
    plain.close()
    if "rgb_array" not in modes:
        raise UserError(f"{spec.env_id} cannot be filmed: it draws {', '.join(modes) or 'nothing'}")
    made = make_env(replace(spec, kwargs={**spec.kwargs, "render_mode": "rgb_array"}))
    if _draws_with_mujoco(made):
        choose_backend(spec.env_id)
    if not any(key.startswith("camera") for key in spec.kwargs):
        follow(made)
    return made


def window_env(spec: EnvSpec) -> gym.Env[Any, Any]:
    """Make an environment that is shown in a window as it is stepped."""
    device.before_opengl()
    env = make_raw(replace(spec, kwargs={**spec.kwargs, "render_mode": "human"}))
    follow(env)
    return flatten(Following(env), spec.obs_keys, spec.env_id)


class Following(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that makes the camera of MuJoCo's window follow the robot."""

    def reset(self, **options: Any) -> Any:
        """Reset the environment, which opens its window."""
        started = self.env.reset(**options)
        renderer = getattr(self.unwrapped, "mujoco_renderer", None)
        if renderer is not None and renderer.viewer is not None:
            mujoco: Any = importlib.import_module("mujoco")
            renderer.viewer._hide_menu = True  # it covers half of the picture; H shows it
            camera = _track(renderer.model)
            if camera >= 0:
                renderer.viewer.cam.type = mujoco.mjtCamera.mjCAMERA_FIXED
                renderer.viewer.cam.fixedcamid = camera
        return started


def follow(env: gym.Env[Any, Any]) -> None:
    """Draw faster, and by the camera that follows the robot: gymnasium's own does not move."""
    for thing in _held(env):
        renderer = getattr(thing, "mujoco_renderer", None)
        if renderer is None:
            continue
        camera = _track(renderer.model)
        if camera >= 0 and thing is env.unwrapped:  # a maze is shown as a whole
            renderer.camera_id = camera
        # Without a graphics card, a picture takes 36 ms with this, and 150 ms by default.
        renderer.model.vis.quality.shadowsize = 1024
        renderer.model.vis.quality.offsamples = 0


def _track(model: Any) -> int:
    """Return the id of the camera that follows the robot, -1 if there is none."""
    mujoco: Any = importlib.import_module("mujoco")
    return mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")


def frame(env: gym.Env[Any, Any]) -> np.ndarray:
    """Return a picture (H, W, 3), u8, of an environment made by rendering_env.

    Raises UserError, with what to install, if this machine cannot draw.
    """
    try:
        image = np.asarray(env.render(), np.uint8)
        if image.ndim != 3:
            raise ValueError(f"an image of shape {image.shape}")
    except Exception as error:  # OpenGL's bindings raise anything, mujoco.FatalError included
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = env.spec.id if env.spec is not None else "the environment"
        raise UserError(f"{what} cannot be drawn here ({reason}); {INSTALL}") from None
    return image


def choose_backend(env_id: str) -> None:
    """Set MUJOCO_GL to a backend that works here, unless it is set; gymnasium would need a window.

    Raises UserError, with what to install, if there is no such backend and no display either.
    """
    if not sys.platform.startswith("linux"):
        return
    if chosen := os.environ.pop("MUJOCO_GL", "").lower().strip():
        os.environ["MUJOCO_GL"] = chosen  # gymnasium, unlike MuJoCo, wants it in lower case
        return
    for name in ("egl", "osmesa"):
        if _works(name):
            os.environ["MUJOCO_GL"] = name
            return
    if not has_display():
        raise UserError(f"{env_id} cannot be drawn here, without a screen; {INSTALL}")


def has_display() -> bool:
    """Whether windows can be opened here."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def _draws_with_mujoco(env: gym.Env[Any, Any]) -> bool:
    """Whether MuJoCo draws an environment or, as in mazes, one that it holds."""
    return any("mujoco" in cls.__module__ for thing in _held(env) for cls in type(thing).__mro__)


def _held(env: gym.Env[Any, Any]) -> list[Any]:
    """Return an environment and its attributes, such as the robot of a maze."""
    return [env.unwrapped, *vars(env.unwrapped).values()]


@functools.cache
def _works(name: str) -> bool:
    # In another process, as only one of OpenGL's bindings can be imported.
    code = f"from mujoco.{name} import GLContext\nGLContext(64, 64).make_current()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return done.returncode == 0
