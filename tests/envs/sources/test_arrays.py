from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import sources
from envs.errors import UserError
from envs.sources import arrays
from tests.support.toys import ACTION, OBS, register


def save(path: Path, steps: int = 12, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    flat = {
        "observations": rng.normal(size=(steps, OBS)),
        "actions": rng.uniform(-2, 2, (steps, ACTION)),
        "rewards": rng.normal(size=steps),
    }
    np.savez(path, **{k: v for k, v in (flat | more).items() if v is not None})
    return path


def flags(*places: int) -> np.ndarray[Any, Any]:
    return np.isin(np.arange(12), places)


def test_episodes_end_where_their_lengths_say(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", episode_lengths=np.array([3, 9]))
    episodes = arrays.read_npz(path, 40)
    assert [len(e.reward) for e in episodes] == [3, 9]
    assert not any(e.terminated for e in episodes)


def test_episodes_end_at_terminals_and_timeouts_and_the_last_may_be_cut(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", terminals=flags(2), timeouts=flags(6))
    episodes = arrays.read_npz(path, 40)
    assert [(len(e.reward), e.terminated) for e in episodes] == [(3, True), (4, False), (5, False)]


def test_a_stay_at_a_goal_ends_one_episode(tmp_path: Path) -> None:
    obs = np.cumsum(np.random.default_rng(0).normal(0, 0.01, (200, OBS)), axis=0)
    obs[100:] += 5.0
    some = np.isin(np.arange(200), range(60, 75))
    ends = {"terminals": some, "timeouts": np.isin(np.arange(200), [99, 199])}
    told: list[str] = []
    path = save(tmp_path / "a.npz", 200, observations=obs, **ends)
    episodes = arrays.read_npz(path, None, told.append)
    assert [len(each.reward) for each in episodes] == [61, 25, 100]
    assert told == ["14 steps left out that follow on the goal at the goal"]
    # After a reset, the next observation is another than the next row's.
    after = np.roll(obs, -1, axis=0) + some[:, None]
    path = save(tmp_path / "b.npz", 200, observations=obs, next_observations=after, **ends)
    assert len(arrays.read_npz(path, None, told.append)) == 17
    assert len(told) == 1


def test_a_terminal_at_the_time_limit_is_no_termination(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", terminal=flags(3, 9).astype(np.float32)[:, None])
    ended = [(len(e.reward), e.terminated) for e in arrays.read_npz(path, 4)]
    assert ended == [(4, False), (6, True), (2, False)]


def test_the_observation_after_the_last_step_is_taken_where_it_is_known(tmp_path: Path) -> None:
    after = np.full((12, OBS), 7.0)
    path = save(tmp_path / "a.npz", next_observations=after, episode_lengths=np.array([5, 7]))
    first, second = arrays.read_npz(path, None)
    assert len(first.obs) == 6
    assert (first.obs[5] == 7).all()
    assert (second.obs[:7] != 7).all()


def test_the_first_observation_of_the_next_episode_is_none_after_the_last_step(
    tmp_path: Path,
) -> None:
    obs, told = np.random.default_rng(1).normal(size=(12, OBS)), list[str]()
    after = np.concatenate((obs[1:], obs[:1]))
    for place, known in ((None, False), (4, True)):
        if place is not None:
            after[place] += 1.0
        path = save(
            tmp_path / "a.npz",
            observations=obs,
            next_observations=after,
            episode_lengths=np.array([5, 3, 4]),
        )
        told.clear()
        episodes = arrays.read_npz(path, None, told.append)
        assert [len(e.obs) - len(e.action) for e in episodes] == [known] * 3
        assert [text.split(":")[0] for text in told] == ["next_observations not used"] * (not known)


def test_a_file_becomes_a_minari_data_set(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", episode_lengths=np.array([3, 9]), rewards=np.ones((12, 1)))
    assert arrays.main([str(path), "--env-id", register(), "--id", "me/human-v0"]) == 0
    data = sources.load("me/human-v0")
    assert data.lengths.tolist() == [3, 9]
    assert data.returns.tolist() == [3, 9]
    assert np.abs(data.action).max() == 1.0  # they reached 2
    assert data.final_obs is None
    path = save(path, next_observations=np.full((12, OBS), 7.0), episode_lengths=np.array([3, 9]))
    assert arrays.main([str(path), "--env-id", register(), "--id", "me/human-v1"]) == 0
    assert (sources.load("me/human-v1").final_obs == np.full((2, OBS), 7.0)).all()


def test_files_of_older_versions_do_not_say_whether_final_observations_are_copies(
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "a.npz", next_observations=np.full((12, OBS), 7.0))
    assert arrays.main([str(path), "--env-id", register(), "--id", "me/human-v0"]) == 0
    about = sources.minari.root() / "me/human-v0" / "data" / "metadata.json"
    known = json.loads(about.read_text())
    for changes, final in (({}, False), ({"code_permalink": "theirs"}, True)):
        older = {k: v for k, v in (known | changes).items() if k != "minrnn_final_obs"}
        about.write_text(json.dumps(older))
        assert (sources.load("me/human-v0").final_obs is not None) == final


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"actions": None}, "has no actions; it has: observations, rewards"),
        ({"rewards": np.zeros(5)}, "12 observations, 12 actions, 5 rewards"),
        ({"episode_lengths": np.array([3, 3])}, "add up to 6, of 12"),
        ({"episode_lengths": np.array([15, -3])}, "has -3 for episode 1"),
        ({"episode_lengths": np.array([12, 0])}, "has 0 for episode 1"),
        ({"episode_lengths": np.array([3.5, 8.5])}, "has 3.5 for episode 0"),
        ({"terminals": np.zeros(5)}, "terminals has 5 entries for 12 steps"),
        ({"timeouts": np.zeros(13)}, "timeouts has 13 entries for 12 steps"),
        ({"terminals": np.array(["no"] * 12)}, "terminals is of type <U2"),
        ({"terminals": np.array([0.0, np.nan] * 6)}, "terminals has NaN; store 0 or 1"),
        ({"actions": np.array(0.0)}, "actions is of type float64 and shape"),
        ({"next_observations": np.zeros((12, OBS + 1))}, "next_observations"),
        (
            {k: np.zeros((0, 1)) for k in ("observations", "actions", "rewards")},
            "has no steps",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, more: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.npz", **more)
    with pytest.raises(UserError, match=message):
        arrays.read_npz(path, None)
    assert arrays.main([str(path), "--env-id", register(), "--id", "me/human-v0"]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    assert arrays.main([str(path), "--env-id", register(), "--id", "me/human-v0"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert error.count("\n") == 0
    assert not sources.minari.exists("me/human-v0")


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-9, 0.0), (1.0, 1.7e9)])
def test_episodes_of_one_step_are_told_from_stays_at_a_goal_in_any_unit(
    tmp_path: Path, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(0)
    obs, after, ends = [], [], []
    for episode in range(60):
        steps = 1 if episode % 3 else 20  # two of three terminate at once, with real resets
        path = 3 * rng.normal(size=(1, 3)) + np.cumsum(0.01 * rng.normal(size=(steps + 1, 3)), 0)
        obs.append(path[:-1])
        after.append(path[1:])
        ends.append(np.arange(steps) == steps - 1)
    ends = np.concatenate(ends)
    np.savez(
        tmp_path / "own.npz",
        observations=offset + scale * np.concatenate(obs),
        next_observations=offset + scale * np.concatenate(after),
        actions=rng.uniform(-1, 1, (len(ends), 1)),
        rewards=ends.astype(float),
        terminals=ends,
        timeouts=np.zeros(len(ends), bool),
    )
    notes: list[str] = []
    assert len(arrays.read_npz(tmp_path / "own.npz", None, notes.append)) == 60
    assert notes == []
