from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data import trajectories as trajectories_module
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from tests.support.toys import ACTION, OBS, data, episodes

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@given(LENGTHS, st.integers(0, 99))
def test_episodes_come_out_as_they_went_in(lengths: list[int], seed: int) -> None:
    made = episodes(lengths, seed)
    trajectories = Trajectories.from_episodes(made, env="E-v0", name="n/n-v0")
    assert trajectories.num_episodes == len(lengths)
    assert trajectories.num_steps == sum(lengths)
    assert trajectories.lengths.tolist() == lengths
    assert (trajectories.obs_dim, trajectories.action_dim) == (OBS, ACTION)
    for i, episode in enumerate(made):
        out = trajectories.episode(i)
        np.testing.assert_array_equal(out.obs, episode.obs.astype(np.float32))
        np.testing.assert_array_equal(out.action, episode.action.astype(np.float32))
        np.testing.assert_array_equal(out.reward, episode.reward.astype(np.float32))
        assert out.terminated == episode.terminated


@given(LENGTHS, st.integers(0, 99))
def test_returns_to_go_equal_a_loop_over_the_steps(lengths: list[int], seed: int) -> None:
    trajectories = data(lengths, seed)
    expected: list[float] = []
    for i in range(len(lengths)):
        reward = trajectories.episode(i).reward.astype(np.float64)
        expected += [float(reward[t:].sum()) for t in range(len(reward))]
    np.testing.assert_allclose(trajectories.returns_to_go(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        trajectories.returns, trajectories.returns_to_go()[trajectories.starts[:-1]], rtol=1e-5
    )


def test_returns_to_go_keep_small_rewards_beside_large_sums() -> None:
    reward = np.full(100_000, 0.1, np.float32)
    episode = Episode(np.zeros((len(reward), 1)), np.zeros((len(reward), 1)), reward, False)
    trajectories = Trajectories.from_episodes([episode] * 3, env="E-v0", name="n/n-v0")
    np.testing.assert_allclose(
        trajectories.returns_to_go()[:3], float(reward[0]) * np.arange(100_000, 99_997, -1), 1e-7
    )


@pytest.mark.parametrize("name", ["obs", "action", "reward"])
def test_columns_are_refused_where_steps_are_meant(name: str) -> None:
    parts = {"obs": np.zeros((4, 1)), "action": np.zeros((4, 1)), "reward": np.zeros(4)}
    other = parts[name][:, 0] if parts[name].ndim == 2 else parts[name][:, None]
    episode = Episode(**(parts | {name: other}), terminated=False)
    with pytest.raises(UserError, match=rf"episode 0 has {name} of shape \(4,.*not . dimensions"):
        Trajectories.from_episodes([episode], env="E-v0", name="n/n-v0")


def test_timesteps_count_from_zero_in_each_episode() -> None:
    assert data([3, 1, 2]).timesteps().tolist() == [0, 1, 2, 0, 0, 1]


def test_statistics_are_over_all_steps_and_never_zero() -> None:
    trajectories = data([5, 7])
    np.testing.assert_allclose(trajectories.obs_mean(), trajectories.obs.mean(0), rtol=1e-5)
    expected = (trajectories.obs.std(axis=0, dtype=np.float64) + 1e-6).astype(np.float32)
    np.testing.assert_array_equal(trajectories.obs_std(), expected)


def test_a_dimension_that_varies_by_rounding_alone_is_not_scaled() -> None:
    trajectories = data([50, 70])
    scale = np.array([1.0, 1e-7, 0.0], np.float32)
    flat = replace(trajectories, obs=trajectories.obs * scale + 1.0)
    std = flat.obs_std()
    assert std[0] > 1
    assert std[1:].tolist() == [1.0, 1.0]


@given(LENGTHS, st.data())
def test_select_takes_episodes_in_the_order_given(lengths: list[int], draw: st.DataObject) -> None:
    trajectories = data(lengths)
    chosen = draw.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    part = trajectories.select(chosen)
    part.validate()
    assert part.lengths.tolist() == [lengths[i] for i in chosen]
    for place, i in enumerate(chosen):
        np.testing.assert_array_equal(part.episode(place).obs, trajectories.episode(i).obs)
        np.testing.assert_array_equal(part.episode(place).reward, trajectories.episode(i).reward)


def test_select_takes_a_mask_and_refuses_nothing() -> None:
    trajectories = data([2, 3, 4])
    assert trajectories.select(np.array([True, False, True])).lengths.tolist() == [2, 4]
    with pytest.raises(UserError, match="no episodes selected"):
        trajectories.select([])


def broken(index: int, **changes: object) -> list[Episode]:
    made = episodes([4, 5, 6])
    made[index] = replace(made[index], **changes)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "no episodes"),
        (broken(1, reward=np.zeros(4)), r"episode 1 has 6 observations, 5 actions and 4 rewards"),
        (broken(2, obs=np.zeros((9, OBS))), r"episode 2 has 9 observations"),
        (broken(1, action=np.zeros((5, 7))), r"episode 1 has action of size 7, episode 0 has 2"),
        (broken(2, obs=np.zeros((7, 1))), r"episode 2 has obs of size 1"),
        (broken(1, reward=np.zeros((5, 1))), r"episode 1 has reward of shape \(5, 1\)"),
        (
            broken(1, reward=np.full(5, np.nan)),
            r"episode 1 has NaN or infinity in reward at step 0",
        ),
        (
            broken(2, action=np.array([[0.0, 0.0]] * 5 + [[0.0, np.inf]])),
            r"episode 2 has NaN or infinity in action at step 5",
        ),
        (
            broken(0, obs=np.zeros((1, OBS)), action=np.zeros((0, ACTION)), reward=np.zeros(0)),
            "episode 0 is empty",
        ),
    ],
)
def test_defects_are_named_with_their_episode(made: list[Episode], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Trajectories.from_episodes(made, env="E-v0", name="some/data-v0")
    assert str(caught.value).startswith("some/data-v0: ")
    assert "\n" not in str(caught.value)


def test_nan_after_the_last_step_is_not_of_the_data() -> None:
    made = episodes([3])
    made[0].obs[3] = np.nan
    Trajectories.from_episodes(made, env="E-v0", name="n/n-v0")


@pytest.mark.parametrize(
    ("starts", "message"),
    [([0, 3, 3, 9], "episode 1 is empty"), ([0, 4], "cover 4 steps of 9"), ([0], "no episodes")],
)
def test_validate_finds_offsets_that_do_not_fit(starts: list[int], message: str) -> None:
    good = data([4, 5])
    bad = replace(good, starts=np.array(starts), terminated=np.zeros(len(starts) - 1, np.bool_))
    with pytest.raises(UserError, match=message):
        bad.validate()


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([-1.0], [1.0], r"shapes \(1,\) and \(1,\) for actions of size 2"),
        (-1.0, [1.0, 1.0], r"shapes \(\) and \(2,\)"),
        ([-1.0, 2.0], [1.0, 2.0], "action 1 has the bounds 2 and 2; correct"),
        ([-1.0, np.nan], [1.0, 1.0], "action 1 has the bounds nan and 1"),
        ([np.inf, -1.0], [np.inf, 1.0], "action 0 has the bounds inf"),
    ],
)
def test_action_bounds_of_no_use_are_refused(low: object, high: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Trajectories.from_episodes(
            episodes([3]),
            env="E-v0",
            name="n/n-v0",
            action_low=low,  # type: ignore[arg-type]
            action_high=high,  # type: ignore[arg-type]
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("none", [np.inf, float(np.finfo(np.float32).max), np.finfo(float).max])
def test_bounds_that_are_none_are_taken_from_the_data(none: float) -> None:
    action = np.array([[0.5, 3.0], [-2.0, 3.0], [4.0, 3.0]])
    trajectories = Trajectories.from_episodes(
        [replace(episodes([3])[0], action=action)],
        env="E-v0",
        name="n/n-v0",
        action_low=[-none, -none],
        action_high=[1.0, none],
    )
    assert trajectories.action_low.tolist() == [-2.0, 2.0]
    assert trajectories.action_high.tolist() == [1.0, 4.0]


def test_statistics_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    trajectories = data([50, 70, 31])
    mean, std = trajectories.obs_mean(), trajectories.obs_std()
    monkeypatch.setattr(trajectories_module, "ROWS", 13)
    np.testing.assert_allclose(trajectories.obs_mean(), mean, rtol=1e-6)
    np.testing.assert_allclose(trajectories.obs_std(), std, rtol=1e-6)


def test_weights_go_with_their_episodes() -> None:
    weighted = replace(data([2, 3, 4]), weights=np.array([1.0, 2.0, 3.0]))
    chosen = weighted.select([2, 0]).weights
    assert chosen is not None
    assert chosen.tolist() == [3.0, 1.0]
    with pytest.raises(UserError, match=r"weights of shape \(2,\) for 3 episodes"):
        replace(weighted, weights=chosen).validate()


@pytest.mark.parametrize("label", ["obs", "action"])
def test_observations_and_actions_of_no_size_are_refused(label: str) -> None:
    bad = replace(data([2, 3]), **{label: np.zeros((5, 0), np.float32)})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"{label} has no numbers"):
        bad.validate()


def test_small_returns_beside_huge_ones_keep_their_digits() -> None:
    rewards = [1e18, 1.0, 1.0], [1e-3, 2e-3, 3e-3], [0.0, 0.0]
    made = [
        Episode(np.zeros((len(r) + 1, 1)), np.zeros((len(r), 1)), np.array(r), False)
        for r in rewards
    ]
    data = Trajectories.from_episodes(made, env="E-v0", name="n/n-v0")
    wanted = [1e18, 2.0, 1.0, 6e-3, 5e-3, 3e-3, 0.0, 0.0]
    np.testing.assert_allclose(data.returns_to_go(), wanted, rtol=1e-6)
    long = Episode(np.zeros((1001, 1)), np.zeros((1000, 1)), np.full(1000, -1e9), False)
    small = Episode(np.zeros((3, 1)), np.zeros((2, 1)), np.array([1e-2, 2e-2]), False)
    data = Trajectories.from_episodes([long] * 100 + [small], env="E-v0", name="n/n-v0")
    np.testing.assert_allclose(data.returns_to_go()[-2:], [3e-2, 2e-2], rtol=1e-6)


def test_actions_beyond_bounds_that_nobody_gave_are_refused() -> None:
    episode = Episode(np.zeros((3, 1)), np.array([[1.94], [0.0]]), np.zeros(2), False)
    with pytest.raises(UserError, match=r"actions reach 1\.94, beyond -1 and 1"):
        Trajectories.from_episodes([episode], env="E-v0", name="n/n-v0")


@pytest.mark.parametrize("bound", [2.0, 49.0, 1e3, 1e6, 3e38])
def test_bounds_far_wider_than_the_data_are_those_of_the_data(bound: float) -> None:
    action = np.tile([[1.0, 0.5], [-1.0, 0.5]], (60, 1))
    episode = Episode(np.zeros((121, 1)), action, np.zeros(120), False)
    made = Trajectories.from_episodes(
        [episode], env="E-v0", name="n/n-v0", action_low=[-bound] * 2, action_high=[bound] * 2
    )
    if bound < 100.0:
        assert (made.action_low.tolist(), made.notes) == ([-bound, -bound], ())
        return
    assert (made.action_low[0], made.action_high[0]) == (-1.0, 1.0)
    assert made.action_high[1] == np.float32(bound)  # it never changes: there is no range
    assert made.notes == ("actions 0 use less than 2 % of their bounds: the data's are used",)
