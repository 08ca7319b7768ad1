"""What differs between a data set and the environment of its evaluation is refused or told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs import sources
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.rollout import rollout
from envs.sources import minari
from envs.worlds import interface
from envs.worlds.make import make_env
from envs.worlds.spec import EnvSpec
from tests.support import d4rl_files, recordings, toys

ID = "toy/set/x-v0"
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0, -1.0], "high": [1.0, 1.0]}


def change(**fields: Any) -> None:
    path = minari.root() / ID / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(lengths: list[int], rewards: Any = None, ended: bool = False, **more: Any) -> Trajectories:
    made = []
    for i, length in enumerate(lengths):
        reward = np.arange(length, 0, -1.0) if rewards is None else rewards(length)
        obs = np.random.default_rng(i).uniform(-1, 1, size=(length + 1, 3))
        made.append(Episode(obs, np.zeros((length, 1)), reward, ended))
    return Trajectories.from_episodes(made, name="cut", **{"env": "Pendulum-v1", **more})


def test_data_cut_before_the_time_limit_is_told_with_the_argument_that_mends_it() -> None:
    (note,) = sources.check_env(cut([50] * 9 + [200]))
    assert note == (
        "9 of 10 episodes were cut after 50 steps, an evaluation lasts up to 200: their returns do "
        "not compare; --data.env-kwargs max_episode_steps 50 evaluates over as many"
    )
    (note,) = sources.check_env(cut([20, 30, 50, 40]))
    assert "4 of 4 episodes were cut after 20 to 50 steps" in note
    env = EnvSpec("Pendulum-v1", {"max_episode_steps": 50})
    assert sources.check_env(cut([50] * 9, env=env)) == ()


def test_episodes_longer_than_an_evaluation_are_told() -> None:
    (note,) = sources.check_env(cut([200, 200, 300]))
    assert note == (
        "1 of 3 episodes have up to 300 steps, an evaluation ends after 200: their returns do not "
        "compare; --data.env-kwargs max_episode_steps 300 evaluates over as many"
    )


@pytest.mark.parametrize("unit", [1e-7, 1.0, 1e6])
def test_bounds_are_compared_in_their_own_unit(unit: float) -> None:
    def differ(low: float, high: float) -> str | None:
        sides = ((unit * side,) for side in (-1.0, 1.0, low, high))
        return interface._differ(*sides)

    assert differ(-1.0, 1.0) is None
    assert differ(-1.0, 1.00001) is None
    assert "1 of 1 differ" in (differ(-0.5, 0.5) or "")


def test_terminations_after_equal_numbers_of_steps_are_told() -> None:
    (note,) = sources.check_env(cut([50] * 19 + [20], ended=True))
    assert note.startswith("19 of 20 episodes terminated after exactly 50 steps, an evaluation")
    for lengths in ([50] * 9, [50] * 10 + [20] * 10, [1] * 20, [200] * 20):
        assert sources.check_env(cut(lengths, ended=True)) == ()


def test_data_up_to_the_time_limit_and_cut_at_goals_are_not_told() -> None:
    assert sources.check_env(cut([200] * 3 + [50])) == ()
    assert sources.check_env(cut([20, 30, 50, 40], lambda t: np.eye(t)[-1])) == ()
    # Those that are cut after the same number of steps are not cut at goals.
    assert len(sources.check_env(cut([50] * 4, lambda t: np.arange(t, dtype=float)))) == 1


def test_the_returns_of_cut_data_are_those_of_the_environment_with_the_argument() -> None:
    made = recordings.record(ID, gym.make("Pendulum-v1"), steps=50)
    plain, mended = (
        sources.load(ID, env_kwargs=kwargs) for kwargs in ({}, {"max_episode_steps": 50})
    )
    assert len(sources.check_env(plain)) == 1
    assert sources.check_env(mended) == ()

    def replay(obs: Any, reward: Any, resets: Any, episode: Any) -> Any:
        step[0] += 1
        return np.stack([made[i].action[(step[0] - 1) % 50] for i in episode])

    step = [0]
    played = rollout(mended.env, replay, [0, 1, 2], num_envs=3)
    np.testing.assert_allclose(played.returns, mended.returns, rtol=1e-5)
    step = [0]
    played = rollout(plain.env, replay, [0, 1, 2], num_envs=3)
    assert (played.returns < 1.5 * plain.returns).all()


def test_actions_that_were_scaled_by_no_named_wrapper_are_refused() -> None:
    recordings.record(ID, gym.make("Pendulum-v1"), steps=5)
    sources.check_env(sources.load(ID))
    one = BOX | {"shape": [1], "low": [-1.0], "high": [1.0]}
    change(action_space=json.dumps(one))
    with pytest.raises(UserError, match=r"actions in \[-1, 1\] and not \[-2, 2\].*Pendulum-v1"):
        sources.check_env(sources.load(ID))
    sources.load(ID)  # to train without evaluation
    change(action_space=json.dumps(one | {"low": [-np.inf], "high": [np.inf]}))
    found = sources.load(ID)
    assert "have no bounds: those of the data" in found.notes[0]
    sources.check_env(found)


def test_observations_that_were_scaled_by_no_named_wrapper_are_told() -> None:
    recordings.record(ID, gym.make("Pendulum-v1"), steps=200)
    assert sources.check_env(sources.load(ID)) == ()
    three = BOX | {"shape": [3], "low": [-1.0] * 3, "high": [1.0] * 3}
    change(observation_space=json.dumps(three))
    (note,) = sources.check_env(sources.load(ID))
    assert (
        "observations in [-1, 1] and not [-8, 8] (number 2; 1 of 3 differ) of Pendulum-v1" in note
    )


def test_observations_beyond_the_bounds_of_the_environment_are_told() -> None:
    data = cut([200] * 3)
    for scale, offset in ((1.0, None), (3.0, None), (1.0, np.array([0.0, 5.0, 0.0]))):
        scaled = replace(data, obs=data.obs * np.float32(scale), obs_offset=offset)
        notes = sources.check_env(scaled)
        assert len(notes) == (scale > 1 or offset is not None)
        assert all("outside of the bounds that Pendulum-v1 has (number " in each for each in notes)
    obs = data.obs.copy()
    obs[:5] = 100.0  # few
    assert sources.check_env(replace(data, obs=obs)) == ()


class Parts(toys.Walk):
    """The walk with observations of two parts, whose names and sizes are arguments."""

    def __init__(self, first: str = "at", second: str = "goal", split: int = 2) -> None:
        super().__init__()
        box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.names = {first: slice(0, split), second: slice(split, 3)}
        self.observation_space: Any = spaces.Dict(
            {
                name: spaces.Box(box.low[rows], box.high[rows], dtype=np.float64)
                for name, rows in self.names.items()
            }
        )

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return {name: obs[rows] for name, rows in self.names.items()}, info

    def step(self, action: Any) -> Any:
        obs, *more = super().step(action)
        return {name: obs[rows] for name, rows in self.names.items()}, *more


@pytest.fixture
def parts() -> Any:
    gym.register("ToyParts-v0", Parts.__module__ + ":Parts")
    yield "ToyParts-v0"
    del gym.registry["ToyParts-v0"]


@pytest.mark.parametrize(
    "other", [{"second": "target"}, {"first": "zone"}, {"split": 1}], ids=["name", "order", "sizes"]
)
def test_parts_of_other_names_order_or_sizes_are_refused(parts: str, other: Any) -> None:
    minari.write(ID, toys.episodes([4, 5]), env=parts, description="")
    assert sources.check_env(sources.load(ID)) == ()
    with pytest.raises(UserError, match=r"with the observations at \(2\), goal \(1\), and not"):
        sources.check_env(sources.load(ID, env_kwargs=other))


def test_obs_keys_choose_parts_of_the_data_and_of_the_environment(parts: str) -> None:
    made = toys.episodes([4, 5])
    minari.write(ID, made, env=parts, description="")
    found = sources.load(ID, obs_keys=["goal", "at"], env_kwargs={"split": 2})
    np.testing.assert_array_equal(found.episode(0).obs, made[0].obs[:, [2, 0, 1]].astype("f4"))
    assert sources.check_env(found) == ()
    one = sources.load(ID, obs_keys=["goal"])
    assert one.obs_dim == 1
    assert sources.check_env(one) == ()
    env, plain = make_env(one.env), make_env(toys.register())
    assert env.reset(seed=3)[0].tolist() == plain.reset(seed=3)[0][2:].tolist()
    with pytest.raises(UserError, match="has no observation 'speed'; it has at, goal"):
        sources.load(ID, obs_keys=["speed"])


def test_a_file_for_an_environment_of_parts_says_which_order_is_taken(
    parts: str, tmp_path: Path
) -> None:
    path = d4rl_files.write(tmp_path / "a.hdf5", d4rl_files.arrays(toys.episodes([5, 9])))
    (note,) = sources.check_env(sources.load(str(path), env_id=parts))
    assert "the parts of ToyParts-v0 in the order at (2), goal (1); --data.obs-keys" in note
    keys = ("goal", "at")
    assert sources.check_env(sources.load(str(path), env_id=parts, obs_keys=keys)) == ()


def test_a_file_takes_the_arguments_of_its_environment(tmp_path: Path) -> None:
    kwargs = {"include_cfrc_ext_in_observation": False}
    made = recordings.play(gym.make("Ant-v5", **kwargs), count=2, steps=20)
    path = d4rl_files.write(tmp_path / "ant.hdf5", d4rl_files.arrays(made))
    found = sources.load(str(path), env_id="Ant-v5", env_kwargs=kwargs)
    assert found.obs_dim == 27
    sources.check_env(found)
    assert found.env == EnvSpec("Ant-v5", kwargs)
    with pytest.raises(UserError, match=r"made with other arguments: --data\.env-kwargs"):
        sources.check_env(sources.load(str(path), env_id="Ant-v5"))


def test_a_file_for_an_environment_without_bounds_has_those_of_the_data(tmp_path: Path) -> None:
    if "ToyFree-v1" not in gym.registry:
        bounds = {"low": -np.inf, "high": np.inf}
        gym.register("ToyFree-v1", "tests.support.toys:Walk", kwargs=bounds)
    made = toys.episodes([5, 9])
    path = d4rl_files.write(tmp_path / "a.hdf5", d4rl_files.arrays(made))
    found = sources.load(str(path), env_id="ToyFree-v1")
    action = np.concatenate([each.action for each in made]).astype(np.float32)
    np.testing.assert_array_equal(found.action_low, action.min(axis=0))
    np.testing.assert_array_equal(found.action_high, action.max(axis=0))
    assert found.notes[0] == "the environment's actions have no bounds: those of the data are used"
    sources.check_env(found)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_the_options_that_episodes_were_reset_with_are_told(data_format: str) -> None:
    options = {"x_init": 1.0, "y": {"of": 2}}
    recordings.record(
        ID, gym.make("Pendulum-v1"), steps=5, options=options, data_format=data_format
    )
    (note,) = sources.load(ID).notes
    assert note.startswith("its episodes were reset with the options x_init, y: evaluation has")
    given = sources.load(ID, reset_options={"x_init": 0.0, "y_init": 0.0})
    assert make_env(given.env).reset(seed=0)[0].tolist() == [1.0, 0.0, 0.0]


def test_data_sets_that_are_combined_are_each_compared() -> None:
    recordings.record(ID, gym.make("Pendulum-v1"), steps=5)
    one = BOX | {"shape": [1], "low": [-1.0], "high": [1.0]}
    change(action_space=json.dumps(one))
    recordings.record("toy/set/y-v0", gym.make("Pendulum-v1"), steps=5)
    with pytest.raises(UserError, match=r"actions in \[-1, 1\] and not \[-2, 2\]"):
        sources.check_env(sources.load(f"toy/set/y-v0,{ID}"))


def test_the_names_of_d4rl_take_no_parts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"--data\.obs-keys is for observations of many parts"):
        sources.load("hopper-medium-v2", obs_keys=["a"], download=False)
