"""Minari's own writer against our reader: Dict observations, Arrow, Parquet; files made to harm."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari as minari_package
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from envs import sources
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.sources import minari
from envs.sources.minari import hdf5_file
from envs.worlds.make import make_env, make_raw
from tests.support.toys import episodes, register, register_goals

FORMATS = ("hdf5", "arrow", "parquet")
ID = "theirs/goals-v0"


def stacked(values: list[Any]) -> Any:
    """Turn a list of observations into an observation of lists, as Minari wants it."""
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stacked(list(part)) for part in zip(*values, strict=True))
    return np.asarray(values)


def record(env_id: str, lengths: list[int], data_format: str = "hdf5", **changes: Any) -> Any:
    """Write random episodes of an environment with Minari; return those of make_env beside it."""
    raw, flat = make_raw(env_id), make_env(env_id)
    buffers: list[EpisodeBuffer] = []
    expected: list[np.ndarray[Any, Any]] = []
    rng = np.random.default_rng(0)
    for seed, length in enumerate(lengths):
        obs, vectors = [raw.reset(seed=seed)[0]], [flat.reset(seed=seed)[0]]
        actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        for action in actions:
            obs.append(raw.step(action)[0])
            vectors.append(flat.step(action)[0])
        buffers.append(
            EpisodeBuffer(
                observations=stacked(obs),
                actions=actions,  # type: ignore[arg-type]
                rewards=list(rng.standard_normal(length)),
                terminations=[False] * (length - 1) + [seed % 2 == 0],
                truncations=[False] * (length - 1) + [seed % 2 == 1],
            )
        )
        expected.append(np.array(vectors, np.float32))
    raw.close()
    flat.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari_package.create_dataset_from_buffers(
            ID, buffers, env=env_id, data_format=data_format, **changes
        )
    return buffers, expected


def check_obs(found: Trajectories, expected: list[np.ndarray[Any, Any]]) -> None:
    np.testing.assert_array_equal(found.obs, np.concatenate([obs[:-1] for obs in expected]))
    np.testing.assert_array_equal(found.final_obs, [obs[-1] for obs in expected])


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("make", [register, register_goals])
def test_what_minari_writes_is_what_the_environment_gives(
    make: Callable[[], str], data_format: str
) -> None:
    env_id = make()
    buffers, obs = record(env_id, [3, 1, 7], data_format)
    found = sources.load(ID)
    assert found.lengths.tolist() == [3, 1, 7]
    check_obs(found, obs)
    np.testing.assert_array_equal(found.action, np.concatenate([b.actions for b in buffers]))
    rewards = np.concatenate([b.rewards for b in buffers]).astype(np.float32)
    np.testing.assert_array_equal(found.reward, rewards)
    assert found.terminated.tolist() == [True, False, True]
    assert (found.env_id, found.env.obs_keys, found.notes) == (env_id, (), ())


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_the_formats_of_minari_are_the_same_to_the_bit(data_format: str) -> None:
    env_id = register_goals()
    record(env_id, [4, 2])
    first = sources.load(ID)
    shutil.rmtree(minari.root() / ID)
    record(env_id, [4, 2], data_format)
    second = sources.load(ID)
    names = ("obs", "action", "reward", "starts", "terminated", "action_low", "action_high")
    for name in (*names, "final_obs"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.parametrize("scratch", [1, 48, 1000])
def test_long_episodes_are_read_in_blocks(scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_file, "_SCRATCH", scratch)
    _, obs = record(register_goals(), [40, 3])
    check_obs(sources.load(ID), obs)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
@pytest.mark.parametrize("damage", ["no file", "half a file", "no rewards", "nulls", "text"])
def test_a_broken_table_is_one_line(data_format: str, damage: str) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds

    record(register(), [4, 6, 2], data_format)
    folder = minari.root() / ID / "data"
    (file,) = (folder / "1").glob(f"*.{data_format}")
    if damage == "no file":
        file.unlink()
    elif damage == "half a file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        table = ds.dataset(file, format=data_format).to_table()
        rows = table.num_rows
        table = table.drop_columns("rewards")
        if damage == "nulls":
            table = table.append_column("rewards", pa.array([None] * rows, pa.float64()))
        elif damage == "text":
            table = table.append_column("rewards", pa.array(["one"] * rows))
        file.unlink()
        ds.write_dataset(
            table, folder / "1", format=data_format, existing_data_behavior="overwrite_or_ignore"
        )
    with pytest.raises(UserError, match=r"not complete|cannot be read|episode 1 has") as caught:
        sources.load(ID)
    assert ID in str(caught.value)
    assert "\n" not in str(caught.value)


def change(**fields: Any) -> None:
    path = minari.root() / ID / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


BOX = {"type": "Box", "dtype": "float64", "shape": [3], "low": [-1] * 3, "high": [1] * 3}
IMAGE = BOX | {"dtype": "uint8", "shape": [2, 2, 3], "low": 0, "high": 255}
TEXT = {"type": "Text", "max_length": 9, "min_length": 0, "charset": "abc"}


@pytest.mark.parametrize(
    ("field", "space", "message"),
    [
        ("action_space", {"type": "Discrete", "n": 4, "start": 0}, r"discrete actions, Discrete"),
        (
            "action_space",
            {"type": "MultiDiscrete", "nvec": [2, 3], "dtype": "int64", "start": [0, 0]},
            "discrete actions, MultiDiscrete",
        ),
        ("action_space", {"type": "Dict", "subspaces": {"a": BOX}}, "actions of several parts"),
        ("observation_space", {"type": "Discrete", "n": 4, "start": 0}, "kind Discrete"),
        ("observation_space", TEXT, "observations of the kind Text"),
        ("observation_space", IMAGE, "observations of the kind image"),
        (
            "observation_space",
            {"type": "Dict", "subspaces": {"direction": BOX, "image": IMAGE}},
            "has image of the kind image",
        ),
        (
            "observation_space",
            {"type": "Tuple", "subspaces": [BOX, {"type": "Dict", "subspaces": {"m": TEXT}}]},
            "has 1/m of the kind Text",
        ),
    ],
)
def test_what_is_not_a_vector_of_numbers_is_refused(
    field: str, space: dict[str, Any], message: str
) -> None:
    record(register(), [3])
    change(**{field: json.dumps(space)})
    with pytest.raises(UserError, match=message) as caught:
        sources.load(ID)
    assert ID in str(caught.value)
    assert "\n" not in str(caught.value)


def hdf5() -> Path:
    return minari.root() / ID / "data" / "main_data.hdf5"


def replace_data(file: h5py.File, key: str, **made: Any) -> None:
    del file[key]
    file.create_dataset(key, **made)


def shorter(file: h5py.File) -> None:
    replace_data(file, "episode_1/observations", data=np.zeros((3, 3)))


def wider(file: h5py.File) -> None:
    replace_data(file, "episode_1/actions", data=np.zeros((5, 9)))


def text(file: h5py.File) -> None:
    replace_data(file, "episode_1/observations", data=["a"] * 6)


def scalar(file: h5py.File) -> None:
    replace_data(file, "episode_1/rewards", data=1.0)


def flat(file: h5py.File) -> None:
    replace_data(file, "episode_1/rewards", data=np.zeros((5, 2)))


def group(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file.create_group("episode_1/rewards")


def array(file: h5py.File) -> None:
    del file["episode_1"]
    file["episode_1"] = np.zeros(3)


def soft_link(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file["episode_1/rewards"] = h5py.SoftLink("/episode_0/rewards")


def external_link(file: h5py.File) -> None:
    del file["episode_1"]
    file["episode_1"] = h5py.ExternalLink("/etc/passwd", "/")


def big_chunk(file: h5py.File) -> None:
    replace_data(
        file, "episode_1/rewards", shape=(5,), maxshape=(None,), dtype="f8", chunks=(1 << 26,)
    )


def nothing_inside(file: h5py.File) -> None:
    for key, width in (("observations", 3), ("actions", 2)):
        shape, chunks = (1 << 28, width), (1000, width)
        replace_data(file, f"episode_1/{key}", shape=shape, dtype="f8", chunks=chunks)
    replace_data(file, "episode_1/rewards", shape=(1 << 28,), dtype="f8", chunks=(1000,))


def nothing_in_many(file: h5py.File) -> None:
    """Each array is small enough to be believed, all of them together are not."""
    replace_data(file, "episode_1/rewards", shape=(1 << 22,), dtype="f4", chunks=(1000,))
    del file["episode_0"], file["episode_2"]
    for i in (0, 2):
        file[f"episode_{i}"] = file["episode_1"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shorter, r"episode 1 has observations of shape \(3, 3\) for 5 rewards; store 5 or 6"),
        (wider, r"episode 1 has actions of shape \(5, 9\) for 5 rewards; store 5 rows of 2"),
        (text, "is of type object"),
        (scalar, "shape"),
        (flat, r"episode_1/rewards has shape \(5, 2\)"),
        (group, "episode_1/rewards is a group"),
        (array, "episode_1 is an array, not a group"),
        (soft_link, "episode_1/rewards is a link"),
        (external_link, "episode_1 is a link"),
        (big_chunk, "chunks of 536,870,912 bytes"),
        (nothing_inside, "claims 6,442,451,064 bytes"),
        (nothing_in_many, "claims 301,989,888 bytes"),
    ],
)
def test_a_file_made_to_harm_is_one_line(harm: Callable[[h5py.File], None], message: str) -> None:
    record(register(), [3, 5, 2])
    with h5py.File(hdf5(), "r+") as file:
        harm(file)
    with pytest.raises(UserError, match=message) as caught:
        sources.load(ID)
    assert ID in str(caught.value)
    assert "\n" not in str(caught.value)


def load_with(key: str, **made: Any) -> Trajectories:
    record(register(), [3, 5, 2])
    with h5py.File(hdf5(), "r+") as file:
        replace_data(file, key, **made)
    return sources.load(ID)


@pytest.mark.parametrize("dtype", ["f2", ">f8", "i4", "u1", "?"])
def test_numbers_of_any_type_are_read(dtype: str) -> None:
    values = np.array([[0, 1, 1]] * 5 + [[7, 7, 7]], dtype)
    found = load_with("episode_1/observations", data=values, compression="gzip", chunks=(2, 3))
    np.testing.assert_array_equal(found.obs[3:8], values[:5].astype(np.float32))


def test_rewards_in_a_column_are_read() -> None:
    found = load_with("episode_1/rewards", data=np.arange(5.0)[:, None])
    assert found.reward[3:8].tolist() == [0, 1, 2, 3, 4]


def test_observations_without_the_last_are_read() -> None:
    made = episodes([5])[0].obs[:5]
    found = load_with("episode_1/observations", data=made)
    np.testing.assert_array_equal(found.obs[3:8], made.astype(np.float32))


def test_minaris_names_of_spaces_are_all_read() -> None:
    from minari.serialization import serialize_space

    from envs.sources.minari.stored_space import read_space

    box = gym.spaces.Box(-2, 3, (2, 3), np.float64)
    for space in (
        *(box, gym.spaces.Discrete(4, start=2), gym.spaces.MultiBinary(3)),
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.Dict({"b": box, "a": gym.spaces.Tuple((box, gym.spaces.Discrete(2)))}),
    ):
        assert read_space(str(serialize_space(space)), "space") == space
