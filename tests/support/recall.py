"""An environment that cannot be solved without a memory, for the tests of adapters."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Recall(gym.Env):
    """The action of every step is to be the cue of the first; episodes of random length.

    observation: the cue one-hot, or zeros after the first step; noise. As a Dict with kind "dict",
    as an image with kind "image". One episode in two is truncated.
    """

    def __init__(self, kind="box", longest=9):
        self.kind, self.longest = kind, longest
        self.action_space = spaces.Discrete(2)
        flat = spaces.Box(-5, 5, (3,), np.float32)
        self.observation_space = {
            "box": flat,
            "dict": spaces.Dict({"a": flat, "b": spaces.Box(-5, 5, (2,), np.float32)}),
            "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
        }[kind]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(2, self.longest + 1))
        self.cue = int(self.np_random.integers(2))
        return self._observe(), {}

    def step(self, action):
        reward = float(action == self.cue)
        self.time += 1
        over = self.time == self.length
        late = bool(self.length % 2)
        return self._observe(), reward, over and not late, over and late, {}

    def _observe(self):
        noise = self.np_random.normal()
        flat = np.array([0, 0, np.clip(noise, -5, 5)], np.float32)
        flat[self.cue] = self.time == 0
        if self.kind == "image":
            return np.full((36, 36, 1), 200 * (self.time == 0) * self.cue, np.uint8)
        return {"a": flat, "b": flat[:2]} if self.kind == "dict" else flat
