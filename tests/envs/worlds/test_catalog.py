from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from envs.scoring.references import normalized
from envs.worlds.catalog import lookup


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["Hopper", "HalfCheetah", "Walker2d", "Ant"])
def test_every_version_of_a_locomotion_task_is_known(name: str, version: int) -> None:
    spec = lookup(f"{name}-v{version}")
    assert spec is not None
    assert spec.family == name.lower()
    assert spec.source


@pytest.mark.parametrize("env_id", ["Hopper", "HopperHop-v1", "MyHopper-v5", "Pendulum-v1", ""])
def test_other_environments_are_unknown(env_id: str) -> None:
    assert lookup(env_id) is None
    assert normalized([1.0], env_id) is None


def test_the_horizon_is_gymnasiums() -> None:
    for env_id in ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5"):
        spec = lookup(env_id)
        assert spec is not None
        assert spec.horizon == gym.spec(env_id).max_episode_steps


def test_scores_are_zero_at_random_and_a_hundred_at_expert() -> None:
    np.testing.assert_allclose(normalized([-20.272305, 3234.3], "Hopper-v5"), [0, 100], atol=1e-12)
    # d4rl.get_normalized_score("hopper-medium-v2", 1500) * 100
    np.testing.assert_allclose(normalized(1500.0, "Hopper-v2"), 46.712, atol=1e-3)
