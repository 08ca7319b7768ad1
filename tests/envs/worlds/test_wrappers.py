"""Wrappers that a data set was recorded through are made again, and no other code is."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers

from agents.evaluation.protocol import line_protocol
from agents.evaluation.spec import EvalSpec
from envs import sources
from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.sources import minari
from envs.worlds.catalog import lookup
from envs.worlds.make import make_env, make_raw
from envs.worlds.spec import EnvSpec
from tests.support import recordings, toys

ID = "toy/wrapped/x-v0"
WRAPPED = {
    "RescaleAction": lambda env: wrappers.RescaleAction(env, -1.0, 1.0),
    "ClipAction": wrappers.ClipAction,
    "RescaleObservation": lambda env: wrappers.RescaleObservation(env, -1.0, 1.0),
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 3),
    "TimeAwareObservation": wrappers.TimeAwareObservation,
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 2),
    "ReshapeObservation": lambda env: wrappers.ReshapeObservation(env, (3, 1)),
    "ClipReward": lambda env: wrappers.ClipReward(env, -1.0, 0.0),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.5),
    "RepeatAction": lambda env: wrappers.RepeatAction(env, 4),
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "two": lambda env: wrappers.FrameStackObservation(wrappers.RescaleAction(env, -1.0, 1.0), 2),
}


def replay(env: gym.Env[Any, Any], episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat observations and the rewards of the episode's actions, from its seed."""
    obs, reward = [env.reset(seed=episode.seed)[0]], []
    for action in episode.action:
        found, gain, *_ = env.step(action)
        obs.append(found)
        reward.append(float(gain))
    env.close()
    return np.asarray(obs), np.asarray(reward)


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_evaluation_is_in_the_environment_that_was_recorded(name: str) -> None:
    made = recordings.record(ID, WRAPPED[name](gym.make("Pendulum-v1")), steps=40)
    found = sources.load(ID)
    sources.check_env(found)
    saved = EnvSpec.from_json(json.loads(json.dumps(found.env.to_json())))
    assert saved == found.env
    for index, episode in enumerate(made):
        obs, reward = replay(make_env(saved), episode)
        np.testing.assert_array_equal(reward, episode.reward)
        np.testing.assert_array_equal(obs, episode.obs.reshape(len(obs), -1))
        np.testing.assert_allclose(found.episode(index).obs, obs, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_the_wrappers_are_told_in_the_note_and_in_the_protocol() -> None:
    recordings.record(ID, wrappers.RescaleAction(gym.make("Pendulum-v1"), -1.0, 1.0), steps=40)
    found = sources.load(ID)
    assert found.notes == (
        "recorded through wrappers, which evaluation has, too: "
        "Pendulum-v1 in RescaleAction (min_action=-1.0, max_action=1.0)",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # gymnasium's about the types of bounds are of no use
        sources.check_env(found)
    metadata = {**found.env.to_json(), "data": ID, "reference": None, "notes": list(found.notes)}
    protocol = line_protocol(metadata, EvalSpec(targets=(1.0,)), "last")
    assert protocol["env_wrappers"] == [["RescaleAction", {"min_action": -1.0, "max_action": 1.0}]]
    assert protocol["data_notes"] == found.notes[0]


def test_dict_observations_are_flattened_or_filtered_as_recorded() -> None:
    plain = gym.make(toys.register_goals(), disable_env_checker=True)
    for name, env in (
        ("toy/flat-v0", wrappers.FlattenObservation(plain)),
        ("toy/some-v0", wrappers.FilterObservation(plain, ["speed", "mode"])),
    ):
        made = recordings.record(name, env, steps=5, count=1)
        found = sources.load(name)
        sources.check_env(found)
        obs, reward = replay(make_env(found.env), made[0])
        np.testing.assert_array_equal(reward, made[0].reward)
        np.testing.assert_allclose(found.episode(0).obs, obs, rtol=1e-6)


def test_wrappers_that_the_registration_has_are_not_made_twice() -> None:
    twice = gym.envs.registration.WrapperSpec(
        "RescaleAction",
        "gymnasium.wrappers:RescaleAction",
        {"min_action": np.float32(-2.0), "max_action": np.float32(2.0)},
    )
    gym.register("ToyScaled-v0", "tests.support.toys:Walk", additional_wrappers=(twice,))
    try:
        spec = EnvSpec("ToyScaled-v0", wrappers=(("RescaleAction", {}), ("ClipAction", {})))
        with pytest.raises(UserError, match="has the wrappers RescaleAction here, the data were"):
            make_raw(spec)
        bounds = {"min_action": "-2.0", "max_action": "2.0"}
        env = make_raw(
            EnvSpec("ToyScaled-v0", wrappers=(("RescaleAction", bounds), ("ClipAction", {})))
        )
        assert isinstance(env, wrappers.ClipAction)
        assert isinstance(env.env, wrappers.RescaleAction)
        assert not isinstance(env.env.env, wrappers.RescaleAction)
    finally:
        del gym.registry["ToyScaled-v0"]


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (("Flip", {}), "through the wrapper Flip, which cannot be made again"),
        (("TransformReward", {"func": None}), "TransformReward, which cannot be made again"),
        (("NormalizeObservation", {}), "running statistics are not stored"),
        (("RecordVideoEvil", {"video_folder": "x"}), "cannot be made again"),
        (("vector.RescaleAction", {}), "cannot be made again"),
        (("FrameStackObservation", {"stack_size": 10**9}), "a number above 100,000"),
        (("RescaleAction", {"min_action": "a", "max_action": 1.0}), "correct the arguments"),
        (("ClipAction", {"env": 1}), "correct the arguments"),
    ],
)
def test_what_cannot_be_made_again_is_refused_in_one_line(
    wrapper: tuple[str, dict[str, Any]], message: str
) -> None:
    before = toys.Walk.live
    with pytest.raises(UserError, match=message) as caught:
        make_env(EnvSpec(toys.register(), wrappers=(wrapper,)))
    assert "\n" not in str(caught.value)
    assert toys.Walk.live == before


def test_a_data_set_imports_nothing_by_its_wrappers(tmp_path, monkeypatch) -> None:
    (tmp_path / "canary_module.py").write_text("class RescaleAction: ...")
    monkeypatch.syspath_prepend(tmp_path)
    minari.write(ID, toys.episodes([4]), env=toys.register(), description="")
    path = minari.root() / ID / "data" / "metadata.json"
    about = json.loads(path.read_text())
    spec = json.loads(about["env_spec"])
    arguments = {"min_action": -2.0, "max_action": 2.0}
    entry = "canary_module:RescaleAction"
    spec["additional_wrappers"] = [
        {"name": "RescaleAction", "entry_point": entry, "kwargs": arguments}
    ]
    path.write_text(json.dumps(about | {"env_spec": json.dumps(spec)}))
    found = sources.load(ID)
    # One of gymnasium's names is no proof that it is gymnasium's.
    with pytest.raises(UserError, match="canary_module:RescaleAction, which cannot be made again"):
        make_env(found.env)
    assert "canary_module" not in sys.modules
    spec["additional_wrappers"][0]["entry_point"] = "gymnasium.wrappers.no_such:RescaleAction"
    path.write_text(json.dumps(about | {"env_spec": json.dumps(spec)}))
    assert isinstance(make_env(sources.load(ID).env), wrappers.RescaleAction)
    assert "gymnasium.wrappers.no_such" not in sys.modules


def test_a_wrapper_that_changes_rewards_leaves_no_reference_returns() -> None:
    assert lookup(EnvSpec("Hopper-v4")) is not None
    assert lookup(EnvSpec("Hopper-v4", wrappers=(("RescaleAction", {}),))) is not None
    assert lookup(EnvSpec("Hopper-v4", wrappers=(("ClipReward", {}),))) is None


class Whole(gym.Env[Any, Any]):
    """An environment that takes whole numbers alone, and needs an option."""

    observation_space = spaces.Box(-9, 9, (1,), np.float64)
    action_space = spaces.Box(-3, 3, (1,), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.goal = (options or {})["goal"]
        return np.full(1, self.goal, np.float64), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return np.full(1, self.goal, np.float64), float(action[0]), True, False, {}


@pytest.fixture
def whole() -> Any:
    gym.register("ToyWhole-v0", Whole)
    yield "ToyWhole-v0"
    del gym.registry["ToyWhole-v0"]


def test_actions_for_whole_numbers_are_rounded_and_resets_get_their_options(whole: str) -> None:
    env = make_env(EnvSpec(whole, reset_options={"goal": 4.0}))
    assert env.reset(seed=0)[0].tolist() == [4.0]
    assert env.step(np.array([1.7], np.float32))[1] == 2.0
    assert env.reset(options={"goal": 5.0})[0].tolist() == [5.0]
