"""Tokenisers: how a model's inputs become a sequence of tokens.

An action is predicted from the output of a step's last token. A reset of an environment step is a
reset at the first token of *that* step, so that whatever came before (the previous action's token
included) is invisible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from agents.model.inputs import Inputs


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
        inputs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.rtg = ReturnEmbedding(dim, rtg_scales)
        self.obs = nn.Linear(obs_dim, dim)
        self.action = nn.Linear(action_dim, dim) if prev_action else None
        self.timestep = nn.Embedding(timesteps, dim) if timesteps else None
        self.optional = nn.ModuleDict({name: OPTIONAL_EMBEDDINGS[name](dim) for name in inputs})

    def time(self, timestep: Tensor) -> Tensor | float:
        """Return the embedding of `timestep` (...) as (..., D), or 0 where there is none."""
        return 0.0 if self.timestep is None else self.timestep(timestep)

    def observation(self, inputs: Inputs[Tensor]) -> Tensor:
        """Return the embedding of the observation and of the optional inputs, (..., D)."""
        token = self.obs(inputs.obs)
        for name, embedding in self.optional.items():
            token = token + embedding(getattr(inputs, name))
        return token


class SymlogLinear(nn.Linear):
    """A linear layer of sign(x) log(1 + |x|), for values of any scale (arXiv:2301.04104)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D) for x (..., in_features)."""
        return super().forward(torch.sign(x) * torch.log1p(x.abs()))


OPTIONAL_EMBEDDINGS: dict[str, Callable[[int], nn.Linear]] = {
    "prev_reward": lambda dim: SymlogLinear(1, dim),
}
"""The embedding of each optional input, from the width D."""


class ReturnEmbedding(nn.Module):
    """Embed the scaled return-to-go, coarse and fine: W [r, tanh(r), tanh(4 r), tanh(16 r), ...].

    The linear term alone (scales = 0, Decision Transformer's) hardly tells "about to end" from
    "hundreds of steps left"; the k-th tanh resolves returns-to-go of 4^-k of the data's best.
    """

    powers: Tensor

    def __init__(self, dim: int, scales: int) -> None:
        super().__init__()
        self.scales = scales
        self.register_buffer("powers", 4.0 ** torch.arange(scales), persistent=False)
        self.linear = nn.Linear(1 + scales, dim)

    def forward(self, rtg: Tensor) -> Tensor:
        """Return (..., D) for rtg (..., 1)."""
        if self.scales:
            rtg = torch.cat([rtg, torch.tanh(rtg * self.powers)], -1)
        return self.linear(rtg)


class Tokeniser(nn.Module):
    """Base of both tokenisers. Inputs are normalised, of any leading shape (...)."""

    tokens_per_step: int

    def __init__(self, embed: Embeddings) -> None:
        super().__init__()
        self.embed = embed

    def parts(self, inputs: Inputs[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Return the tokens of a step in order, each (..., D) with its resets, None for none."""
        raise NotImplementedError

    def forward(self, inputs: Inputs[Tensor]) -> tuple[Tensor, Tensor]:
        """Return tokens (B, L, D) and their resets (B, L), L = tokens_per_step · T."""
        parts, resets = self.parts(inputs), inputs.resets
        if len(parts) == 1:
            return parts[0][0], resets
        tokens = torch.stack([token for token, _ in parts], dim=2)
        flags = [torch.zeros_like(resets) if flag is None else flag for _, flag in parts]
        return tokens.flatten(1, 2), torch.stack(flags, dim=2).flatten(1)

    def readout(self, y: Tensor) -> Tensor:
        """Return the outputs (B, T, D) that predict actions, of all outputs `y` (B, L, D)."""
        return y[:, self.tokens_per_step - 1 :: self.tokens_per_step]


class FusedTokens(Tokeniser):
    """One token a step: emb(R_t) + emb(s_t) [+ emb(a_{t-1})] [+ emb(t)]."""

    tokens_per_step = 1

    def parts(self, inputs: Inputs[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Return the one token and its resets."""
        embed, timestep = self.embed, inputs.timestep
        token = embed.observation(inputs) + embed.rtg(inputs.rtg) + embed.time(timestep)
        if embed.action is not None:
            # The first step of an episode has no previous action: no token part, bias included.
            start = (timestep == 0).unsqueeze(-1)
            token = token + embed.action(inputs.prev_action).masked_fill(start, 0)
        return [(token, inputs.resets)]


class InterleavedTokens(Tokeniser):
    """Three tokens a step, as in the paper: [a_{t-1},] R_t, s_t; the action is read at s_t.

    The sequence is Decision Transformer's (R, s, a, R, s, a, ...), cut so that one environment step
    is one chunk both in training and in acting.
    """

    def __init__(self, embed: Embeddings) -> None:
        super().__init__(embed)
        self.tokens_per_step = 2 if embed.action is None else 3

    def parts(self, inputs: Inputs[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Return the tokens and their resets."""
        embed, timestep, resets = self.embed, inputs.timestep, inputs.resets
        time = embed.time(timestep)
        asked, seen = embed.rtg(inputs.rtg) + time, embed.observation(inputs) + time
        if embed.action is None:
            return [(asked, resets), (seen, None)]
        # The action of step t - 1 carries that step's time. In front of a reset it is cleared.
        before = embed.time((timestep - 1).clamp(min=0))
        # A row that starts in mid-episode starts with the action before it: nothing to clear in
        # front of it, so its reset moves to the action's token and the action stays visible.
        inside = resets & (timestep > 0)
        taken = embed.action(inputs.prev_action) + before
        return [(taken, inside), (asked, resets & ~inside), (seen, None)]


TOKENISERS = {"fused": FusedTokens, "interleaved": InterleavedTokens}
