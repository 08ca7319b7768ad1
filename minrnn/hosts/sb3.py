"""A `Stack` as the memory of sb3-contrib's RecurrentPPO, in place of its LSTM."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrnn.hosts import needs, stack_config
from minrnn.stack import Stack, StackConfig

with needs("sb3"):
    import numpy as np
    from gymnasium.spaces import Dict
    from sb3_contrib import RecurrentPPO
    from sb3_contrib.common.recurrent.buffers import (
        RecurrentDictRolloutBuffer,
        RecurrentRolloutBuffer,
    )
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

__all__ = ["CnnStackPolicy", "MlpStackPolicy", "MultiInputStackPolicy", "StackPPO"]

INSTEAD = {"lstm_hidden_size": "dim", "n_lstm_layers": "num_layers", "lstm_kwargs": "cell"}


class StackMemory(nn.Module):
    """A linear layer and a `Stack`, in the shape of the LSTM that RecurrentPPO expects.

    The host keeps a hidden and a cell state, (1, B, H) each; a packed state is cut into these two
    halves, so that no buffer is larger than it must be.
    """

    num_layers = 1

    def __init__(self, input_size: int, config: StackConfig) -> None:
        super().__init__()
        self.encoder = nn.Linear(input_size, config.dim)
        self.stack = Stack(config)
        self.hidden_size = (self.stack.state_size + 1) // 2

    def forward(
        self, features: Tensor, states: tuple[Tensor, Tensor], episode_starts: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read features (B * T, F), row after row, with episode_starts (B * T,)."""
        B = states[0].shape[1]
        x = self.encoder(features).reshape(B, -1, self.stack.dim)  # B * T, D -> B, T, D
        resets = episode_starts.reshape(B, -1).bool()
        state = self.stack.unpack(torch.cat([*states], 2)[0, :, : self.stack.state_size])
        if x.shape[1] == 1:
            y, state = self.stack.step(x[:, 0], state, resets[:, 0])
        else:
            y, state = self.stack(x, state, resets)
        packed = F.pad(self.stack.pack(state), (0, self.stack.state_size % 2))
        hidden, cell = packed[None].chunk(2, 2)
        return y.reshape(-1, self.stack.dim), (hidden, cell)


class MlpStackPolicy(RecurrentActorCriticPolicy):
    """`MlpLstmPolicy` with a `Stack` for each LSTM: pass it to `RecurrentPPO`, or to `StackPPO`.

    stack: a `StackConfig`, or a mapping with its fields. All other options are the host's:
    `enable_critic_lstm` (the default) gives the critic a stack of its own, `shared_lstm` lets it
    read the actor's, and with both off it has a linear layer and no memory. Options that describe
    an LSTM are refused.

    >>> from sb3_contrib import RecurrentPPO
    >>> model = RecurrentPPO(
    ...     MlpStackPolicy,
    ...     "CartPole-v1",
    ...     n_steps=64,
    ...     policy_kwargs={"stack": StackConfig(dim=32, num_layers=1, backbone="minlstm")},
    ... )
    >>> obs = model.get_env().reset()
    >>> action, state = model.predict(obs, deterministic=True)  # no state: an episode starts
    >>> action, state = model.predict(obs, state, episode_start=[False])
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Any,
        *,
        stack: StackConfig | Mapping[str, Any] | None = None,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        **options: Any,
    ) -> None:
        for name, field in INSTEAD.items():
            if name in options:
                raise ValueError(
                    f"{name} is an option of the LSTM, which is not there: "
                    f"set {field!r} in policy_kwargs['stack']"
                )
        fields = {field.name for field in dataclasses.fields(StackConfig)}
        if stray := sorted(fields & set(options)):
            raise ValueError(f"put the stack's options into policy_kwargs['stack']: {stray[0]!r}")
        if shared_lstm and enable_critic_lstm:
            raise ValueError("shared_lstm=True needs enable_critic_lstm=False, too")
        config = stack_config(stack)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            lstm_hidden_size=config.dim,
            shared_lstm=shared_lstm,
            enable_critic_lstm=enable_critic_lstm,
            **options,
        )
        # Remove the LSTMs that the host has just made.
        self.stack_config = config
        self.lstm_actor = StackMemory(self.features_dim, config)
        self.lstm_hidden_state_shape = (1, 1, self.lstm_actor.hidden_size)
        if enable_critic_lstm:
            self.lstm_critic = StackMemory(self.features_dim, config)
        make: Any = self.optimizer_class
        self.optimizer = make(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    @staticmethod
    def _process_sequence(
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: StackMemory,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return lstm(features, lstm_states, episode_starts)

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[Any, ...] | None]:
        """Return actions and the state, as the host does. Without a state, episodes start.

        Raises ValueError if the state has another size, or if it or `episode_start` has another
        number of environments.
        """
        obs, _ = self.obs_to_tensor(observation)
        B = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        if state is None:  # the initial state of a stack need not be the host's zeros
            episode_start = np.ones(B, bool)
        elif state[0].shape[1] != B:  # further rows would be read as time steps
            raise ValueError(f"{B} observations, but a state of {state[0].shape[1]} environments")
        elif state[0].shape[2] != self.lstm_actor.hidden_size:
            found, own = state[0].shape[2], self.lstm_actor.hidden_size
            raise ValueError(f"a state of width {found} is another model's; this one has {own}")
        elif episode_start is not None and np.size(episode_start) != B:
            raise ValueError(f"{B} observations, but {np.size(episode_start)} episode_start")
        return super().predict(observation, state, episode_start, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "stack": self.stack_config,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "share_features_extractor": self.share_features_extractor,
        }


class CnnStackPolicy(MlpStackPolicy):
    """`CnnLstmPolicy` with a `Stack` for each LSTM; see `MlpStackPolicy`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": NatureCNN} | options)


class MultiInputStackPolicy(MlpStackPolicy):
    """`MultiInputLstmPolicy` with a `Stack` for each LSTM; see `MlpStackPolicy`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor} | options)


class _Rows(RecurrentRolloutBuffer):
    def _get_samples(self, *args: Any) -> Any:
        return _over_episodes(self, super()._get_samples, *args)


class _DictRows(RecurrentDictRolloutBuffer):
    def _get_samples(self, *args: Any) -> Any:
        return _over_episodes(self, super()._get_samples, *args)


def _over_episodes(buffer: Any, get: Any, batch_inds: Any, env_change: Any) -> Any:
    # The host begins a row at each start of an episode, and pads all rows to the longest one.
    starts, buffer.episode_starts = buffer.episode_starts, np.zeros_like(buffer.episode_starts)
    try:
        samples = get(batch_inds, env_change)
    finally:
        buffer.episode_starts = starts
    return samples._replace(episode_starts=buffer.pad_and_flatten(starts[batch_inds]))


class StackPPO(RecurrentPPO):
    """`RecurrentPPO` without the padding: for the stack policies, which reset inside a row.

    The batches hold the same steps, and the updates are the same but for rounding. Only, the host
    puts each episode of a batch into a row of its own, as long as the longest; here a row is all
    that one environment did in the batch.

    >>> model = StackPPO("MlpStackPolicy", "CartPole-v1", policy_kwargs={"stack": {"dim": 32}})
    >>> type(model.policy).__name__
    'MlpStackPolicy'
    """

    policy_aliases = {  # noqa: RUF012 (the host says ClassVar)
        "MlpStackPolicy": MlpStackPolicy,
        "CnnStackPolicy": CnnStackPolicy,
        "MultiInputStackPolicy": MultiInputStackPolicy,
    }

    def _setup_model(self) -> None:
        super()._setup_model()
        steps = self.n_steps * self.n_envs
        size = self.batch_size or steps
        if self.normalize_advantage and 1 in (size, steps % size):
            raise ValueError(
                f"batch_size={size} leaves a batch of one step of the {steps} in a rollout, whose "
                "advantage cannot be normalised: choose another, or normalize_advantage=False"
            )
        buffer: Any = self.rollout_buffer
        rows = _DictRows if isinstance(self.observation_space, Dict) else _Rows
        self.rollout_buffer = rows(
            self.n_steps,
            self.observation_space,
            self.action_space,
            buffer.hidden_state_shape,
            self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
        )
