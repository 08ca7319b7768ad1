"""Behaviour policies in NumPy: small networks that act in K environments at once."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError

Float32 = NDArray[np.float32]

_ACTIVATIONS: dict[str, Callable[[Float32], Float32]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "lrelu": lambda x: np.where(x > 0.0, x, 0.2 * x),
    "none": lambda x: x,
}
# Each matrix product has this many rows, padded with zeros: in BLAS the rounding of a row depends
# on the number of rows and, above eight on AVX2, on its place. So an episode does not depend on
# those that run beside it.
_BLOCK = 8


class Policy(Protocol):
    """A stochastic policy: maps observations and standard normal noise to actions."""

    @property
    def sizes(self) -> tuple[int, int]:
        """(O, A)"""
        ...

    def act(self, obs: NDArray[np.floating], noise: Float32 | None) -> Float32:
        """Return actions (K, A) for obs (K, O) and noise (K, A), None for the mode."""
        ...


@dataclass(frozen=True)
class SACPolicy:
    """SAC's actor: tanh(mean + exp(clip(log_std, -20, 2)) * noise), with a head for log_std."""

    hidden: tuple[tuple[Float32, Float32], ...]
    mean: tuple[Float32, Float32]
    log_std: tuple[Float32, Float32]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SACPolicy:
        """Read the arrays params/Dense_i/{kernel,bias}; the last two layers are the two heads.

        Raises ValueError or KeyError where arrays are missing or do not fit each other.
        """
        count = sum(key.endswith("/kernel") for key in arrays)
        layers = [
            (_f32(arrays[f"params/Dense_{i}/kernel"]), _f32(arrays[f"params/Dense_{i}/bias"]))
            for i in range(count)
        ]
        for head in (-2, -1):
            _check_layers([*layers[:-2], layers[head]])
        policy = cls(tuple(layers[:-2]), layers[-2], layers[-1])
        _check_size("the last layer", policy.log_std[1], policy.sizes[1])
        return policy

    @property
    def sizes(self) -> tuple[int, int]:
        """(O, A)"""
        return (*self.hidden, self.mean)[0][0].shape[0], self.mean[0].shape[1]

    def act(self, obs: NDArray[np.floating], noise: Float32 | None) -> Float32:
        """obs: (K, O), noise: (K, A) or None for the mode; actions (K, A) in (-1, 1)."""
        x = _pad(obs)
        for layer in self.hidden:
            x = np.maximum(_linear(x, layer), 0.0)
        mean = _linear(x, self.mean)[: len(obs)]
        if noise is not None:
            log_std = _linear(x, self.log_std)[: len(obs)]
            mean = mean + np.exp(np.clip(log_std, -20.0, 2.0)) * noise
        return np.tanh(mean)


@dataclass(frozen=True)
class MLPPolicy:
    """A plain network from a file with keys W0, b0, W1, b1, ...: each layer is x @ W + b.

    Optional keys: hidden_act, out_act (tanh, relu, lrelu, none); obs_mean, obs_std, obs_clip for
    the input clip((obs - mean) / std, -clip, clip); log_std (A,) for Gaussian noise around the
    output, without which the policy is deterministic. Actions are clipped to [low, high], -1 and 1
    unless `fit_bounds` sets others.
    """

    layers: tuple[tuple[Float32, Float32], ...]
    hidden_act: str = "tanh"
    out_act: str = "none"
    obs_mean: Float32 | None = None
    obs_std: Float32 | None = None
    obs_clip: float = np.inf
    log_std: Float32 | None = None
    low: Float32 | float = -1.0
    high: Float32 | float = 1.0

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> MLPPolicy:
        """Read the format above; ValueError or KeyError where arrays are missing or do not fit."""
        count = sum(key[0] == "W" and key[1:].isdigit() for key in arrays)

        def optional(key: str) -> Float32 | None:
            return _f32(arrays[key]).ravel() if key in arrays else None

        policy = cls(
            tuple((_f32(arrays[f"W{i}"]), _f32(arrays[f"b{i}"]).ravel()) for i in range(count)),
            str(arrays.get("hidden_act", "tanh")),
            str(arrays.get("out_act", "none")),
            optional("obs_mean"),
            optional("obs_std"),
            float(arrays.get("obs_clip", np.inf)),
            optional("log_std"),
        )
        for act in (policy.hidden_act, policy.out_act):
            if act not in _ACTIVATIONS:
                raise KeyError(f"activation {act!r}, known: {', '.join(_ACTIVATIONS)}")
        _check_layers(policy.layers)
        for name, values, size in (
            ("obs_mean", policy.obs_mean, policy.sizes[0]),
            ("obs_std", policy.obs_std, policy.sizes[0]),
            ("log_std", policy.log_std, policy.sizes[1]),
        ):
            if values is not None and values.size != 1:
                _check_size(name, values, size)
        return policy

    @property
    def sizes(self) -> tuple[int, int]:
        """(O, A)"""
        return self.layers[0][0].shape[0], self.layers[-1][0].shape[1]

    def act(self, obs: NDArray[np.floating], noise: Float32 | None) -> Float32:
        """obs: (K, O), noise: (K, A) or None for the mode; actions (K, A) in [low, high]."""
        x = _pad(obs)
        if self.obs_mean is not None and self.obs_std is not None:
            x = np.clip((x - self.obs_mean) / self.obs_std, -self.obs_clip, self.obs_clip)
        for layer in self.layers[:-1]:
            x = _ACTIVATIONS[self.hidden_act](_linear(x, layer))
        action = _ACTIVATIONS[self.out_act](_linear(x, self.layers[-1]))[: len(obs)]
        if noise is not None and self.log_std is not None:
            action = action + np.exp(self.log_std) * noise
        return np.clip(action, self.low, self.high)


@dataclass(frozen=True)
class Rescaled:
    """A policy whose actions in [-1, 1] are rescaled to [low, high], as SB3 and sbx do."""

    policy: Policy
    low: Float32
    high: Float32

    @property
    def sizes(self) -> tuple[int, int]:
        """(O, A)"""
        return self.policy.sizes

    def act(self, obs: NDArray[np.floating], noise: Float32 | None) -> Float32:
        """obs: (K, O), noise: (K, A) or None for the mode; actions (K, A) in [low, high]."""
        share = np.float32(0.5) * (self.policy.act(obs, noise) + np.float32(1.0))
        action = self.low + share * (self.high - self.low)
        return np.clip(action, self.low, self.high).astype(np.float32)


def fit_bounds(policy: SACPolicy | MLPPolicy, low: Float32, high: Float32) -> Policy:
    """Return the policy with actions in [low, high], each (A,), as SB3 does it.

    Policies that end in tanh are rescaled (SAC, TD3), others are clipped (PPO).
    """
    if (low == -1.0).all() and (high == 1.0).all():
        return policy
    if isinstance(policy, MLPPolicy) and policy.out_act != "tanh":
        return replace(policy, low=low, high=high)
    return Rescaled(policy, low, high)


def load_policy(path: Path) -> SACPolicy | MLPPolicy:
    """Read a policy file (.npz) of either format, without pickles; UserError where it is unfit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return (MLPPolicy if "W0" in arrays else SACPolicy).from_arrays(arrays)
    except (
        *(OSError, EOFError, zipfile.BadZipFile),
        *(ValueError, TypeError, KeyError, IndexError),
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a policy ({reason}); a policy has the arrays W0, b0, ... or "
            f"params/Dense_0/kernel, ... (see envs/behaviour/policy.py)"
        ) from error


def _f32(values: NDArray[Any]) -> Float32:
    return np.ascontiguousarray(values, np.float32)


def _check_layers(layers: Sequence[tuple[Float32, Float32]]) -> None:
    """Raise ValueError where a layer's shapes do not fit each other or the layer before."""
    size: int | None = None
    for i, (weight, bias) in enumerate(layers):
        fits = weight.ndim == 2 and bias.shape == weight.shape[1:]
        if not fits or size not in (None, weight.shape[0]):
            after = "" if size is None else f" after one of size {size}"
            raise ValueError(
                f"layer {i} has weights {weight.shape} and biases {bias.shape}{after}, "
                f"which do not fit"
            )
        size = weight.shape[1]


def _check_size(name: str, values: Float32, size: int) -> None:
    if values.size != size:
        raise ValueError(f"{name} has {values.size} entries where {size} are needed")


def _linear(x: Float32, layer: tuple[Float32, Float32]) -> Float32:
    blocks = x.reshape(-1, _BLOCK, x.shape[1])
    return (blocks @ layer[0]).reshape(len(x), -1) + layer[1]


def _pad(obs: NDArray[np.floating]) -> Float32:
    """Return obs as float32, padded with zero rows to a multiple of _BLOCK."""
    padded = np.zeros((-(-len(obs) // _BLOCK) * _BLOCK, obs.shape[1]), np.float32)
    padded[: len(obs)] = obs
    return padded
