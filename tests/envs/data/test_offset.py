"""Observations in any unit, and beside any constant, are seen as the same task is in others."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest

from envs import sources
from envs.data.builder import TrajectoriesBuilder, with_offset
from envs.data.combine import combine
from envs.data.fingerprint import fingerprint
from envs.data.trajectories import Episode, Trajectories
from envs.inspect.summary import describe
from envs.sources import minari

SCALES = [1e-9, 1e-5, 9e-5, 1e-3, 1.0, 1e4, 1e9]
OFFSETS = [0.0, 1.0, 1e7, 1.7e9]  # in units of the scale; seconds since 1970
STEPS = 60


def plain(seed=0):
    """Return observations (2, STEPS + 1, 3) of episodes: unit spread, a constant, a small one."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(2, STEPS + 1, 3))
    obs[..., 1] = 0.7
    obs[..., 2] = 0.25 + 0.01 * obs[..., 2]
    return obs


def made(obs, name="test/unit-v0", dtype=np.float64):
    rng = np.random.default_rng(1)
    episodes = [
        Episode(o.astype(dtype), rng.uniform(-1, 1, (STEPS, 1)), rng.normal(size=STEPS), True)
        for o in obs
    ]
    return episodes, Trajectories.from_episodes(episodes, env="Pendulum-v1", name=name)


def seen(data):
    """Return what an agent sees of the steps, and of the final observations."""
    mean, std = data.obs_mean(), data.obs_std()
    return (data.obs - mean) / std, (data.final_obs - mean) / std


def check(data, obs):
    mean, std = obs[:, :-1].mean((0, 1)), obs[:, :-1].std((0, 1))
    for column in (0, 2):
        wanted = (obs[..., column] - mean[column]) / std[column]
        steps, ends = (x[:, column] for x in seen(data))
        # As Decision Transformer has it, 1e-6 is added to the deviation: one percent of 1e-4.
        np.testing.assert_allclose(steps, wanted[:, :-1].ravel(), rtol=0.011, atol=1e-3)
        np.testing.assert_allclose(ends, wanted[:, -1], rtol=0.011, atol=1e-3)
    assert data.constant_obs() == [1]
    assert np.abs(seen(data)[0][:, 1]).max() < 1e-3


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("offset", OFFSETS)
def test_arrays_in_any_unit(scale, offset):
    obs = plain()
    check(made(scale * (obs + offset))[1], obs)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e9])
@pytest.mark.parametrize("offset", [0.0, 1.7e9])
@pytest.mark.parametrize("kind", ["hdf5", "minari-hdf5", "minari-arrow"])
def test_files_in_any_unit(kind, scale, offset, tmp_path, monkeypatch):
    obs = plain()
    episodes, _ = made(scale * (obs + offset))
    if kind == "hdf5":
        path = tmp_path / "own.hdf5"
        ends = np.zeros(2 * STEPS, bool)
        ends[[STEPS - 1, 2 * STEPS - 1]] = True
        with h5py.File(path, "w") as file:
            for name, values in {
                "observations": np.concatenate([e.obs[:-1] for e in episodes]),
                "next_observations": np.concatenate([e.obs[1:] for e in episodes]),
                "actions": np.concatenate([e.action for e in episodes]),
                "rewards": np.concatenate([e.reward for e in episodes]),
                "terminals": ends,
                "timeouts": np.zeros_like(ends),
            }.items():
                file[name] = values
        data = sources.load(str(path), evaluate=False, cache=False)
    else:
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        store(kind, episodes, tmp_path)
        data = minari.read("test/unit-v0", cache=False)
    check(data, obs)


def store(kind, episodes, folder):
    """Write a set in double precision, which the project's own writer does not."""
    if kind == "minari-hdf5":
        minari.write("test/unit-v0", episodes, env="Pendulum-v1", description="made for a test")
        path = folder / "test" / "unit-v0" / "data" / "main_data.hdf5"
        with h5py.File(path, "a") as file:
            for i, episode in enumerate(episodes):
                del file[f"episode_{i}/observations"]
                file[f"episode_{i}/observations"] = episode.obs
        return
    pa = pytest.importorskip("pyarrow")
    minari.write("test/unit-v0", episodes, env="Pendulum-v1", description="made for a test")
    data = folder / "test" / "unit-v0" / "data"
    about = json.loads((data / "metadata.json").read_text(encoding="utf-8"))
    about["data_format"] = "arrow"
    (data / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    for i, episode in enumerate(episodes):
        columns = {
            "observations": episode.obs,
            "actions": np.concatenate([episode.action, episode.action[-1:]]),
            "rewards": np.append(episode.reward, 0.0),
            "terminations": np.append(np.arange(STEPS) == STEPS - 1, False),
        }
        arrays = [
            pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
            if x.ndim == 2
            else pa.array(x)
            for x in columns.values()
        ]
        batch = pa.RecordBatch.from_arrays(arrays, list(columns))
        (data / str(i)).mkdir()
        path = str(data / str(i) / "0.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)


def test_ordinary_observations_have_no_offset_and_the_same_bits():
    rng = np.random.default_rng(0)
    obs = rng.normal([0.0, 5.0, -30.0], [1.0, 0.1, 3.0], (2, STEPS + 1, 3))
    obs[..., 1] = 1.3  # a constant
    episodes, data = made(obs)
    assert data.obs_offset is None
    flat = np.concatenate([e.obs[:-1] for e in episodes]).astype(np.float32)
    np.testing.assert_array_equal(data.obs, flat)
    np.testing.assert_array_equal(data.final_obs, obs[:, -1].astype(np.float32))
    assert "obs_offset" not in str(fingerprint(data))
    assert fingerprint(data) == fingerprint(dataclasses.replace(data, obs_offset=None))


def test_a_constant_that_float64_rounds_stays_one():
    obs = plain()
    obs[..., 1] = 0.7 + 1e-16 * np.sign(obs[..., 0])
    assert made(obs)[1].constant_obs() == [1]
    obs[..., 1] = 1e-17 * obs[..., 0]
    assert made(obs)[1].constant_obs() == [1]


def test_what_is_read_twice_is_read_once_where_float32_is_fine():
    calls = []

    def fill(offset, scale=1.0):
        calls.append(offset)
        builder = TrajectoriesBuilder("n/n-v0", np.array([STEPS]), 1, 1, offset)
        builder.set_obs(0, 0, 0, scale + np.arange(STEPS + 1.0)[:, None])
        return builder, "more"

    found, more = with_offset(fill)
    assert (more, found.obs_offset, len(calls)) == ("more", None, 1)
    found, _ = with_offset(lambda offset: fill(offset, 1e8))
    assert len(calls) == 3
    np.testing.assert_array_equal(found.obs[:, 0], np.arange(STEPS))
    assert found.obs_offset == 1e8


def test_episodes_mixtures_and_summaries_have_what_was_recorded():
    obs = 1e7 + plain()
    episodes, data = made(obs)
    for found in (data.episode(1), data.select([1]).episode(0)):
        close = np.isclose(found.obs, episodes[1].obs, rtol=0, atol=1e-6)
        assert close[:, [0, 2]].all()  # the constant is float32's
    _, other = made(1e7 + 100.0 + plain(5), "x/z-v0")
    assert (other.obs_offset != data.obs_offset).any()
    both = combine([data, other])
    np.testing.assert_allclose(both.episode(2).obs, other.episode(0).obs, rtol=0, atol=1e-4)
    about = describe(data)
    assert about["obs_offset"] == data.obs_offset.tolist()
    assert about["constant_observations"] == [1]


def test_a_fingerprint_sees_an_offset():
    _, data = made(1e7 + plain())
    moved = dataclasses.replace(data, obs_offset=data.obs_offset + 1.0)
    assert fingerprint(moved) != fingerprint(data)


def test_a_first_observation_that_is_no_number_does_not_decide():
    def fill(offset):
        builder = TrajectoriesBuilder("n/n-v0", np.array([3, STEPS, STEPS]), 1, 1, offset)
        obs = 1.7e9 + np.arange(STEPS + 1.0)[:, None]
        for episode, rows in enumerate((4, STEPS + 1, STEPS + 1)):
            values = obs[:rows].copy()
            values[0] = np.nan if episode == 0 else values[0]
            builder.set_obs(episode, 0, 0, values)
        builder.action[:] = builder.reward[:] = 0.0
        return (builder,)

    (found,) = with_offset(fill)
    made = found.finish(terminated=np.zeros(3, bool), env="Pendulum-v1")
    assert (made.num_episodes, made.obs_offset.tolist()) == (2, [1.7e9 + 1])
    np.testing.assert_array_equal(np.diff(made.obs[:STEPS, 0]), 1.0)


def test_a_mixture_takes_off_what_any_of_its_sets_does():
    one, two = 1e7 + plain(), 1e7 + plain(5)
    one[..., 2] = 1.7e9  # a constant here, but not there
    two[..., 2] = 1.7e9 + two[..., 0] - 1e7
    sets = [made(obs)[1] for obs in (one, two)]
    for order in ([0, 1], [1, 0]):
        both = combine([sets[i] for i in order])
        assert (both.obs_offset[[0, 2]] != 0).all()
        rows = slice(None, 2 * STEPS) if order[0] else slice(2 * STEPS, None)
        assert len(np.unique(both.obs[rows, 2])) > STEPS


@pytest.mark.parametrize("what", ["reward", "action"])
def test_rewards_and_actions_beside_a_large_constant_are_told(what):
    rng = np.random.default_rng(0)
    values = {"action": rng.uniform(-1, 1, (STEPS, 1)), "reward": rng.normal(size=STEPS)}
    bounds = {"action_low": [-2e9], "action_high": [2e9]}

    def notes():
        episode = Episode(np.zeros((STEPS + 1, 1)), **values, terminated=True)
        return Trajectories.from_episodes([episode], env="E-v0", name="n/n-v0", **bounds).notes

    assert notes() == ()
    values[what] = values[what] + 1.7e9
    (note,) = notes()
    assert note.startswith(f"{what}s are 1700000")
    assert "take it off in the source" in note
