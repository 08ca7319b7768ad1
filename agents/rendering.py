"""Pictures of an environment, on machines without a screen too."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from envs.errors import UserError
from envs.make import make_env

INSTALL = (
    "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa); "
    "MUJOCO_GL=egl|osmesa chooses one"
)


def rendering_env(
    env_id: str, *, obs_keys: Any = (), env_kwargs: Mapping[str, Any] | None = None
) -> gym.Env[Any, Any]:
    """Make an environment whose render() returns an image (H, W, 3) of bytes.

    Raises UserError where it has no such mode, or where this machine cannot draw.
    """
    choose_backend()
    arguments = {**(env_kwargs or {}), "render_mode": "rgb_array"}
    env = make_env(env_id, obs_keys=obs_keys, env_kwargs=arguments)
    modes = env.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        env.close()
        raise UserError(f"{env_id} cannot be filmed: it draws {', '.join(modes) or 'nothing'}")
    if not any(key.startswith("camera") for key in env_kwargs or {}):
        follow(env)
    return env


def follow(env: gym.Env[Any, Any]) -> None:
    """Look through MuJoCo's camera that goes along, where there is one, and draw a little faster.

    gymnasium's own camera stays where it is, and a walker is out of sight in two seconds.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    mujoco: Any = importlib.import_module("mujoco")
    track = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if track >= 0:
        renderer.camera_id = track
    # Without a graphics card a picture takes 36 ms so, and 150 ms by default.
    renderer.model.vis.quality.shadowsize = 1024
    renderer.model.vis.quality.offsamples = 0


def frame(env: gym.Env[Any, Any]) -> np.ndarray:
    """Return a picture (H, W, 3), u8, of an environment made by rendering_env.

    Raises UserError, with what to install, where this machine cannot draw.
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


def choose_backend() -> None:
    """Set MUJOCO_GL to what works here, unless it is set: gymnasium itself would take a window."""
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux"):
        return
    for name in ("egl", "osmesa"):
        if _works(name):
            os.environ["MUJOCO_GL"] = name
            return


@functools.cache
def _works(name: str) -> bool:
    # In another process: to import one of OpenGL's bindings rules out the other.
    code = f"from mujoco.{name} import GLContext\nGLContext(64, 64).make_current()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return done.returncode == 0
