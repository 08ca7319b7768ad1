from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.envs import registration
from numpy.typing import NDArray

from envs import sources
from envs.data import cache
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.sources import d4rl, minari
from envs.sources.d4rl import layout
from envs.sources.d4rl.split import split
from envs.sources.d4rl.table import ENTRIES
from envs.sources.download import http
from envs.worlds.spec import EnvSpec
from tests.support import d4rl_files, toys
from tests.support.loopback import Fault, Server, running

HOPPER = "hopper-medium-replay-v2"
LENGTHS = [5, 1, 9, 1000]
FIELDS = (
    "obs",
    "action",
    "reward",
    "starts",
    "terminated",
    "action_low",
    "action_high",
    "final_obs",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return tmp_path / "d4rl"


def hopper(**changes: Any) -> tuple[dict[str, Any], Trajectories]:
    """Write a small Hopper set with these arrays instead (None: without it), and load it."""
    given = d4rl_files.random_arrays(HOPPER, LENGTHS) | changes
    d4rl_files.write(d4rl.file_of(HOPPER), {k: v for k, v in given.items() if v is not None})
    return given, d4rl.load(HOPPER)


def refused(message: str, **changes: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        hopper(**changes)
    assert str(d4rl.file_of(HOPPER)) in str(caught.value) or HOPPER in str(caught.value)
    assert "\n" not in str(caught.value)


def same(found: Trajectories, given: dict[str, NDArray[Any]], steps: int | None = None) -> None:
    np.testing.assert_array_equal(found.obs, given["observations"][:steps])
    np.testing.assert_array_equal(found.action, given["actions"][:steps])
    np.testing.assert_array_equal(found.reward, given["rewards"][:steps].ravel())


def same_final(found: Trajectories, given: dict[str, NDArray[Any]], ends: Any = None) -> None:
    ends = found.starts[1:] - 1 if ends is None else ends
    np.testing.assert_array_equal(found.final_obs, given["next_observations"][ends])


def test_a_file_as_d4rl_has_it_is_read_number_for_number() -> None:
    given, found = hopper()
    same(found, given)
    same_final(found, given)
    assert found.lengths.tolist() == LENGTHS
    assert found.terminated.tolist() == [False, True, False, False]
    assert (found.name, found.env_id, found.env.obs_keys) == (HOPPER, "Hopper-v4", ())
    assert found.notes == (
        "1 of 4 episodes end at the time limit of 1000 steps and are marked as terminated: taken "
        "for the time limit",
    )
    np.testing.assert_array_equal(found.action_low, [-1, -1, -1])
    assert {a.dtype for a in (found.obs, found.action, found.reward)} == {np.dtype(np.float32)}
    sources.check_env(found)


def test_a_minari_set_of_the_same_episodes_gives_the_same_trajectories(tmp_path: Path) -> None:
    toys.register()
    made = [
        Episode(*(np.asarray(x, np.float32) for x in (e.obs, e.action, e.reward)), e.terminated)
        for e in toys.episodes([5, 1, 30, 12])
    ]
    minari.write("toy/both-v0", made, env="ToyWalk-v0", description="")
    path = d4rl_files.write(tmp_path / "both.hdf5", d4rl_files.arrays(made))
    ours = d4rl.read_file(path, name="toy/both-v0", env="ToyWalk-v0")
    theirs = sources.load("toy/both-v0")
    for name in FIELDS:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.tobytes() == other.tobytes(), name
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape), name
    for name in ("env", "name", "notes"):
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", ">f8"])
def test_other_floats_become_float32(dtype: str) -> None:
    given = d4rl_files.random_arrays(HOPPER, LENGTHS)
    kinds = {k: given[k].astype(dtype) for k in ("observations", "actions", "rewards")}
    _, found = hopper(**kinds)
    same(found, {k: v.astype(np.float32) for k, v in kinds.items()})


@pytest.mark.parametrize("dtype", ["i4", "i8", "u1", "?"])
def test_whole_numbers_become_float32(dtype: str) -> None:
    rng, shape = np.random.default_rng(0), (1015, 11)
    given = {
        "observations": rng.integers(0, 2, shape).astype(dtype),
        "actions": rng.integers(0, 2, (1015, 3)).astype(dtype),
        "rewards": rng.integers(0, 2, 1015).astype(dtype),
    }
    _, found = hopper(**given)
    same(found, {k: v.astype(np.float32) for k, v in given.items()})


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1"])
def test_flags_may_be_numbers_in_one_column(dtype: str) -> None:
    given, plain = hopper()
    columns = {k: given[k].astype(dtype)[:, None] for k in ("terminals", "timeouts")}
    _, found = hopper(**columns, rewards=given["rewards"][:, None])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


def test_next_observations_are_not_needed_where_there_are_timeouts() -> None:
    given, found = hopper(next_observations=None)
    same(found, given)
    assert (found.final_obs, len(found.notes)) == (None, 1)
    assert found.lengths.tolist() == LENGTHS


def test_next_observations_that_are_none_are_not_used() -> None:
    given = d4rl_files.random_arrays(HOPPER, LENGTHS)
    after, obs = given["next_observations"], given["observations"]
    for values, why in (
        (after[:-1], r"their shape is \(1014, 11\), not \(1015, 11\)"),
        (after[:, 0], "store an array of 2 dimensions"),
        (3 * after + 1, "they are not the observations of the next rows"),
        (np.roll(obs, -1, axis=0), "they are the next rows at the ends of episodes, too"),
    ):
        _, found = hopper(next_observations=values)
        same(found, given)
        assert found.final_obs is None
        assert re.search(f"next_observations not used: .*{why}", found.notes[0])


def test_final_observations_are_found_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 20, 300):
        monkeypatch.setattr(layout, "_BLOCK", block)
        given, found = hopper()
        same_final(found, given)
        assert len(found.notes) == 1


def test_a_last_episode_without_an_end_is_left_out() -> None:
    given = d4rl_files.random_arrays(HOPPER, [5, 9, 7])
    given["terminals"][-1] = given["timeouts"][-1] = False
    _, found = hopper(**given)
    assert found.lengths.tolist() == [5, 9]
    assert found.notes == ("the last 7 of 21 steps have no end: left out",)
    same(found, given, 14)
    same_final(found, given)


@pytest.mark.parametrize("lengths", [[7], [5, 1000]])
def test_a_last_episode_stays_where_it_is_alone_or_full(lengths: list[int]) -> None:
    given = d4rl_files.random_arrays(HOPPER, lengths)
    given["terminals"][-1] = given["timeouts"][-1] = False
    _, found = hopper(**given)
    assert found.lengths.tolist() == lengths
    assert not found.terminated[-1]


def test_without_timeouts_the_next_observation_and_the_limit_tell() -> None:
    given, found = hopper(timeouts=None, terminals=np.arange(1015) == 5)
    assert found.lengths.tolist() == LENGTHS
    assert found.terminated.tolist() == [False, True, False, False]
    assert found.notes == (
        "timeouts are missing: episodes end at 1 terminals, at 2 steps whose next observation is "
        "another's, 1 after the time limit of 1000 steps",
    )
    same(found, given)
    same_final(found, given)


def test_timeouts_that_are_never_true_are_as_good_as_missing() -> None:
    _, found = hopper(timeouts=np.zeros(1015, np.bool_), terminals=np.arange(1015) == 5)
    assert found.lengths.tolist() == LENGTHS
    assert found.notes[0].startswith("timeouts are all false: episodes end at 1 terminals, at 2 ")


def test_a_set_in_which_every_episode_terminates_has_nothing_to_repair() -> None:
    ends = np.isin(np.arange(15), [4, 5, 14])
    given = d4rl_files.random_arrays(HOPPER, [5, 1, 9])
    _, found = hopper(**(given | {"terminals": ends, "timeouts": ~np.ones(15, np.bool_)}))
    assert (found.lengths.tolist(), found.notes) == ([5, 1, 9], ())
    assert found.terminated.all()


@pytest.mark.parametrize("defect", ["missing", "of another shape", "of other units"])
def test_without_both_the_limit_tells(defect: str) -> None:
    given = d4rl_files.random_arrays(HOPPER, [2400])
    after: Any = None
    if defect != "missing":
        after = (
            given["next_observations"][:-1]
            if defect == "of another shape"
            else (3 * given["next_observations"] + 1)
        )
    _, found = hopper(**(given | {"timeouts": None, "next_observations": after}))
    assert found.lengths.tolist() == [1000, 1000]
    assert found.notes[:2] == (
        "timeouts are missing: episodes end at 0 terminals, 2 after the time limit of 1000 steps",
        "the last 400 of 2400 steps have no end: left out",
    )
    assert found.final_obs is None
    assert len(found.notes) == (2 if defect == "missing" else 3)


def test_demonstrations_longer_than_the_limit_stay_whole() -> None:
    name = "door-human-v1"
    given = d4rl_files.random_arrays(name, [250, 300])
    given["timeouts"][[249, 549]], given["terminals"][:] = True, False
    given["actions"][3, 2], given["actions"][270] = 1.75, -1.25
    d4rl_files.write(d4rl.file_of(name), given)
    found = d4rl.load(name)
    assert found.lengths.tolist() == [250, 300]
    assert found.notes == ("actions of 2 steps (0.364 %) clipped to their bounds, by up to 0.75",)
    assert np.abs(found.action).max() == 1.0


def test_actions_of_exactly_one_stay() -> None:
    given = d4rl_files.random_arrays(HOPPER, [5])
    given["actions"][0], given["actions"][1] = 1.0, -1.0
    _, found = hopper(**given)
    assert found.action[:2].tolist() == [[1, 1, 1], [-1, -1, -1]]
    assert found.notes == ()


@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_an_episode_with_what_is_no_number_is_left_out(key: str, value: float) -> None:
    given = d4rl_files.random_arrays(HOPPER, LENGTHS)
    values = given[key].astype(np.float64)
    values[7] = value
    _, found = hopper(**{key: values})
    assert found.lengths.tolist() == [5, 1, 1000]
    assert found.notes[0].startswith("1 of 4 episodes with NaN or infinity left out (the first: ")
    rows = np.r_[0:6, 15:1015]
    same(found, {k: v[rows] for k, v in (given | {key: values}).items()})
    same_final(found, given, [4, 5, 1014])


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("rewards is missing; there is: actions, infos, metadata", {"rewards": None}),
        ("terminals is missing; there is: ", {"terminals": None}),
        ("observations is missing", {"observations": None}),
        ("observations has shape .*; store an array of 2", {"observations": np.zeros(1015)}),
        ("actions has shape .*; store an array of 2", {"actions": np.zeros((1015, 3, 1))}),
        (r"actions \(9, 3\), rewards \(1015,\); store one row", {"actions": np.zeros((9, 3))}),
        (r"rewards \(1015, 2\); store one row", {"rewards": np.zeros((1015, 2))}),
        (r"terminals has shape \(3,\) for 1015 steps", {"terminals": np.zeros(3)}),
        (r"timeouts has shape \(3,\) for 1015 steps", {"timeouts": np.zeros(3)}),
        ("timeouts has NaN; store 0 or 1", {"timeouts": np.full(1015, np.nan)}),
        ("rewards is of type object", {"rewards": np.array([b"1"] * 1015, object)}),
        (r"of sizes \(12, 3\), hopper-.* has \(11, 3\)", {"observations": np.zeros((1015, 12))}),
        ("has no steps", {k: np.zeros((0, 11)) for k in ("observations",)}),
        ("4 of 4 episodes have NaN", {"observations": np.full((1015, 11), np.nan)}),
    ],
)
def test_what_cannot_be_repaired_is_one_line(message: str, changes: dict[str, Any]) -> None:
    refused(message, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; delete it and download"),
        (b"<html>404</html>", "holds a web page"),
        (b"half", "is cut off after"),
    ],
)
def test_a_broken_file_in_the_cache_is_one_line(content: bytes, message: str) -> None:
    hopper()
    path = d4rl.file_of(HOPPER)
    path.write_bytes(path.read_bytes()[:9000] if content == b"half" else content)
    with pytest.raises(UserError, match=message) as caught:
        d4rl.load(HOPPER)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["observations", "next_observations", "timeouts", "terminals"])
def test_a_bomb_is_refused_before_memory_is_taken(name: str) -> None:
    hopper()
    path = d4rl.file_of(HOPPER)
    with h5py.File(path, "r+") as file:
        for key in {name, "timeouts"}:  # without which next_observations are looked at
            del file[key]
        shape = (10**10, 11) if "obs" in name else (10**10,)
        file.create_dataset(name, shape, "f4", chunks=(1000, *shape[1:]), compression="gzip")
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{name} claims .* bytes"):
        d4rl.load(HOPPER)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_ants_empty_contact_forces_are_left_out() -> None:
    name = "ant-medium-v2"
    given = d4rl_files.random_arrays(name, [7, 4])
    given["observations"][:, 27:] = 0
    d4rl_files.write(d4rl.file_of(name), given)
    found = d4rl.load(name)
    same(found, given | {"observations": given["observations"][:, :27]})
    same_final(found, {"next_observations": given["next_observations"][:, :27]})
    assert found.notes == ("observations from 27 on are all 0: left out",)
    assert (found.env_id, found.env.kwargs) == ("Ant-v4", {})
    sources.check_env(found)


def test_ants_contact_forces_stay_where_there_are_any() -> None:
    name = "ant-medium-v2"
    given = d4rl_files.random_arrays(name, [7, 4])
    given["observations"][:, 27:] = given["next_observations"][:, 27:] = 0
    given["observations"][10, 110] = given["next_observations"][9, 110] = 1
    d4rl_files.write(d4rl.file_of(name), given)
    found = d4rl.load(name)
    same(found, given)
    same_final(found, given)
    assert (found.notes, found.env.kwargs) == ((), {"use_contact_forces": True})


def smooth(lengths: list[int]) -> dict[str, Any]:
    """Return episodes that each walk on smoothly from where they start, far from the others."""
    rng, made = np.random.default_rng(0), []
    for i, length in enumerate(lengths):
        obs = np.cumsum(rng.normal(0, 0.01, (length + 1, toys.OBS)), axis=0) + 5.0 * (i % 3)
        action = rng.uniform(-1, 1, (length, toys.ACTION))
        made.append(Episode(obs, action, np.zeros(length), False))
    return d4rl_files.arrays(made)


@pytest.mark.parametrize("told_by", ["observations", "next_observations"])
def test_a_stay_at_the_goal_of_a_file_of_ones_own_ends_one_episode(
    told_by: str, tmp_path: Path
) -> None:
    given = smooth([90, 80, 70])
    given["terminals"][60:75] = True
    if told_by == "observations":
        del given["next_observations"]
    path = d4rl_files.write(tmp_path / "own.hdf5", given)
    found = d4rl.read_file(path, name="own", env=toys.register())
    assert found.lengths.tolist() == [61, 15, 80, 70]
    assert found.terminated.tolist() == [True, False, False, False]
    assert found.notes == ("14 steps left out that follow on the goal at the goal",)
    rows = np.r_[0:61, 75:240]
    np.testing.assert_array_equal(found.obs, given["observations"][rows].astype(np.float32))


def test_episodes_of_one_step_with_resets_between_them_are_kept(tmp_path: Path) -> None:
    given = smooth([60] + [1] * 15 + [70, 80])
    given["terminals"][59:75] = True
    given["timeouts"][59:75] = False
    for _ in range(2):
        path = d4rl_files.write(tmp_path / f"{len(given)}.hdf5", given)
        found = d4rl.read_file(path, name="own", env=toys.register())
        assert found.lengths.tolist() == [60] + [1] * 15 + [70, 80]
        (note,) = found.notes
        assert note.startswith("15 of 18 episodes are one terminal step after another: if")
        given.pop("next_observations", None)


def test_a_file_of_episodes_of_one_step_is_taken_as_it_is(tmp_path: Path) -> None:
    given = smooth([1] * 50)
    given["terminals"][:], given["timeouts"][:] = True, False
    del given["next_observations"]
    given["observations"][:] = 0.0
    path = d4rl_files.write(tmp_path / "bandit.hdf5", given)
    found = d4rl.read_file(path, name="own", env=toys.register())
    assert (found.num_episodes, found.notes) == (50, ())


def test_flags_one_row_late_are_told(tmp_path: Path) -> None:
    given = smooth([90, 80, 70, 60])
    given["timeouts"][:] = np.roll(given["timeouts"], 1)
    given["timeouts"][0], given["timeouts"][-1] = False, True
    del given["next_observations"]
    path = d4rl_files.write(tmp_path / "own.hdf5", given)
    (note,) = d4rl.read_file(path, name="own", env=toys.register()).notes
    assert "3 of 4 episodes seem to end one row too late" in note


def test_a_stay_at_the_goal_of_antmaze_ends_one_episode() -> None:
    name = "antmaze-umaze-v2"
    given = d4rl_files.random_arrays(name, [9, 5])
    given["terminals"][:] = np.isin(np.arange(14), [3, 4, 5])
    given["timeouts"][:] = np.isin(np.arange(14), [8, 13])
    d4rl_files.write(d4rl.file_of(name), given)
    found = d4rl.load(name)
    assert found.lengths.tolist() == [4, 3, 5]
    assert found.terminated.tolist() == [True, False, False]
    assert "another ant" in found.notes[0]
    assert found.notes[1:] == (
        "2 steps left out that follow on the goal at the goal",
        "positions moved by (-4, -4), to where AntMaze_UMaze-v4 has them",
    )
    rows = np.r_[0:4, 6:14]
    moved = given["observations"][rows]
    moved[:, :2] -= 4
    same(
        found,
        {"actions": given["actions"][rows], "rewards": given["rewards"][rows]}
        | {"observations": moved},
    )
    after = given["next_observations"][[3, 8, 13]]
    after[:, :2] -= 4
    np.testing.assert_array_equal(found.final_obs, after)
    assert found.env.obs_keys == ("achieved_goal", "observation")


def test_maze2d_is_split_where_its_timeouts_say() -> None:
    name = "maze2d-umaze-v1"
    given = d4rl_files.random_arrays(name, [90, 350])
    given["terminals"][:], given["timeouts"][[89, 439]] = False, True
    d4rl_files.write(d4rl.file_of(name), given)
    found = d4rl.load(name)
    assert found.lengths.tolist() == [90, 350]
    np.testing.assert_allclose(found.obs[:, :2] - given["observations"][:, :2], -1.8, atol=1e-6)
    np.testing.assert_array_equal(found.obs[:, 2:], given["observations"][:, 2:])


def test_the_kitchen_says_why_it_has_no_environment() -> None:
    name = "kitchen-mixed-v0"
    given: dict[str, Any] = d4rl_files.random_arrays(name, [200, 280])
    del given["timeouts"], given["next_observations"]
    given["terminals"] = np.isin(np.arange(480), [199, 479]).astype(np.float32)
    d4rl_files.write(d4rl.file_of(name), given)
    found = d4rl.load(name)
    assert found.env_id == ""
    assert found.lengths.tolist() == [200, 280]
    assert found.terminated.tolist() == [True, False]
    assert found.notes[0].startswith("no environment of today has its 60 observations")


def test_a_file_of_ones_own_takes_bounds_and_limit_from_its_environment(tmp_path: Path) -> None:
    env_id = toys.register("ToyLow-v0", low=-3.0, high=2.0)
    made = toys.episodes([5, 40])
    given: dict[str, Any] = d4rl_files.arrays(made)
    given["actions"] *= 4
    del given["timeouts"], given["next_observations"]
    given["terminals"] = np.isin(np.arange(45), [4, 44])
    path = d4rl_files.write(tmp_path / "own.hdf5", given)
    kwargs = {"max_episode_steps": 40}
    found = d4rl.read_file(path, name="own", env=EnvSpec(env_id, kwargs))
    np.testing.assert_array_equal(found.action, np.clip(given["actions"], -3, 2))
    assert found.action_low.tolist() == [-3, -3]
    assert found.lengths.tolist() == [5, 40]
    assert found.terminated.tolist() == [True, False]
    assert (found.env.kwargs, found.name, found.env_id) == (kwargs, "own", env_id)


def test_a_module_before_the_id_does_not_hide_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = registration.EnvSpec("ToyShort-v0", "tests.support.toys:Walk", max_episode_steps=20)
    monkeypatch.setitem(gym.registry, "ToyShort-v0", spec)
    given: dict[str, Any] = d4rl_files.arrays(toys.episodes([20, 20, 20]))
    del given["timeouts"], given["next_observations"]
    given["terminals"][:] = np.arange(60) == 59
    path = d4rl_files.write(tmp_path / "own.hdf5", given)
    found = d4rl.read_file(path, name="own", env="tests.support.toys:ToyShort-v0")
    assert found.lengths.tolist() == [20, 20, 20]
    assert not found.terminated.any()


def test_a_file_in_which_nothing_ends_is_one_episode(tmp_path: Path) -> None:
    given: dict[str, Any] = d4rl_files.arrays(toys.episodes([5]))
    del given["timeouts"], given["next_observations"]
    given["terminals"][:] = False
    path = d4rl_files.write(tmp_path / "own.hdf5", given)
    unlimited = {"max_episode_steps": -1}
    found = d4rl.read_file(path, name="own", env=EnvSpec(toys.register(), unlimited))
    assert found.lengths.tolist() == [5]
    assert found.notes == ("timeouts are missing: episodes end at 0 terminals",)


def test_a_file_of_an_unknown_environment_is_one_line(tmp_path: Path) -> None:
    path = d4rl_files.write(tmp_path / "own.hdf5", d4rl_files.arrays(toys.episodes([5])))
    with pytest.raises(UserError, match="not an environment that gymnasium knows"):
        d4rl.read_file(path, name="own", env="ToyWlak-v0")


def test_a_large_set_comes_from_the_cache_the_second_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "MIN_BYTES", 1000)
    _, first = hopper()
    with monkeypatch.context() as patch:
        patch.setattr(d4rl, "read", lambda *_: pytest.fail("read again"))
        second = d4rl.load(HOPPER)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))
    assert (second.notes, second.env_id) == (first.notes, first.env_id)
    path = d4rl_files.write(tmp_path / "own.hdf5", d4rl_files.arrays(toys.episodes([5, 400])))
    wide = toys.register("ToyWider-v0", low=-0.5, high=0.5)
    for env_id, bound in ((toys.register(), 1.0), (wide, 0.5)):
        own = d4rl.read_file(path, name="own", env=env_id)
        assert own.action_high.tolist() == [bound, bound]
    _, changed = hopper(rewards=np.zeros(1015))
    assert changed.returns.tolist() == [0, 0, 0, 0]


def test_observations_without_numbers_are_one_line(tmp_path: Path) -> None:
    given: dict[str, Any] = d4rl_files.arrays(toys.episodes([5]))
    given["observations"] = given["next_observations"] = np.zeros((5, 0))
    del given["timeouts"]
    with h5py.File(tmp_path / "own.hdf5", "w") as file:
        for key, values in given.items():
            file[key] = values
    with pytest.raises(UserError, match="obs has no numbers in it"):
        d4rl.read_file(tmp_path / "own.hdf5", name="own", env=toys.register())


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; check the path"):
        d4rl.read_file(tmp_path / "no.hdf5", name="own", env=toys.register())


@pytest.mark.parametrize("seed", range(5))
def test_splitting_is_that_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    terminal, breaks = rng.random((2, 2000)) < 0.01
    lengths, count = list[int](), 0
    for t in range(2000):
        count += 1
        if terminal[t] or breaks[t] or count == 70:
            lengths.append(count)
            count = 0
    found = split(terminal, None, 70, lambda: breaks)
    assert found.lengths.tolist() == lengths
    ends = np.cumsum(lengths) - 1
    np.testing.assert_array_equal(found.terminated, terminal[ends])


def serve(server: Server, monkeypatch: pytest.MonkeyPatch, body: bytes | None) -> None:
    """Let the URL of the Hopper set lead to this server."""
    entry = ENTRIES[HOPPER]
    path = urlsplit(entry.url).path
    monkeypatch.setitem(ENTRIES, HOPPER, replace(entry, url=server.url(path)))
    monkeypatch.setattr(http, "_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("no_proxy", "*")
    if body is not None:
        server.files[path] = body


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


def body_of(path: Path, **changes: Any) -> bytes:
    given = d4rl_files.random_arrays(HOPPER, LENGTHS) | changes
    d4rl_files.write(path, {k: v for k, v in given.items() if v is not None})
    return path.read_bytes()


def test_a_set_is_downloaded_once_to_where_d4rl_has_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    body = body_of(tmp_path / "served.hdf5")
    serve(server, monkeypatch, body)
    server.faults = [Fault(cut=20_000, times=1)]
    first = d4rl.load(HOPPER, progress=False)
    target = folder / "hopper_medium_replay-v2.hdf5"
    assert target.read_bytes() == body
    assert sum(server.sent()) == len(body)
    second = d4rl.load(HOPPER, progress=False)
    assert len(server.log) == 2
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] == [target.name]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("page", "holds a web page"),
        ("half", "is cut off"),
        ("keys", "terminals is missing"),
        ("sizes", r"of sizes \(17, 3\), hopper"),
        ("nothing", "404"),
    ],
)
def test_a_wrong_download_gets_no_name(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wrong: str,
    message: str,
) -> None:
    bodies = {
        "page": lambda: b"<html>we have moved</html>",
        "half": lambda: body_of(tmp_path / "served.hdf5")[:30_000],
        "keys": lambda: body_of(tmp_path / "served.hdf5", terminals=None),
        "sizes": lambda: body_of(tmp_path / "served.hdf5", observations=np.zeros((1015, 17))),
        "nothing": lambda: None,
    }
    serve(server, monkeypatch, bodies[wrong]())
    with pytest.raises(UserError, match=message) as caught:
        d4rl.load(HOPPER, progress=False)
    assert "\n" not in str(caught.value)
    assert not d4rl.file_of(HOPPER).exists()


def test_without_a_network_the_url_and_the_place_are_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(server, monkeypatch, None)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as caught:
        d4rl.load(HOPPER, progress=False)
    assert ENTRIES[HOPPER].url in str(caught.value)
    assert str(d4rl.file_of(HOPPER)) in str(caught.value)


def test_the_folder_is_d4rls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert d4rl.root() == Path(os.environ["D4RL_DATASET_DIR"])
    monkeypatch.delenv("D4RL_DATASET_DIR")
    assert d4rl.root() == Path.home() / ".d4rl" / "datasets"
    assert d4rl.file_of("pen-human-v1") == d4rl.root() / "pen-human-v1.hdf5"
    assert "walker2d-medium-expert-v2" in d4rl.SOURCE.names()
