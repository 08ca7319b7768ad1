"""Dict and Tuple observations as flat vectors.

Parts of a Dict are sorted by name on each level, those of a Tuple keep their order; `keys` chooses
parts and their order. A nested part is named "achieved_goal/microwave", a Tuple's "pair/0".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError


@dataclass(frozen=True)
class Part:
    """One leaf of a space."""

    path: tuple[str | int, ...]
    """Names in Dicts and places in Tuples, from the outside in."""
    space: gym.Space[Any]
    width: int
    """Its number of entries in the flat vector."""

    @property
    def name(self) -> str:
        """The path as one text, as in `keys`."""
        return "/".join(map(str, self.path))

    def __str__(self) -> str:
        one_hot = isinstance(self.space, spaces.Discrete)
        return f"{self.name} ({'one of ' * one_hot}{self.width})".lstrip()

    def pick(self, obs: Any) -> Any:
        """Return this part of an observation."""
        for step in self.path:
            obs = obs[step]
        return obs

    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (N, width) of values (N, ...): flattened, discrete ones one-hot."""
        values = np.asarray(values)
        if not isinstance(self.space, spaces.Discrete):
            return values.reshape(len(values), self.width)
        places = values.reshape(-1).astype(np.int64) - int(self.space.start)
        return (places[:, None] == np.arange(self.width)).astype(np.float32)

    def decode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values (N, ...) whose encoding is `values` (N, width)."""
        if isinstance(self.space, spaces.Discrete):
            return values.argmax(axis=1) + int(self.space.start)
        return values.reshape(len(values), *(self.space.shape or ())).astype(self.space.dtype)


def parts(space: gym.Space[Any], keys: Sequence[str] = (), *, where: str) -> tuple[Part, ...]:
    """Return the parts of a Dict or Tuple space, in the order of the flat vector.

    keys: the parts and their order; () is all. A key of a Dict or Tuple means all of its parts.
    where: the name of the environment or data set, for messages.
    Raises UserError for an unknown or repeated key, and for parts that are not numbers.
    """
    leaves = {"/".join(map(str, path)): (path, leaf) for path, leaf in _leaves(space, ())}
    if not leaves:
        raise UserError(f"{where} has empty observations; choose another")
    names: list[str] = []
    for key in keys:
        matching = [name for name in leaves if name == key or name.startswith(f"{key}/")]
        if not matching:
            known = ", ".join(filter(None, leaves)) or "one flat array"
            raise UserError(f"{where} has no observation {key!r}; it has {known}")
        names += matching
    if len(set(names)) < len(names):
        raise UserError(f"the observations {', '.join(keys)} include a part twice; name each once")
    return tuple(_part(*leaves[name], where) for name in names or leaves)


def _leaves(
    space: gym.Space[Any], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], gym.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for name in sorted(space.keys()):
            yield from _leaves(space[name], (*path, name))
    elif isinstance(space, spaces.Tuple):
        for place, part in enumerate(space.spaces):
            yield from _leaves(part, (*path, place))
    else:
        yield path, space


def _part(path: tuple[str | int, ...], space: gym.Space[Any], where: str) -> Part:
    if isinstance(space, spaces.Discrete):
        return Part(path, space, int(space.n))
    image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1
    if isinstance(space, spaces.Box | spaces.MultiBinary) and not image:
        return Part(path, space, int(np.prod(space.shape)))
    name = "/".join(map(str, path))
    raise UserError(
        f"{where} has {name or 'observations'} of the kind {'image' if image else space}; only "
        f"numbers are supported: name the other parts with --data.obs-keys, or choose another"
    )


def flatten(
    env: gym.Env[Any, Any], keys: Sequence[str], name: str | None = None
) -> gym.Env[Any, Any]:
    """Return an environment whose observations, or `keys` of their parts, are flat vectors.

    Dicts, Tuples and arrays of several dimensions, such as stacks of frames, are made flat.
    name: for messages. Where it cannot be made flat, it is closed, and UserError raised.
    """
    space = env.observation_space
    deep = isinstance(space, spaces.Box) and len(space.shape) != 1
    if not (keys or deep or isinstance(space, spaces.Dict | spaces.Tuple)):
        return env
    try:
        return FlatObservation(env, keys, name or type(env.unwrapped).__name__)
    except BaseException:
        env.close()
        raise


class FlatObservation(gym.ObservationWrapper[NDArray[np.float64], Any, Any]):
    """A wrapper that makes an environment's observations flat vectors (O,).

    Example:
        >>> from gymnasium import spaces
        >>> class Here(gym.Env):
        ...     action_space = spaces.Box(-1, 1, (1,))
        ...     observation_space = spaces.Dict(
        ...         goal=spaces.Box(-1, 1, (2,)), at=spaces.Box(-1, 1, (3,))
        ...     )
        ...
        ...     def reset(self, *, seed=None, options=None):
        ...         return {"goal": np.full(2, 0.5), "at": np.zeros(3)}, {}
        >>> env = FlatObservation(Here(), (), "here")
        >>> [part.name for part in env.parts], env.observation_space.shape
        (['at', 'goal'], (5,))
        >>> env.reset()[0].tolist()
        [0.0, 0.0, 0.0, 0.5, 0.5]
    """

    def __init__(self, env: gym.Env[Any, Any], keys: Sequence[str], where: str) -> None:
        super().__init__(env)
        self.parts = parts(env.observation_space, keys, where=where)
        self._plain = all(isinstance(part.space, spaces.Box) for part in self.parts)
        low, high = bounds(self.parts, 0), bounds(self.parts, 1)
        self.observation_space = spaces.Box(low, high, dtype=np.float64)

    def observation(self, observation: Any) -> NDArray[np.float64]:
        """Return an observation's parts as one vector."""
        if self._plain:
            flat = [np.ravel(part.pick(observation)) for part in self.parts]
        else:
            flat = [part.encode(np.asarray([part.pick(observation)]))[0] for part in self.parts]
        return np.concatenate(flat, dtype=np.float64)


def bounds(obs: Sequence[Part], side: int) -> NDArray[np.float64]:
    """Return the lower (side 0) or upper bounds (side 1) of flat observations (O,)."""
    return np.concatenate([_bound(part, side) for part in obs])


def _bound(part: Part, side: int) -> NDArray[np.float64]:
    if isinstance(part.space, spaces.Box):
        return np.ravel((part.space.low, part.space.high)[side]).astype(np.float64)
    return np.full(part.width, float(side))
