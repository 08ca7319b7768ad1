"""Tokenisers: how (return-to-go, observation, previous action) becomes a sequence.

Both have one interface. ``forward`` turns rows of environment steps into tokens, one step or many;
``readout`` picks, for each environment step, the output that predicts the action. A reset of an
environment step is a reset at the first token of *that* step, so that whatever came before (the
previous action's token included) is invisible.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Embeddings(nn.Module):
    """The embeddings that both tokenisers share; all inputs are normalised already."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        dim: int,
        *,
        prev_action: bool,
        timesteps: int,
        rtg_scales: int,
    ) -> None:
        super().__init__()
        self.rtg = ReturnEmbedding(dim, rtg_scales)
        self.obs = nn.Linear(obs_dim, dim)
        self.action = nn.Linear(action_dim, dim) if prev_action else None
        self.timestep = nn.Embedding(timesteps, dim) if timesteps else None

    def time(self, timestep: Tensor) -> Tensor | float:
        """Return the embedding of `timestep` (B, T) as (B, T, D), or 0 where there is none."""
        return 0.0 if self.timestep is None else self.timestep(timestep)


class ReturnEmbedding(nn.Module):
    """Embed the scaled return-to-go, coarse and fine: W [r, tanh(r), tanh(4 r), tanh(16 r), ...].

    The linear term alone (scales = 0, Decision Transformer's) moves by a thousandth a step, and
    hardly tells "about to end" from "hundreds of steps left"; the k-th tanh resolves returns-to-go
    of 4^-k of the data's best.
    """

    def __init__(self, dim: int, scales: int) -> None:
        super().__init__()
        self.scales = scales
        self.linear = nn.Linear(1 + scales, dim)

    def forward(self, rtg: Tensor) -> Tensor:
        """Return (B, T, D) for rtg (B, T, 1)."""
        fine = [torch.tanh(rtg * 4**k) for k in range(self.scales)]
        return self.linear(torch.cat([rtg, *fine], -1))


class FusedTokens(nn.Module):
    """One token a step: emb(R_t) + emb(s_t) [+ emb(a_{t-1})] [+ emb(t)]."""

    def __init__(self, embed: Embeddings) -> None:
        super().__init__()
        self.embed = embed

    def forward(
        self, obs: Tensor, rtg: Tensor, prev_action: Tensor, timestep: Tensor, resets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T, D) and their resets (B, T)."""
        tokens = self.embed.obs(obs) + self.embed.rtg(rtg) + self.embed.time(timestep)
        if self.embed.action is not None:
            # The first step of an episode has no previous action: no token part, bias included.
            start = (timestep == 0).unsqueeze(-1)
            tokens = tokens + self.embed.action(prev_action).masked_fill(start, 0)
        return tokens, resets

    def readout(self, y: Tensor) -> Tensor:
        """Return the outputs (B, T, D) that predict actions, of all outputs `y` (B, L, D)."""
        return y


class InterleavedTokens(nn.Module):
    """Three tokens a step, as in the paper: [a_{t-1},] R_t, s_t; the action is read at s_t.

    The sequence is Decision Transformer's (R, s, a, R, s, a, ...), cut in front of each R rather
    than behind each a, so that one environment step is one chunk both in training and in acting.
    """

    def __init__(self, embed: Embeddings) -> None:
        super().__init__()
        self.embed = embed
        self.tokens_per_step = 2 if embed.action is None else 3

    def forward(
        self, obs: Tensor, rtg: Tensor, prev_action: Tensor, timestep: Tensor, resets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (B, L, D) and their resets (B, L), L = tokens_per_step · T."""
        B, T = timestep.shape
        time = self.embed.time(timestep)
        parts = [self.embed.rtg(rtg) + time, self.embed.obs(obs) + time]
        flags = [resets, torch.zeros_like(resets)]
        if self.embed.action is not None:
            # The action of step t - 1 carries that step's time. In front of a reset it is cleared.
            before = self.embed.time((timestep - 1).clamp(min=0))
            parts.insert(0, self.embed.action(prev_action) + before)
            flags.insert(0, torch.zeros_like(resets))
            # A row that starts in mid-episode starts with the action before it: nothing to clear
            # in front of it, so its reset moves to the action's token and the action stays visible.
            inside = resets & (timestep > 0)
            flags[0], flags[1] = inside, resets & ~inside
        tokens = torch.stack(parts, dim=2).reshape(B, T * self.tokens_per_step, -1)
        return tokens, torch.stack(flags, dim=2).reshape(B, -1)

    def readout(self, y: Tensor) -> Tensor:
        """Return the outputs at the observation tokens, (B, T, D), of all outputs `y` (B, L, D)."""
        return y[:, self.tokens_per_step - 1 :: self.tokens_per_step]


TOKENISERS = {"fused": FusedTokens, "interleaved": InterleavedTokens}
