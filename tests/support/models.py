"""Small models and data sets that several test files need."""

from __future__ import annotations

import numpy as np
import torch

from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from configs import ModelConfig
from envs.data.trajectories import Episode, Trajectories


def tiny_model(obs_dim: int = 4, action_dim: int = 2, **kwargs) -> DecisionModel:
    """A model of a few thousand parameters, in eval mode, the same at every call."""
    torch.manual_seed(0)
    spaces = Spaces(
        [0.0] * obs_dim, [1.0] * obs_dim, [-1.0] * action_dim, [1.0] * action_dim, 10.0, 0.0, 50.0
    )
    return DecisionModel(ModelConfig(dim=16, num_layers=2, **kwargs), spaces).eval()


def tiny_data(num_episodes: int = 12, obs_dim: int = 4, action_dim: int = 2) -> Trajectories:
    """Episodes of 5 to 30 steps in which the action is a function of observation and return."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(num_episodes):
        T = int(rng.integers(5, 31))
        obs = rng.normal(size=(T + 1, obs_dim))
        reward = rng.uniform(0, 1, T)
        to_go = np.cumsum(reward[::-1])[::-1]
        action = np.tanh(obs[:-1, :action_dim] + to_go[:, None] / 10)
        episodes.append(Episode(obs, action, reward, terminated=True))
    return Trajectories.from_episodes(episodes, env="Toy-v0", name="toy/toy-v0")
