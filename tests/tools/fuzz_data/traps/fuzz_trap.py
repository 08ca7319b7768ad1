"""What a mutated file asks to be imported. Nothing may."""

from __future__ import annotations

import gymnasium as gym


class Env(gym.Env):
    """An environment that only a file names."""


gym.register("fuzz_trap/Env-v0", Env)
gym.register("Env-v0", Env)
