"""A policy with a memory as a plain `obs -> action` over Gymnasium's vector environments."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import copy
from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor

from minrnn.hosts import needs

with needs("gymnasium"):
    import numpy as np
    from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

__all__ = ["StatefulPolicy"]

Step = Callable[[Any, Tensor, Tensor], tuple[Any, Tensor]]
"""`policy(obs, state, resets) -> (action, state)`: a batch of observations, the packed state
(B, S) and which rows start an episode (B,) bool, as tensors; actions (or a dict or tuple of them)
and the next state. It clears the rows that `resets` names, as `Stack.step` does."""


class StatefulPolicy:
    """A policy that is called with observations alone and keeps the state of each environment.

    policy: a `Step`. state_size: S. envs: the vector environment, or a wrapped one; from it come
    the number of environments and the autoreset mode, unless `autoreset_mode` is given. device:
    where states and observations are put; floats become float32.

    Episode ends arrive through `watch`, which wraps the environment, or by calls of `reset` and
    `ended`. Which observation begins an episode is a matter of the autoreset mode: with SAME_STEP
    the one that comes with the end; with NEXT_STEP the one after it (that with the end is the
    last of its episode, and the action for it is ignored); with DISABLED that of `reset` alone.

    >>> import gymnasium
    >>> from minrnn import Stack, StackConfig
    >>> stack, head = Stack(StackConfig(dim=4, num_layers=1)), torch.nn.Linear(4, 2)
    >>> def policy(obs, state, resets):
    ...     y, state = stack.step(obs, stack.unpack(state), resets)
    ...     return head(y).argmax(-1), stack.pack(state)
    >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    >>> act = StatefulPolicy(policy, stack.state_size, envs)
    >>> envs = act.watch(envs)
    >>> obs, _ = envs.reset(seed=0)
    >>> for _ in range(20):
    ...     obs, reward, terminated, truncated, _ = envs.step(act(obs))
    """

    def __init__(
        self,
        policy: Step,
        state_size: int,
        envs: VectorEnv,
        *,
        autoreset_mode: AutoresetMode | str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not hasattr(envs, "num_envs"):
            raise ValueError(f"envs must be a vector environment, as of gymnasium.make_vec: {envs}")
        mode = envs.metadata.get("autoreset_mode") if autoreset_mode is None else autoreset_mode
        modes = [one.value for one in AutoresetMode]
        if not isinstance(mode, AutoresetMode) and mode not in modes:
            where = "in the environment's metadata" if autoreset_mode is None else "given"
            raise ValueError(
                f"the autoreset_mode {where} is {mode}; pass autoreset_mode= {' or '.join(modes)}"
            )
        self.policy = policy
        self.autoreset_mode = AutoresetMode(mode)
        self.device = torch.device(device or "cpu")
        self.num_envs = envs.num_envs
        self._state = torch.zeros(self.num_envs, state_size, device=self.device)
        self._starts = torch.ones(self.num_envs, dtype=torch.bool)  # of the next observation
        self._over = torch.zeros(self.num_envs, dtype=torch.bool)  # NEXT_STEP resets them next
        self._unheard = -inf  # calls since `watch` without a step or reset of the environment

    @torch.no_grad()
    def __call__(self, obs: Any) -> Any:
        """Return the actions for a batch of observations, as arrays, and keep the new state.

        Raises ValueError for a state that is not packed, RuntimeError if `watch` was called and
        another environment is stepped.
        """
        if self._unheard > 0:
            raise RuntimeError(
                "reset and step the environment that watch() returned, not the one given"
            )
        self._unheard += 1
        resets = self._starts.to(self.device)
        action, state = self.policy(_map(self._tensor, obs), self._state, resets)
        found, own = tuple(getattr(state, "shape", ())), tuple(self._state.shape)
        if found != own:
            raise ValueError(
                f"the policy returned a state {found or type(state).__name__}; it must be packed, "
                f"{own}: return stack.pack(state)"
            )
        self._state, self._starts = state, torch.zeros_like(self._starts)
        return _map(_array, action)

    def reset(self, mask: Any = None) -> None:
        """Report that environments were reset by hand: all, or those in mask (num_envs,) bool."""
        rows = self._flags(np.ones(self.num_envs, bool) if mask is None else mask)
        self._starts = self._starts | rows
        self._over = self._over & ~rows
        self._unheard = -inf

    def ended(self, terminations: Any, truncations: Any) -> None:
        """Report which episodes the last step of the environments ended; both (num_envs,) bool."""
        over = self._flags(terminations) | self._flags(truncations)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._starts = self._starts | over
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._starts = self._starts | self._over
            self._over = over
        self._unheard = -inf

    def watch(self, envs: VectorEnv) -> VectorEnv:
        """Return the environment, wrapped: it reports every reset and step to this policy."""
        self._unheard = 0
        return _Watched(envs, self)

    def clone(self) -> StatefulPolicy:
        """Return a copy with the same policy, and a memory of its own that starts as this one's."""
        other = copy.copy(self)
        other.load_state_dict(self.state_dict())
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the memory, to be saved or given to `load_state_dict`."""
        state = {"state": self._state, "starts": self._starts, "over": self._over}
        return {key: value.clone() for key, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a memory that `state_dict` returned. Raises ValueError for other sizes."""
        found, own = tuple(state["state"].shape), tuple(self._state.shape)
        if found != own:
            raise ValueError(f"a memory of {found} does not fit this policy's {own}")
        self._state = state["state"].to(self.device, copy=True)
        self._starts, self._over = state["starts"].clone(), state["over"].clone()

    def _tensor(self, array: Any) -> Tensor:
        tensor = torch.as_tensor(array)
        return tensor.to(self.device, torch.float32 if tensor.is_floating_point() else None)

    def _flags(self, flags: Any) -> Tensor:
        tensor = torch.as_tensor(flags)
        if tensor.shape != (self.num_envs,) or tensor.dtype != torch.bool:
            raise ValueError(
                f"flags must be ({self.num_envs},) bool, not {tuple(tensor.shape)} {tensor.dtype}"
            )
        return tensor.cpu()


class _Watched(VectorWrapper):
    """A wrapper that reports resets and ends of episodes to a policy."""

    def __init__(self, envs: VectorEnv, policy: StatefulPolicy) -> None:
        super().__init__(envs)
        self.policy = policy

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        mask = (options or {}).get("reset_mask")  # the environment removes it from the options
        result = self.env.reset(seed=seed, options=options)
        self.policy.reset(mask)
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
        result = self.env.step(actions)
        self.policy.ended(result[2], result[3])
        return result


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    # Observations and actions of Dict and Tuple spaces are nested.
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_map(function, item) for item in value)
    return function(value)


def _array(tensor: Any) -> Any:
    # A copy: an environment may write into its action, and the policy may keep the tensor.
    return tensor.cpu().numpy().copy() if isinstance(tensor, Tensor) else tensor
