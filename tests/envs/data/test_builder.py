from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data import bounds, builder, repair
from envs.data.builder import TrajectoriesBuilder
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.worlds.spec import EnvSpec
from tests.support.toys import ACTION, OBS, episodes

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)
NAMES = (
    "obs",
    "action",
    "reward",
    "starts",
    "terminated",
    "action_low",
    "action_high",
    "final_obs",
)


def fill(made: list[Episode]) -> tuple[TrajectoriesBuilder, np.ndarray]:
    lengths = np.array([len(e.action) for e in made])
    data = TrajectoriesBuilder("n/n-v0", lengths, OBS, ACTION)
    for i, e in enumerate(made):
        rows = slice(data.starts[i], data.starts[i + 1])
        data.set_obs(i, 0, 0, e.obs[:2, :1])
        data.set_obs(i, 2, 0, e.obs[2:, :1])
        data.set_obs(i, 0, 1, e.obs[:, 1:])
        data.action[rows], data.reward[rows] = e.action, e.reward
        if len(e.obs) == len(e.action):
            data.final_obs = None
    return data, np.array([e.terminated for e in made])


def check_same(found: Trajectories, expected: Trajectories) -> None:
    for name in (*NAMES, "final_obs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@given(LENGTHS, st.integers(0, 99))
def test_sound_data_comes_out_as_it_was_filled_in(lengths: list[int], seed: int) -> None:
    made = episodes(lengths, seed)
    data, terminated = fill(made)
    found = data.finish(terminated=terminated, env="E-v0")
    check_same(found, Trajectories.from_episodes(made, env="E-v0", name="n/n-v0"))
    assert found.notes == ()
    assert np.shares_memory(found.obs, data.obs)


@given(LENGTHS, st.integers(0, 99))
def test_without_every_final_observation_there_are_none(lengths: list[int], odd: int) -> None:
    made = episodes(lengths)
    made[odd % len(made)] = episodes(lengths, extra=False)[odd % len(made)]
    data, terminated = fill(made)
    found = data.finish(terminated=terminated, env="E-v0")
    assert found.final_obs is None
    check_same(found, Trajectories.from_episodes(made, env="E-v0", name="n/n-v0"))


@pytest.mark.parametrize("rows", [1, 2, 7, 1 << 16])
@given(LENGTHS, st.data())
def test_broken_episodes_are_left_out_and_counted(
    rows: int, lengths: list[int], draw: st.DataObject
) -> None:
    made = episodes(lengths)
    broken = draw.draw(st.sets(st.integers(0, len(made) - 1), max_size=len(made) // 2))
    for i in broken:
        values = draw.draw(st.sampled_from([made[i].obs[:-1], made[i].action, made[i].reward]))
        values[draw.draw(st.integers(0, len(values) - 1))] = draw.draw(
            st.sampled_from([np.nan, np.inf, -np.inf])
        )
    data, terminated = fill(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair, "ROWS", rows)
        found = data.finish(terminated=terminated, env="E-v0")
    kept = [episode for i, episode in enumerate(made) if i not in broken]
    check_same(found, Trajectories.from_episodes(kept, env="E-v0", name="n/n-v0"))
    assert len(found.notes) == bool(broken)
    if broken:
        text = f"{len(broken)} of {len(made)} episodes with NaN or infinity left out"
        assert found.notes[0].startswith(f"{text} (the first: episode {min(broken)} in ")


def test_the_first_defect_is_named_with_its_step() -> None:
    made = episodes([4, 5, 6])
    made[1].action[3, 1] = np.inf
    data, terminated = fill(made)
    assert data.finish(terminated=terminated, env="E-v0").notes == (
        "1 of 3 episodes with NaN or infinity left out (the first: episode 1 in action at step 3)",
    )


def test_data_that_is_mostly_broken_is_refused() -> None:
    made = episodes([4, 5, 6])
    made[1].reward[2] = made[2].obs[0, 0] = np.nan
    data, terminated = fill(made)
    with pytest.raises(
        UserError, match=r"n/n-v0: 2 of 3 .* episode 1 in reward at step 2"
    ) as caught:
        data.finish(terminated=terminated, env="E-v0")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [2, 1 << 16])
def test_actions_out_of_bounds_are_clipped_and_counted(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "ROWS", rows)
    made = episodes([4, 4])
    made[0].action[:] = 0.0
    made[1].action[1:3, 0] = [1.5, -3.0]
    data, terminated = fill(made)
    found = data.finish(terminated=terminated, env="E-v0")
    assert found.action[5:7, 0].tolist() == [1.0, -1.0]
    assert found.notes == ("actions of 2 steps (25 %) clipped to their bounds, by up to 2",)


def test_rounding_at_the_bounds_is_clipped_and_not_told() -> None:
    made = episodes([4])
    made[0].action[:] = np.nextafter(np.float32(0.4), np.float32(1))
    data, terminated = fill(made)
    found = data.finish(
        terminated=terminated, env="E-v0", action_low=[-0.4] * 2, action_high=[0.4] * 2
    )
    assert found.notes == ()
    assert (found.action == np.float32(0.4)).all()


@pytest.mark.parametrize("rows", [2, 1 << 16])
def test_bounds_that_are_none_are_taken_from_the_episodes_that_are_kept(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "ROWS", rows)
    made = episodes([3, 4, 2])
    made[0].action[0] = 99.0
    made[0].reward[0] = np.nan
    data, terminated = fill(made)
    none = [np.inf] * ACTION
    found = data.finish(
        terminated=terminated, env="E-v0", action_low=np.negative(none), action_high=none
    )
    np.testing.assert_array_equal(found.action_low, found.action.min(axis=0))
    np.testing.assert_array_equal(found.action_high, found.action.max(axis=0))
    assert found.action_high.max() < 99


def test_a_termination_at_the_time_limit_is_the_time_limit() -> None:
    data, _ = fill(episodes([5, 3, 5]))
    found = data.finish(terminated=np.array([True, True, False]), env="E-v0", horizon=5)
    assert found.terminated.tolist() == [False, True, False]
    assert len(found.notes) == 1
    assert found.notes[0].startswith("1 of 3 episodes end at the time limit of 5 steps")


def test_the_readers_notes_and_the_environments_arguments_are_kept() -> None:
    made = episodes([3])
    made[0].action[:] = 2.0
    data, terminated = fill(made)
    found = data.finish(
        terminated=terminated, env=EnvSpec("E-v0", {"k": 1}, ("b", "a")), notes=["n"]
    )
    assert found.notes[0] == "n"
    assert len(found.notes) == 2
    assert (found.env.obs_keys, found.env.kwargs) == (("b", "a"), {"k": 1})


@pytest.mark.parametrize(
    ("lengths", "obs_dim", "action_dim", "message"),
    [
        ([], 3, 2, "no episodes"),
        ([3, 0, 2], 3, 2, "episode 1 is empty"),
        ([3, -4], 3, 2, "episode 1 is empty"),
        ([3], 0, 2, "obs has no numbers"),
        ([3], 3, 0, "action has no numbers"),
        ([1 << 62, 1 << 62], 3, 2, "GB of memory"),
        ([1 << 50], 30, 2, "GB of memory"),
    ],
)
def test_sizes_of_no_use_are_refused(
    lengths: list[int], obs_dim: int, action_dim: int, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TrajectoriesBuilder("n/n-v0", np.array(lengths, np.int64), obs_dim, action_dim)
    assert str(caught.value).startswith("n/n-v0: ")
    assert "\n" not in str(caught.value)


def test_more_than_the_machine_has_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_memory", lambda: 4.0 * (1000 * (OBS + ACTION + 1) + OBS))
    TrajectoriesBuilder("n/n-v0", np.array([1000]), OBS, ACTION)
    with pytest.raises(UserError, match=r"1001 steps need .* GB of memory"):
        TrajectoriesBuilder("n/n-v0", np.array([1000, 1]), OBS, ACTION)


def test_no_repair_takes_memory_of_the_datas_size() -> None:
    steps = 400_000
    data = TrajectoriesBuilder("n/n-v0", np.full(400, 1000), 17, 6)
    data.obs[:], data.action[:], data.reward[:], data.final_obs[:] = 0.5, 2.0, 1.0, 0.0
    data.obs[1000, 3] = data.reward[steps - 1] = np.nan
    tracemalloc.start()
    try:
        found = data.finish(terminated=np.ones(400, np.bool_), env="E-v0", horizon=1000)
        found.obs_std()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.notes) == 3
    assert found.num_episodes == 398
    assert peak < 0.4 * found.obs.nbytes
