from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.behaviour import generate, mixes
from envs.behaviour.policy import load_policy
from tests.support.toys import ACTION, OBS, register


def test_the_scale_of_the_noise_is_that_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    spread: list[float] = []
    for noise in (0.0, 0.5, 1.0):
        monkeypatch.setitem(mixes._MEDIUM, "hopper", (mixes.Stage("00005000", 12, noise),))
        episodes = generate.generate_level("hopper", "medium", progress=False)
        spread.append(float(np.std([episode.action[0] for episode in episodes])))
    assert spread[0] < 0.1 < spread[1] < spread[2] - 0.1


def test_more_episodes_do_not_change_the_first_ones(tmp_path: Path) -> None:
    register()
    path = tmp_path / "policy.npz"
    np.savez(path, W0=np.zeros((OBS, ACTION)), b0=np.zeros(ACTION), log_std=np.zeros(ACTION))
    policy = load_policy(path)
    few, more = (generate.run_policy(policy, "ToyWalk-v0", n, (3,)) for n in (2, 9))
    for a, b in zip(few, more[:2], strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
