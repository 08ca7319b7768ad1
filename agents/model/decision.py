"""The agent's model: normaliser -> tokens -> Stack -> head. `forward` to train, `step` to act."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

import minrnn
from agents.model.heads import HEADS
from agents.model.inputs import OPTIONAL, Inputs
from agents.model.normaliser import Normaliser, Spaces
from agents.model.tokens import TOKENISERS, Embeddings
from configs import ModelConfig
from minrnn.registry import hint


class DecisionModel(nn.Module):
    """Predict the action that leads to the return-to-go, from everything seen in the episode.

    It takes raw observations, rewards and actions, and normalises them itself.

    Example:
        >>> import torch
        >>> spaces = Spaces([0.0] * 11, [1.0] * 11, [-1.0] * 3, [1.0] * 3, 1000.0, 0.0, 3200.0)
        >>> model = DecisionModel(ModelConfig(dim=32), spaces).eval()
        >>> obs, rtg = torch.zeros(2, 11), torch.full((2, 1), 3000.0)
        >>> start, now = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
        >>> action, state = model.step(Inputs(obs, rtg, torch.zeros(2, 3), now, start))
        >>> action.shape
        torch.Size([2, 3])
    """

    def __init__(self, config: ModelConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        self.obs_dim, self.action_dim = len(spaces.obs_mean), len(spaces.action_low)
        _check("head", [config.head], HEADS)
        _check("inputs", config.inputs, OPTIONAL)
        self.normaliser = Normaliser(spaces)
        embed = Embeddings(
            self.obs_dim,
            self.action_dim,
            config.dim,
            prev_action=config.prev_action,
            timesteps=config.timestep_embedding,
            rtg_scales=config.rtg_scales,
            inputs=config.inputs,
        )
        self.tokens = TOKENISERS[config.tokens](embed)
        self.embed_norm = nn.LayerNorm(config.dim)
        self.embed_drop = nn.Dropout(config.dropout)
        self.stack = minrnn.Stack(stack_config(config))
        self.head = HEADS[config.head](config.dim, spaces.action_low, spaces.action_high)

    def features(
        self, inputs: Inputs[Tensor], state: minrnn.State | None = None
    ) -> tuple[Tensor, minrnn.State]:
        """Return what the head reads, (B, T, D), and the last state, for inputs (B, T, ...)."""
        x, resets = self.tokens(self.normaliser(inputs))
        y, new_state = self.stack(self.embed_drop(self.embed_norm(x)), state, resets)
        return self.tokens.readout(y), new_state

    def forward(
        self, inputs: Inputs[Tensor], state: minrnn.State | None = None
    ) -> tuple[Tensor, minrnn.State]:
        """Return the actions (B, T, A) and the state after the last step; see `features`."""
        y, new_state = self.features(inputs, state)
        return self.head.act(y), new_state

    def step(
        self, inputs: Inputs[Tensor], state: minrnn.State | None = None
    ) -> tuple[Tensor, minrnn.State]:
        """Act on one step: as :meth:`forward` without the T dimension. Returns actions (B, A)."""
        action, new_state = self(inputs.map(lambda value: value.unsqueeze(1)), state)
        return action.squeeze(1), new_state


def _check(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no --model.{what} {unknown[0]!r}{hint(unknown[0], tuple(known))}")


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
