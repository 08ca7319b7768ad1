"""Dict and Tuple observations, stored as Minari stores them."""

from __future__ import annotations

from typing import Any

import minari as minari_package
import numpy as np
import pytest

from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.rollout import rollout
from envs.sources import minari
from envs.worlds.make import make_env, make_raw
from envs.worlds.spec import EnvSpec
from tests.support.toys import Memory, register_goals

ID = "toy/goals/random-v0"
RECORDED = {"hazard": 0.2}


@pytest.fixture
def played() -> list[Episode]:
    register_goals()
    actor = Memory()
    result = rollout(lambda: make_env(EnvSpec("ToyGoals-v0", RECORDED)), actor, [4, 5], record=True)
    assert result.episodes is not None
    return list(result.episodes)


def write(episodes: list[Episode], **more: Any) -> None:
    arguments = {"env": EnvSpec("ToyGoals-v0", RECORDED), "description": "goals"}
    minari.write(ID, episodes, **{**arguments, **more})


def test_minari_reads_the_observations_that_the_environment_gave(played: list[Episode]) -> None:
    write(played)
    stored = minari_package.load_dataset(ID)
    env = make_raw(EnvSpec("ToyGoals-v0", RECORDED))
    for episode, seed in zip(stored.iterate_episodes(), (4, 5), strict=True):
        seen: Any = episode.observations
        obs, _ = env.reset(seed=seed)
        for t in range(len(episode) + 1):
            assert seen["goal"]["x"][t] == obs["goal"]["x"]
            assert seen["goal"]["y"][t] == obs["goal"]["y"]
            assert seen["mode"][t] == obs["mode"]
            np.testing.assert_array_equal(seen["speed"][t], obs["speed"])
            np.testing.assert_array_equal(seen["pair"][0][t], obs["pair"][0])
            np.testing.assert_array_equal(seen["pair"][1][t], obs["pair"][1])
            if t < len(episode):
                obs, reward, *_ = env.step(episode.actions[t])
                assert reward == episode.rewards[t]
        assert seen["speed"].dtype == np.float32
    env.close()


def test_both_environments_can_be_recovered(played: list[Episode]) -> None:
    write(played, eval_env=EnvSpec("ToyGoals-v0", {"line": 2.0}))
    stored = minari_package.load_dataset(ID)
    recorded: Any = stored.recover_environment().unwrapped
    evaluated: Any = stored.recover_environment(eval_env=True).unwrapped
    assert (recorded.hazard, recorded.line) == (0.2, np.inf)
    assert (evaluated.hazard, evaluated.line) == (0.05, 2.0)


def test_observations_that_are_not_all_parts_are_refused(played: list[Episode]) -> None:
    cut = [Episode(e.obs[:, :3], e.action, e.reward, e.terminated) for e in played]
    with pytest.raises(UserError, match="observations of size 3, ToyGoals-v0 has 10 in all"):
        write(cut)
    assert not minari.exists(ID)
