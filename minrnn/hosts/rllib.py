"""A `Stack` as the memory of an RLlib module, new API stack: for PPO, IMPALA and APPO."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from minrnn.hosts import needs, stack_config
from minrnn.stack import Stack, StackConfig

with needs("rllib"):
    import numpy as np
    from gymnasium.spaces import Box
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.learner.utils import make_target_network
    from ray.rllib.core.models.catalog import Catalog
    from ray.rllib.core.rl_module.apis import (
        TARGET_NETWORK_ACTION_DIST_INPUTS,
        InferenceOnlyAPI,
        TargetNetworkAPI,
        ValueFunctionAPI,
    )
    from ray.rllib.core.rl_module.torch import TorchRLModule

__all__ = ["StackRLModule"]

OPTIONS = ("stack", "max_seq_len")
POLICY = ("encoder", "stack", "logits")


class StackRLModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI, TargetNetworkAPI):
    """A linear layer, a `Stack`, and linear heads for the actions and the value.

    model_config: `{"stack": a StackConfig, or a mapping with its fields, "max_seq_len": steps}`.
    RLlib cuts episodes into rows of at most `max_seq_len` steps (20 if it is not given), each with
    the state at its first step, and pads them with zeros at the right; a gradient goes no further
    back than that. Observations are a Box, of any shape; actions are what RLlib's catalog has a
    distribution for: Discrete, MultiDiscrete, a flat Box, a Dict or Tuple. The state is
    `{"state": (S,)}`; all zeros means the start of an episode, as a row never begins one in its
    middle.

    The returned state is the one after each row's last step, by its `seq_lens`, not that
    after the padding (ray#21392). `forward_train` returns none: nothing in a Learner reads it.

    >>> from ray.rllib.algorithms.ppo import PPOConfig
    >>> from ray.rllib.core.rl_module import RLModuleSpec
    >>> spec = RLModuleSpec(
    ...     module_class=StackRLModule,
    ...     model_config={"stack": {"dim": 32, "num_layers": 1}, "max_seq_len": 64},
    ... )
    >>> config = PPOConfig().environment("CartPole-v1").rl_module(rl_module_spec=spec)
    """

    def setup(self) -> None:
        """Build the layers. Raises ValueError for unknown options and unsupported observations."""
        given: dict[str, Any] = dict(self.model_config or {})
        fields = {field.name for field in dataclasses.fields(StackConfig)}
        if stray := sorted(fields & set(given)):
            raise ValueError(f"put the stack's options under 'stack': {stray[0]!r}, for one")
        for name in set(given) - set(OPTIONS):
            # RLlib adds options of its own: refuse only names similar to ours.
            if near := get_close_matches(name, OPTIONS, 1, 0.7):
                raise ValueError(f"no option {name!r} in model_config; did you mean {near[0]!r}?")
        if not isinstance(self.observation_space, Box):
            raise ValueError(
                f"observations must be a Box, not {self.observation_space}; "
                "put RLlib's FlattenObservations into env_to_module_connector"
            )
        self.model_config = {"max_seq_len": 20} | given
        if self.model_config["max_seq_len"] < 1:
            raise ValueError(f"max_seq_len must be at least 1, not {given['max_seq_len']}")
        self.stack = Stack(stack_config(given.get("stack")))
        dim = self.stack.dim
        self.encoder = nn.Linear(int(np.prod(self.observation_space.shape)), dim)
        if self.action_dist_cls is None:
            space = self.action_space
            self.action_dist_cls = Catalog._get_dist_cls_from_action_space(space, framework="torch")
        kind = self.get_train_action_dist_cls()
        self.logits = nn.Linear(dim, kind.required_input_dim(self.action_space))
        self.values = nn.Linear(dim, 1)

    def get_initial_state(self) -> dict[str, Any]:
        """Return the packed state before the first step, without a batch dimension."""
        return {"state": np.zeros(self.stack.state_size, np.float32)}

    def get_non_inference_attributes(self) -> list[str]:
        """Return the names of layers that a module that only acts does not need."""
        return ["values", "target"]

    def make_target_networks(self) -> None:
        """Copy the layers of the policy, as APPO asks for."""
        parts = {name: make_target_network(getattr(self, name)) for name in POLICY}
        self.target = nn.ModuleDict(parts)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """Return the layers of the policy, each with its copy."""
        return [(getattr(self, name), self.target[name]) for name in POLICY]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of the action distribution from the copy, (B, T, ...)."""
        y = self._embed(batch, self.target)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target["logits"](y)}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        x, state, resets = self._inputs(batch, self.encoder)
        lengths = batch.get(Columns.SEQ_LENS)
        if lengths is None or bool((lengths >= x.shape[1]).all()):
            y, new = self.stack(x, self.stack.unpack(state), resets)
            packed = self.stack.pack(new)
        else:
            y, packed = torch.zeros_like(x), torch.empty_like(state)
            for length in lengths.unique().tolist():
                rows = lengths == length
                old = self.stack.unpack(state[rows])
                y[rows, :length], new = self.stack(x[rows, :length], old, resets[rows, :length])
                packed[rows] = self.stack.pack(new)
        return {Columns.ACTION_DIST_INPUTS: self.logits(y), Columns.STATE_OUT: {"state": packed}}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        y = self._embed(batch)
        return {Columns.ACTION_DIST_INPUTS: self.logits(y), Columns.EMBEDDINGS: y}

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Return the values, (B, T)."""
        y = self._embed(batch) if embeddings is None else embeddings
        return self.values(y).squeeze(-1)

    def _embed(self, batch: dict[str, Any], parts: Any = None) -> Tensor:
        # Padding comes last, and no output depends on later steps.
        parts = self._modules if parts is None else parts
        x, state, resets = self._inputs(batch, parts["encoder"])
        y, _ = parts["stack"](x, self.stack.unpack(state), resets)
        return y

    def _inputs(self, batch: dict[str, Any], encoder: Any) -> tuple[Tensor, Tensor, Tensor]:
        # x: (B, T, dim), state: (B, S), resets: (B, T). A caller's may be arrays.
        to = {"dtype": encoder.weight.dtype, "device": encoder.weight.device}
        obs = torch.as_tensor(batch[Columns.OBS], **to)
        state = torch.as_tensor(batch[Columns.STATE_IN]["state"], **to)
        shape, size = self.observation_space.shape, self.stack.state_size
        if obs.shape[2:] != shape or state.shape != (len(obs), size):
            raise ValueError(
                f"observations must be (B, T, *{shape}) and the state (B, {size}), "
                f"not {tuple(obs.shape)} and {tuple(state.shape)}"
            )
        x = encoder(obs.reshape(*obs.shape[:2], -1))
        resets = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        resets[:, 0] = (state == 0).all(-1)
        return x, state, resets
