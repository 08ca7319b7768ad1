"""The normaliser: statistics of the data, stored beside the weights in every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.model.inputs import Inputs


class Spaces(NamedTuple):
    """What a model has to know of an environment and its data; rtg_*: bounds of returns-to-go."""

    obs_mean: list[float]
    obs_std: list[float]
    action_low: list[float]
    action_high: list[float]
    return_scale: float
    rtg_low: float
    rtg_high: float
    obs_offset: Sequence[float] = ()
    """What is taken off observations before they become float32; the data's obs_offset."""


class Normaliser(nn.Module):
    """Scale observations to mean 0, std 1; clamp returns-to-go to the data's, and scale them.

    Where there is an `obs_offset`, observations in float64 are as the environment has them, and
    those in float32 are without it.
    """

    obs_mean: Tensor
    obs_std: Tensor
    return_scale: Tensor
    rtg_low: Tensor
    rtg_high: Tensor

    def __init__(self, spaces: Spaces) -> None:
        super().__init__()
        for name in ("obs_mean", "obs_std", "return_scale", "rtg_low", "rtg_high"):
            value = torch.tensor(getattr(spaces, name), dtype=torch.float32)
            self.register_buffer(name, value)
        self.obs_offset = tuple(spaces.obs_offset)

    def forward(self, inputs: Inputs[Tensor]) -> Inputs[Tensor]:
        """Return the inputs with observations and returns-to-go normalised."""
        obs = inputs.obs
        if self.obs_offset and obs.dtype == torch.float64:
            obs = (obs - obs.new_tensor(self.obs_offset)).to(self.obs_mean.dtype)
        return inputs._replace(
            obs=(obs - self.obs_mean) / self.obs_std,
            rtg=inputs.rtg.clamp(self.rtg_low, self.rtg_high) / self.return_scale,
        )
