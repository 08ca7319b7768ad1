"""An environment that fails costs the episode that it fails in, and no other."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from envs.errors import UserError
from envs.rollout import rollout
from tests.support.toys import ACTION, Memory, Walk

RAGGED = "InvalidOutput: the environment's observation is not an array of numbers"
FAULTS = {
    "reset raises": "step 0: RuntimeError: on purpose",
    "reset gives ragged": f"step 0: {RAGGED}",
    "reset gives nan": "step 0: InvalidOutput: the environment's observation is not finite",
    "raises": "step 2: RuntimeError: on purpose",
    "says nothing": "step 2: RuntimeError",
    "obs nan": "step 3: InvalidOutput: the environment's observation is not finite",
    "last obs nan": "InvalidOutput: the environment's observation is not finite",
    "reward inf": "step 2: InvalidOutput: the environment's reward is inf",
    "reward none": "step 2: TypeError: float",
    "shape": "step 3: InvalidOutput: the environment's observation is",
    "ragged": f"step 3: {RAGGED}",
    "no obs": "step 3: InvalidOutput: the environment's observation is",
    "four values": "step 2: ValueError: not enough values",
}


class Faulty(Walk):
    """Walks, but in episodes of seeds that divide by `every` without remainder."""

    def __init__(self, fault: str, every: int = 5, stubborn: bool = False) -> None:
        super().__init__(hazard=0.0, horizon=9)
        self.fault, self.every, self.stubborn, self.broken = fault, every, stubborn, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert not self.broken, "an environment that has failed is not used again"
        assert seed is not None
        self.bad, self.taken = seed % self.every == 0, 0
        obs, info = super().reset(seed=seed)
        if self.bad and self.fault.startswith("reset"):
            self.broken = True
            if self.fault == "reset raises":
                raise RuntimeError("on purpose\nand more")
            if self.fault == "reset gives ragged":
                return [0.0, [1.0, 2.0]], info
            obs = np.full_like(obs, np.nan)
        return obs, info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, cut, info = super().step(action)
        self.taken += 1
        over = terminated or cut
        if self.fault == "none" or not self.bad:
            return obs, reward, terminated, cut, info
        if self.taken != 3 and not (over and self.fault == "last obs nan"):
            return obs, reward, terminated, cut, info
        self.broken = True
        match self.fault:
            case "raises":
                raise RuntimeError("on purpose\nand more")
            case "says nothing":
                raise RuntimeError
            case "obs nan":
                obs = obs * np.nan
            case "last obs nan" if over:
                obs = obs * np.nan
            case "reward inf":
                reward = np.inf
            case "reward none":
                reward = None
            case "shape":
                obs = obs[:-1]
            case "ragged":
                return [0.0, [1.0, 2.0]], reward, terminated, cut, info
            case "no obs":
                obs = None
            case "four values":
                return obs, reward, over, info
        return obs, reward, terminated, cut, info

    def close(self) -> None:
        super().close()
        if self.broken and self.stubborn:
            raise RuntimeError("it cannot even be closed")


@pytest.fixture(autouse=True)
def every_environment_is_closed():
    Walk.live = Faulty.live = 0
    yield
    assert Walk.live == Faulty.live == 0


SEEDS = range(11, 29)
BAD = [4, 9, 14]
"""Places of the seeds 15, 20, 25."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_envs", [1, 4, 18])
def test_a_failure_costs_its_episode_alone(fault: str, num_envs: int) -> None:
    done: list[tuple[int, int]] = []
    options: dict[str, Any] = {"num_envs": num_envs, "record": True}
    well = rollout(partial(Faulty, "none"), Memory(), SEEDS, **options)
    result = rollout(
        partial(Faulty, fault, stubborn=True),
        Memory(),
        SEEDS,
        **options,
        tolerant=True,
        progress=lambda *counts: done.append(counts),
    )
    assert list(result.failures) == BAD
    for place, text in result.failures.items():
        assert text.startswith(f"seed {SEEDS[place]}, ")
        assert FAULTS[fault] in text
        assert "\n" not in text
    fine = [i for i in range(len(SEEDS)) if i not in BAD]
    np.testing.assert_array_equal(result.returns[fine], well.returns[fine])
    np.testing.assert_array_equal(result.lengths[fine], well.lengths[fine])
    assert np.isnan(result.returns[BAD]).all()
    assert not result.terminated[BAD].any()
    assert result.episodes is not None
    assert [episode.seed for episode in result.episodes] == [SEEDS[i] for i in fine]
    assert done == [(i + 1, 18) for i in range(18)]


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_where_every_episode_is_needed_the_error_is_raised(fault: str, record: bool) -> None:
    kind, message = (RuntimeError, TypeError, ValueError), None
    if "InvalidOutput" in FAULTS[fault]:
        kind, message = UserError, r"episode 4 \(seed 15\), step \d: the environment"
    with pytest.raises(kind, match=message):
        rollout(partial(Faulty, fault), Memory(), SEEDS, num_envs=1, record=record)


def test_more_than_half_is_too_many_and_half_is_not() -> None:
    broken = partial(Faulty, "raises", every=2)
    assert len(rollout(broken, Memory(), range(10), num_envs=3, tolerant=True).failures) == 5
    message = r"6 of 11 episodes of the environment failed, one of them at seed 0, step 2: Runtime"
    with pytest.raises(UserError, match=message):
        rollout(broken, Memory(), range(11), num_envs=3, tolerant=True)


class Scarce(Faulty):
    """Fails as Faulty does, and cannot be made more than so many times in a process."""

    left = 0

    def __init__(self, fault: str = "raises") -> None:
        if not Scarce.left:
            raise OSError("no display\nleft")
        Scarce.left -= 1
        super().__init__(fault)


NOT_ANEW = "step 2: RuntimeError: on purpose; then it could not be made again: OSError: no display"


@pytest.mark.parametrize(("num_envs", "anew"), [(4, 0), (4, 1), (2, 2), (18, 0)])
def test_where_none_can_be_made_anew_the_others_play_on(
    monkeypatch: pytest.MonkeyPatch, num_envs: int, anew: int
) -> None:
    monkeypatch.setattr(Scarce, "left", num_envs + anew)
    well = rollout(partial(Faulty, "none"), Memory(), SEEDS, num_envs=num_envs)
    result = rollout(Scarce, Memory(), SEEDS, num_envs=num_envs, tolerant=True)
    assert list(result.failures) == BAD
    told = [NOT_ANEW in text for text in result.failures.values()]
    assert told == [i >= anew for i in range(3)]
    fine = [i for i in range(len(SEEDS)) if i not in BAD]
    np.testing.assert_array_equal(result.returns[fine], well.returns[fine])


def test_the_last_episode_may_cost_the_last_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scarce, "left", 1)
    result = rollout(Scarce, Memory(), range(11, 16), num_envs=1, tolerant=True)
    assert result.failures == {4: f"seed 15, {NOT_ANEW}"}
    assert not np.isnan(result.returns[:4]).any()


def test_where_no_environment_is_left_one_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scarce, "left", 2)
    # Places 4 and 9 fail, and 10 others were begun before the second of them.
    message = rf"^8 of 18 episodes of the environment were not run: .*seed 20, {NOT_ANEW}; repair"
    with pytest.raises(UserError, match=message):
        rollout(Scarce, Memory(), SEEDS, num_envs=2, tolerant=True)


def test_an_error_of_the_actor_is_no_failure_of_the_environment() -> None:
    def diverges(obs: Any, *_: Any) -> Any:
        return np.full((len(obs), ACTION), np.nan)

    def raises(*_: Any) -> Any:
        raise RuntimeError("the actor")

    for actor, error in ((diverges, UserError), (raises, RuntimeError)):
        with pytest.raises(error, match="actor"):
            rollout(Walk, actor, range(4), tolerant=True)


def test_ctrl_c_in_an_environment_ends_the_rollout() -> None:
    class Interrupted(Walk):
        def step(self, action: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(Interrupted, Memory(), range(4), tolerant=True)


def still(obs: Any, *_: Any) -> Any:
    return np.zeros((len(obs), ACTION))


def test_processes_tell_of_the_same_failures() -> None:
    one, two = (
        rollout(partial(Faulty, "raises"), still, range(60), num_envs=4, num_procs=n, tolerant=True)
        for n in (1, 2)
    )
    assert one.failures == two.failures
    assert len(one.failures) == 12
    np.testing.assert_array_equal(one.returns, two.returns)


class ScarceHere(Faulty):
    """Cannot be made a second time in a process."""

    made = False

    def __init__(self) -> None:
        if ScarceHere.made:
            raise OSError("no display")
        ScarceHere.made = True
        super().__init__("raises")


def test_processes_that_have_no_environment_left_end() -> None:
    ScarceHere.made = False
    with pytest.raises(UserError, match="episodes of the environment were not run"):
        rollout(ScarceHere, still, range(1, 500), num_envs=2, num_procs=2, tolerant=True)
