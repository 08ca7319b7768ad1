"""The return-conditioned agent: tokens -> Stack -> action. `forward` to train, `step` to act."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import minrnn
from agents.model.tokens import TOKENISERS, Embeddings
from configs import ModelConfig


class Spaces(NamedTuple):
    """What the model has to know of an environment and of its data's normalisation.

    `rtg_low` and `rtg_high` are the least and the largest return-to-go in the data.
    """

    obs_mean: list[float]
    obs_std: list[float]
    action_low: list[float]
    action_high: list[float]
    return_scale: float
    rtg_low: float
    rtg_high: float


class DecisionModel(nn.Module):
    """Predict the action that leads to the return-to-go, from everything seen in the episode.

    Takes raw observations, rewards' units and the data's actions; normalisation lives inside, as
    buffers, so that a checkpoint acts alone.

    Example:
        >>> spaces = Spaces([0.0] * 11, [1.0] * 11, [-1.0] * 3, [1.0] * 3, 1000.0, 0.0, 3200.0)
        >>> model = DecisionModel(ModelConfig(dim=32), spaces).eval()
        >>> obs, rtg = torch.zeros(2, 11), torch.full((2, 1), 3000.0)
        >>> start, now = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
        >>> action, state = model.step(obs, rtg, torch.zeros(2, 3), now, resets=start)
        >>> action.shape
        torch.Size([2, 3])
    """

    obs_mean: Tensor
    obs_std: Tensor
    action_low: Tensor
    action_high: Tensor
    return_scale: Tensor
    rtg_low: Tensor
    rtg_high: Tensor

    def __init__(self, config: ModelConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        self.obs_dim, self.action_dim = len(spaces.obs_mean), len(spaces.action_low)
        for name, value in spaces._asdict().items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

        embed = Embeddings(
            self.obs_dim,
            self.action_dim,
            config.dim,
            prev_action=config.prev_action,
            timesteps=config.timestep_embedding,
            rtg_scales=config.rtg_scales,
        )
        self.tokens = TOKENISERS[config.tokens](embed)
        self.embed_norm = nn.LayerNorm(config.dim)
        self.embed_drop = nn.Dropout(config.dropout)
        self.stack = minrnn.Stack(stack_config(config))
        self.head = nn.Linear(config.dim, self.action_dim)

    def forward(
        self,
        obs: Tensor,
        rtg: Tensor,
        prev_action: Tensor,
        timestep: Tensor,
        resets: Tensor | None = None,
        state: minrnn.State | None = None,
    ) -> tuple[Tensor, minrnn.State]:
        """Return the actions (B, T, A) and the state behind the last step.

        obs (B, T, O), rtg (B, T, 1) in units of reward, prev_action (B, T, A), timestep (B, T) int,
        resets (B, T) bool: a new episode (or row) starts at that step.
        """
        if resets is None:
            resets = torch.zeros_like(timestep, dtype=torch.bool)
        x, resets = self.tokens(
            (obs - self.obs_mean) / self.obs_std,
            # Past what the data has, either way, the network would have to extrapolate.
            rtg.clamp(self.rtg_low, self.rtg_high) / self.return_scale,
            prev_action,
            timestep,
            resets,
        )
        y, new_state = self.stack(self.embed_drop(self.embed_norm(x)), state, resets)
        squashed = torch.tanh(self.head(self.tokens.readout(y)).float())
        middle, half = self._action_range()
        return middle + half * squashed, new_state

    def step(
        self,
        obs: Tensor,
        rtg: Tensor,
        prev_action: Tensor,
        timestep: Tensor,
        resets: Tensor | None = None,
        state: minrnn.State | None = None,
    ) -> tuple[Tensor, minrnn.State]:
        """Act on one step: as :meth:`forward` without the T dimension. Returns actions (B, A)."""
        action, new_state = self(
            obs.unsqueeze(1),
            rtg.unsqueeze(1),
            prev_action.unsqueeze(1),
            timestep.unsqueeze(1),
            None if resets is None else resets.unsqueeze(1),
            state,
        )
        return action.squeeze(1), new_state

    def loss(
        self,
        obs: Tensor,
        action: Tensor,
        prev_action: Tensor,
        rtg: Tensor,
        timestep: Tensor,
        resets: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Return the mean squared error over the real steps, in units of half the action range."""
        predicted, _ = self(obs, rtg, prev_action, timestep, resets)
        _, half = self._action_range()
        error = ((predicted - action) / half).square().mean(-1)
        return (error * mask).sum() / mask.sum()

    def _action_range(self) -> tuple[Tensor, Tensor]:
        return (self.action_high + self.action_low) / 2, (self.action_high - self.action_low) / 2


def stack_config(config: ModelConfig) -> minrnn.StackConfig:
    """Return the part of `config` that describes the stack."""
    names = config.backbones
    return minrnn.StackConfig(
        dim=config.dim,
        num_layers=config.num_layers,
        backbone=names[0] if len(names) == 1 else names,
        cell=config.cell_options,
        mlp_ratio=config.mlp_ratio,
        activation=config.activation,
        norm=config.norm,
        dropout=config.dropout,
        conv=config.conv,
    )
