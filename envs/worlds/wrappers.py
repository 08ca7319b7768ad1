"""gymnasium's own wrappers, made again around an environment by their names and arguments."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError
from envs.worlds.spec import Wrapper

KEEP_RETURNS = frozenset(
    {
        *("ClipAction", "RescaleAction"),
        *("DelayObservation", "FilterObservation", "FlattenObservation", "FrameStackObservation"),
        *("ReshapeObservation", "RescaleObservation", "TimeAwareObservation"),
    }
)
"""Those that can be made again and leave the meaning of returns as it is."""
SKIP_STEPS = frozenset({"MaxAndSkipObservation", "RepeatAction"})
"""Those of which one step is several of the environment's."""
MADE_AGAIN = KEEP_RETURNS | SKIP_STEPS | {"ClipReward", "StickyAction"}
"""Those that can be made again. No other class is ever looked up, whatever a file says."""
_PLACE = "gymnasium.wrappers."
_UNNOTICED = frozenset(
    {
        *("Autoreset", "HumanRendering", "OrderEnforcing", "PassiveEnvChecker"),
        *("RecordEpisodeStatistics", "RecordVideo", "RenderCollection"),
    }
)  # the agent does not notice them: left out
_STATISTICS = ("NormalizeObservation", "NormalizeReward")
_LARGEST = 100_000  # of whole numbers: frames in a stack, steps of a delay


def noticed(stored: Iterable[Mapping[str, Any]]) -> tuple[Wrapper, ...]:
    """Return the wrappers that an agent notices, with arguments as they come back from a file.

    stored: name, entry_point and kwargs of each. One that is not gymnasium's own gets its full
    name, as it may do anything under theirs.
    """
    found: list[Wrapper] = []
    for each in stored:
        name, place = str(each["name"]), str(each.get("entry_point") or _PLACE)
        if not place.startswith(_PLACE):
            name = place
        if name not in _UNNOTICED:
            kwargs = json.loads(json.dumps(dict(each.get("kwargs") or {}), default=str))
            found.append((name, kwargs))
    return tuple(found)


def wrap(env: gym.Env[Any, Any], wrappers: tuple[Wrapper, ...], name: str) -> gym.Env[Any, Any]:
    """Return the environment with these wrappers, from the inside out.

    wrappers: all of them, those that `env` has already included. name: of the environment, for
    messages. Where one cannot be made again, the environment is closed, and UserError raised.
    """
    try:
        listed = () if env.spec is None else env.spec.additional_wrappers
        present = noticed(map(vars, listed))
        if wrappers[: len(present)] != present:
            raise UserError(
                f"{name} has the wrappers {_names(present)} here, the data were recorded through "
                f"{_names(wrappers)}; install the version that they were recorded with, or train "
                f"without evaluation: --eval.episodes 0"
            )
        for wrapper, arguments in wrappers[len(present) :]:
            env = _made(env, wrapper, arguments, name)
        return env
    except BaseException:
        env.close()
        raise


def _made(
    env: gym.Env[Any, Any], wrapper: str, arguments: Mapping[str, Any], name: str
) -> gym.Env[Any, Any]:
    if wrapper not in MADE_AGAIN:
        why = (
            "its running statistics are not stored"
            if wrapper in _STATISTICS
            else f"of wrappers, only gymnasium's {', '.join(sorted(MADE_AGAIN))} can"
        )
        raise UserError(
            f"{name} was recorded through the wrapper {wrapper}, which cannot be made again "
            f"({why}); record through an environment that is registered with it, or train without "
            f"evaluation: --eval.episodes 0"
        )
    given = {key: _argument(key, value) for key, value in arguments.items()}
    try:
        if any(isinstance(value, int) and abs(value) > _LARGEST for value in given.values()):
            raise ValueError(f"a number above {_LARGEST:,}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*precision lowered", UserWarning)
            return getattr(gym.wrappers, wrapper)(env, **given)
    except Exception as error:  # wrappers raise anything for arguments from a file
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name} cannot be made with the wrapper {wrapper} and {dict(arguments)} ({lines[0]}); "
            f"correct the arguments in the data set's env_spec"
        ) from error


def _argument(key: str, value: Any) -> Any:
    """Return an argument as the wrappers take it: bounds are arrays, shapes and keys are tuples."""
    if not isinstance(value, list):
        return value
    bound = key.startswith(("min_", "max_"))
    return np.asarray(value, np.float32) if bound else tuple(cast(list[Any], value))


def _names(wrappers: tuple[Wrapper, ...]) -> str:
    return ", ".join(name for name, _ in wrappers) or "none"


class WholeActions(gym.ActionWrapper[Any, Any, Any]):
    """A wrapper that rounds actions, for an action space of whole numbers."""

    def action(self, action: Any) -> NDArray[Any]:
        """Return the nearest whole numbers of the space's type."""
        assert isinstance(self.action_space, spaces.Box)
        return np.rint(action).astype(self.action_space.dtype)


class ResetOptions(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that gives the same options to every reset."""

    def __init__(self, env: gym.Env[Any, Any], options: Mapping[str, Any]) -> None:
        super().__init__(env)
        self._options = dict(options)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment with the options; those given here come first."""
        return self.env.reset(seed=seed, options={**self._options, **(options or {})})
