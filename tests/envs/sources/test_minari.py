from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from dataclasses import replace
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
from envs.worlds.spec import EnvSpec
from tests.support import windows
from tests.support.toys import ACTION, OBS, episodes, register

ID = "toy/walk/random-v0"


@pytest.fixture(autouse=True)
def env_id() -> str:
    return register()


def write(dataset_id: str = ID, **changes: Any) -> list[Any]:
    made = [replace(e, **changes) for e in episodes([5, 1, 9])]
    minari.write(dataset_id, made, env="ToyWalk-v0", description="three walks", algorithm="none")
    return made


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read_again() -> None:
    made = write()
    expected = Trajectories.from_episodes(made, env="ToyWalk-v0", name=ID)
    found = sources.load(ID)
    names = ("obs", "action", "reward", "starts", "terminated", "action_low", "action_high")
    for name in (*names, "final_obs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert (found.env_id, found.name) == ("ToyWalk-v0", ID)
    sources.check_env(found)


def test_minari_reads_what_is_written() -> None:
    made = write()
    dataset = minari_package.load_dataset(ID)
    assert (dataset.total_episodes, dataset.total_steps) == (3, 15)
    about = dataset.storage.metadata
    assert about["algorithm_name"] == "none"
    assert about["author"] == {"the minrnn project"}
    assert about["description"] == "three walks"
    assert dataset.observation_space == gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
    for i, episode in enumerate(dataset.iterate_episodes()):
        assert episode.id == i
        np.testing.assert_array_equal(episode.observations, made[i].obs)
        np.testing.assert_array_equal(episode.actions, made[i].action)
        np.testing.assert_array_equal(episode.rewards, made[i].reward)
        assert episode.terminations.tolist() == [False] * (len(episode) - 1) + [i % 2 == 0]
        assert episode.truncations.tolist() == [False] * (len(episode) - 1) + [i % 2 == 1]
    assert [m["seed"] for m in dataset.storage.get_episode_metadata(range(3))] == [0, 1, 2]
    env = dataset.recover_environment()
    assert env.spec is not None
    assert env.spec.id == "ToyWalk-v0"
    env.close()


def test_minari_lists_and_deletes_what_is_written() -> None:
    write()
    write("toy/other-v3")
    assert set(minari_package.list_local_datasets()) == {ID, "toy/other-v3"}
    assert minari.list_ids() == ["toy/other-v3", ID]
    assert minari_package.namespace.list_local_namespaces() == ["toy", "toy/walk"]
    shutil.rmtree(minari.root() / ID)
    assert minari.list_ids() == ["toy/other-v3"]


def test_what_minari_writes_is_read() -> None:
    made = episodes([4, 7])
    buffers = [
        EpisodeBuffer(
            observations=e.obs,  # type: ignore[arg-type]
            actions=e.action.astype(np.float32),  # type: ignore[arg-type]
            rewards=list(e.reward),
            terminations=[False] * (len(e.reward) - 1) + [e.terminated],
            truncations=[False] * (len(e.reward) - 1) + [not e.terminated],
        )
        for e in made
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari_package.create_dataset_from_buffers(
            "theirs/walk-v0", buffers, env="ToyWalk-v0", data_format="hdf5"
        )
    found = sources.load("theirs/walk-v0")
    expected = Trajectories.from_episodes(made, env="ToyWalk-v0", name="theirs/walk-v0")
    np.testing.assert_array_equal(found.obs, expected.obs)
    np.testing.assert_array_equal(found.final_obs, expected.final_obs)
    np.testing.assert_array_equal(found.terminated, expected.terminated)
    np.testing.assert_array_equal(found.reward, expected.reward)


def test_actions_are_clipped_to_the_bounds() -> None:
    write(action=np.full((9, ACTION), 1.7), obs=np.zeros((9, OBS)), reward=np.zeros(9))
    found = sources.load(ID)
    assert found.action.max() == 1.0
    assert found.notes == ("actions of 27 steps (100 %) clipped to their bounds, by up to 0.7",)


def test_an_episode_without_its_last_observation_gets_one() -> None:
    minari.write(ID, episodes([4], extra=False), env="ToyWalk-v0", description="")
    dataset = minari_package.load_dataset(ID)
    assert dataset[0].observations.shape == (5, OBS)
    assert sources.load(ID).num_steps == 4
    assert sources.load(ID).final_obs is None  # a copy is none


def test_nothing_is_left_beside_a_data_set(minari_folder: Path) -> None:
    write()
    assert files_below(minari_folder) == {
        "toy/namespace_metadata.json",
        "toy/walk/namespace_metadata.json",
        "toy/walk/random-v0/data/main_data.hdf5",
        "toy/walk/random-v0/data/metadata.json",
    }


@pytest.mark.parametrize("step", ["fsync", "rename", "mkdir"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    step: str, minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write("toy/before-v0")
    before = files_below(minari_folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(UserError, match=r"No space left.*nothing was left") as caught:
            write("toy/new-v0")
    assert "\n" not in str(caught.value)
    assert files_below(minari_folder) == before
    assert minari.list_ids() == ["toy/before-v0"]
    assert not minari.exists("toy/new-v0")
    write("toy/new-v0")


def test_the_second_of_two_writers_leaves_the_firsts(monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def late(source: Any, target: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            minari.write(ID, episodes([2]), env="ToyWalk-v0", description="first")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    write()
    assert minari.metadata(ID)["description"] == "first"
    assert sources.load(ID).num_steps == 2
    assert [p.name for p in minari.root().iterdir() if p.name.startswith(".")] == []


def test_an_id_that_is_taken_or_malformed_is_refused() -> None:
    write()
    with pytest.raises(UserError, match="exists already"):
        write()
    for bad in ("no-version", "a b/c-v0", "../up-v0", "/abs-v0", "x/-v0/", ""):
        with pytest.raises(UserError, match="not a Minari id"):
            write(bad)


def test_defects_are_found_before_anything_is_written(minari_folder: Path) -> None:
    with pytest.raises(UserError, match="episode 0 has NaN"):
        write(obs=np.full((5, OBS), np.nan), action=np.zeros((5, ACTION)), reward=np.zeros(5))
    assert not minari_folder.exists() or not files_below(minari_folder)


DAMAGE = [
    ("no metadata", "not complete"),
    ("no file", "not complete"),
    ("half a file", "is cut off after"),
    ("bad json", "cannot be read"),
    ("json of another kind", "cannot be read"),
    ("fewer episodes", "has no episode_2; the data set is not whole"),
    ("no rewards", "has no episode_1/rewards"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_broken_data_set_names_the_folder_to_delete(damage: str, message: str) -> None:
    write()
    folder = minari.root() / ID / "data"
    about, file = folder / "metadata.json", folder / "main_data.hdf5"
    if damage == "no metadata":
        about.unlink()
    elif damage == "no file":
        file.unlink()
    elif damage == "half a file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "bad json":
        about.write_text(about.read_text()[:-9])
    elif damage == "json of another kind":
        about.write_text("[]")
    else:
        with h5py.File(file, "r+") as opened:
            del opened["episode_2" if damage == "fewer episodes" else "episode_1/rewards"]
    with pytest.raises(UserError, match=message) as caught:
        sources.load(ID)
    assert str(minari.root() / ID) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_are_not_ascii_are_read_in_any_locale(
    minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    file = minari_folder / ID / "data" / "metadata.json"
    about = {**json.loads(file.read_bytes()), "author": ["Žofie 名"]}
    file.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8-sig")
    windows.pretend(monkeypatch, minari_folder)  # whose locale has no 名
    assert minari.metadata(ID)["author"] == ["Žofie 名"]
    assert sources.load(ID).num_episodes == 3


def test_a_set_that_may_be_sound_is_not_to_be_deleted(
    minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    file = minari_folder / ID / "data" / "metadata.json"
    about = {**json.loads(file.read_bytes()), "author": ["Žofie"]}
    file.write_text(json.dumps(about, ensure_ascii=False), encoding="cp1252")
    with pytest.raises(UserError, match=r"metadata\.json is not in UTF-8 .*byte 0x8e.*save it in"):
        sources.load(ID)

    def refuse(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(.*denied\); make it readable, or try"):
        sources.load(ID)


def test_nan_in_a_file_costs_the_episode_and_is_told() -> None:
    write()
    with h5py.File(minari.root() / ID / "data" / "main_data.hdf5", "r+") as file:
        file["episode_1/observations"][0, 1] = np.nan  # type: ignore[index]
    found = sources.load(ID)
    assert found.lengths.tolist() == [5, 9]
    assert found.notes == (
        "1 of 3 episodes with NaN or infinity left out (the first: episode 1 in obs at step 0)",
    )


def test_numbers_beyond_float32_are_infinite() -> None:
    write()
    with h5py.File(minari.root() / ID / "data" / "main_data.hdf5", "r+") as file:
        file["episode_2/rewards"][8] = 1e300  # type: ignore[index]
    assert "episode 2 in reward at step 8" in sources.load(ID).notes[0]


def test_an_unknown_storage_format_is_named() -> None:
    write()
    change(data_format="zarr")
    with pytest.raises(UserError, match="stored as zarr"):
        sources.load(ID)


def test_data_of_another_environment_names_both_sizes() -> None:
    write()
    found = replace(sources.load(ID), env=EnvSpec("Hopper-v5"))
    with pytest.raises(UserError, match="size 3 and actions of size 2, Hopper-v5 has 11 and 3"):
        sources.check_env(found)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("minrnn/hoper/medium-replay-v0", "minrnn/hopper/medium-replay-v0"),
        ("toy-walk-randm-v0", "toy/walk/random-v0"),
    ],
)
def test_an_unknown_id_names_near_matches(name: str, near: str) -> None:
    write()
    with pytest.raises(UserError, match="did you mean") as caught:
        sources.load(name)
    assert str(caught.value).split("did you mean ")[1].startswith(near)


def test_an_id_like_nothing_names_the_families_that_are_known() -> None:
    with pytest.raises(UserError, match=r"minrnn/halfcheetah, .* D4RL's ant, .*--help") as caught:
        sources.load("zzzz")
    assert len(str(caught.value)) < 600


def change(**fields: Any) -> None:
    path = minari.root() / ID / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_spec(**fields: Any) -> None:
    change(env_spec=json.dumps(json.loads(minari.metadata(ID)["env_spec"]) | fields))


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0, -1.0], "high": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env_spec": "[]"}, "env_spec holds no table"),
        ({"env_spec": '{"id": "ToyWalk-v0", "kwargs": [1]}'}, "cannot be read"),
        ({"env_spec": '{"id": "ToyWalk-v0", "additional_wrappers": 3}'}, "cannot be read"),
        ({"env_spec": {"id": "ToyWalk-v0"}}, "cannot be read"),
        ({"action_space": "[]"}, "action_space holds no space"),
        ({"action_space": json.dumps(BOX | {"low": [-1.0], "high": [1.0]})}, r"for shape \(2,\)"),
        ({"action_space": json.dumps(BOX | {"low": ["a", "b"]})}, "cannot be read"),
        ({"action_space": json.dumps(BOX | {"low": None})}, "action 0 has the bounds nan"),
        ({"action_space": json.dumps(BOX | {"high": [1.0, -1.0]})}, "action 1 has the bounds"),
        ({"action_space": '{"type": "Box"}'}, "cannot be read"),
        ({"action_space": json.dumps(BOX | {"shape": [1 << 40]})}, "more than 10,000,000 numbers"),
        ({"observation_space": None}, "the metadata has no observation_space"),
        ({"observation_space": '{"type": "Graph"}'}, "unknown kind Graph"),
        ({"total_episodes": 10**12}, "has no episode_3"),
        ({"total_episodes": -1}, "no episodes"),
        ({"total_episodes": float("inf")}, "cannot be read"),
        ({"total_episodes": 0}, "no episodes"),
    ],
)
def test_metadata_of_no_use_is_one_line(fields: dict[str, Any], message: str) -> None:
    write()
    change(**fields)
    with pytest.raises(UserError, match=message) as caught:
        sources.load(ID)
    assert "\n" not in str(caught.value)
    assert ID in str(caught.value)


def test_an_action_space_without_bounds_gets_those_of_the_data() -> None:
    made = write()
    change(action_space=json.dumps(BOX | {"low": [-np.inf] * 2, "high": [np.inf] * 2}))
    action = np.concatenate([e.action for e in made]).astype(np.float32)
    found = sources.load(ID)
    np.testing.assert_array_equal(found.action, action)
    np.testing.assert_array_equal(found.action_low, action.min(axis=0))
    np.testing.assert_array_equal(found.action_high, action.max(axis=0))


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"kwargs": {"hazard": 0.5, "render_mode": None}}, {"hazard": 0.5}),
        ({"max_episode_steps": 7}, {"max_episode_steps": 7}),
        (
            {"kwargs": {"horizon": 3}, "max_episode_steps": 7},
            {"horizon": 3, "max_episode_steps": 7},
        ),
        ({"kwargs": {"render_mode": "rgb_array", "horizon": 40, "hazard": None}}, {}),
        ({"kwargs": None, "max_episode_steps": None, "additional_wrappers": None}, {}),
        ({"max_episode_steps": -1}, {}),
        ({"id": "Nowhere-v7", "kwargs": {"x": 1}}, {"x": 1}),
    ],
)
def test_arguments_of_the_environment_that_change_something_are_kept(
    fields: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    write()
    change_spec(**fields)
    found = sources.load(ID)
    assert found.env.kwargs == kwargs


def test_a_wrapper_that_cannot_be_made_again_is_refused_for_evaluation_alone() -> None:
    write()
    change_spec(additional_wrappers=[{"name": "Flip", "entry_point": "x:Flip", "kwargs": None}])
    found = sources.load(ID)
    assert found.num_episodes == 3
    with pytest.raises(UserError, match=r"through the wrapper x:Flip, .* --eval\.episodes 0"):
        sources.check_env(found)


def test_a_data_set_without_an_environment_says_why() -> None:
    write()
    change(env_spec=None)
    with pytest.raises(UserError, match="no env_spec, which Minari leaves out where a wrapper"):
        sources.check_env(sources.load(ID))


def test_the_environment_to_evaluate_in_comes_before_that_of_the_recording() -> None:
    write()
    gym.register("ToyShort-v0", "tests.support.toys:Walk", max_episode_steps=30)
    try:
        change_spec(id="ToyShort-v0", max_episode_steps=10**6)
        found = sources.load(ID)
        assert found.env.kwargs == {}
        assert found.notes == (
            "recorded in ToyShort-v0 with a time limit of 1000000 steps; evaluation has 30",
        )
        spec = json.loads(minari.metadata(ID)["env_spec"])
        evaluate = spec | {"kwargs": {"hazard": 0.25}, "max_episode_steps": 20}
        change(eval_env_spec=json.dumps(evaluate))
        found = sources.load(ID)
        assert found.env.kwargs == {"hazard": 0.25, "max_episode_steps": 20}
        assert found.notes == ()
    finally:
        del gym.registry["ToyShort-v0"]


def test_a_termination_at_the_recordings_time_limit_is_none() -> None:
    write()
    assert sources.load(ID).terminated.tolist() == [True, False, True]
    change_spec(max_episode_steps=9)
    found = sources.load(ID)
    assert found.terminated.tolist() == [True, False, False]
    assert "the time limit of 9 steps" in found.notes[0]


def test_the_data_sets_own_reference_returns_are_read() -> None:
    write()
    assert sources.load(ID).reference is None
    change(ref_min_score=-1.5, ref_max_score=20, num_episodes_average_score=100)
    found = sources.load(ID).reference
    assert found is not None
    assert found[:2] == (-1.5, 20.0)
    assert "ref_min_score" in found[2]


@pytest.mark.parametrize(
    ("low", "high"), [(1, None), (None, 1), ("a", "b"), (2, 1), (1, 1), (0, np.inf), (np.nan, 1)]
)
def test_reference_returns_of_no_use_are_as_good_as_none(low: Any, high: Any) -> None:
    write()
    change(ref_min_score=low, ref_max_score=high)
    assert sources.load(ID).reference is None


def test_episodes_are_in_the_order_of_their_numbers() -> None:
    lengths = list(range(1, 13))  # sorted as text, the tenth would follow the first
    minari.write(ID, episodes(lengths), env="ToyWalk-v0", description="")
    found = sources.load(ID)
    assert found.lengths.tolist() == lengths
    assert found.obs[:, 0].tolist() == sorted(found.obs[:, 0])
