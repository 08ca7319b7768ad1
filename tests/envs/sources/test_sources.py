"""Which source an id or a path goes to, and several of them at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs import sources
from envs.data.combine import combine
from envs.data.sampler import PackedSampler, Sampler, WindowSampler
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.sources import d4rl, minari
from envs.sources.source import Source
from tests.support import d4rl_files, toys


def stored(name: str, lengths: list[int], seed: int = 0) -> str:
    minari.write(name, toys.episodes(lengths, seed), env=toys.register(), description="walks")
    return name


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file of one's own, of the toy environment, in D4RL's layout."""
    return d4rl_files.write(tmp_path / "own, mine.hdf5", d4rl_files.arrays(toys.episodes([5, 9])))


def test_an_id_on_the_disk_is_read() -> None:
    assert sources.load(stored("me/walk-v0", [3, 4])).lengths.tolist() == [3, 4]


def test_a_name_of_d4rl_is_read_where_d4rl_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    name = "hopper-medium-v2"
    d4rl_files.write(d4rl.file_of(name), d4rl_files.random_arrays(name, [6, 7]))
    data = sources.load(name, download=False)
    assert (data.name, data.env_id, data.lengths.tolist()) == (name, "Hopper-v4", [6, 7])


def test_a_file_is_read_with_the_environment_given(own: Path) -> None:
    data = sources.load(str(own), env_id=toys.register())
    assert data.lengths.tolist() == [5, 9]
    sources.check_env(data)


def test_a_file_needs_an_environment(own: Path) -> None:
    with pytest.raises(UserError, match=r"add it, as in --data\.env-id.*--eval\.episodes 0"):
        sources.load(str(own), evaluate=True)


def test_without_evaluation_a_file_needs_no_environment(tmp_path: Path) -> None:
    given = d4rl_files.arrays(toys.episodes([5, 9]))
    given["actions"] *= 3
    found = sources.load(str(d4rl_files.write(tmp_path / "own.hdf5", given)))
    np.testing.assert_array_equal(found.action, given["actions"])  # not clipped
    np.testing.assert_array_equal(found.action_high, given["actions"].max(axis=0))
    assert (found.env_id, found.lengths.tolist()) == ("", [5, 9])
    assert "no time limit is known" in found.notes[0]
    with pytest.raises(UserError, match=r"no environment to evaluate in \(--data\.env-id"):
        sources.check_env(found)


def test_actions_of_another_environment_name_the_option(own: Path) -> None:
    with pytest.raises(UserError, match=r"size 2, Hopper-v4 takes 3; .*--data\.env-id"):
        sources.load(str(own), env_id="Hopper-v4")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.hdf5", "missing.hdf5 does not exist; check the path"),
        ("missing.npz", "missing.npz does not exist; check the path"),
        ("/no/such/folder/hopper-medium-v2", "does not exist; check the path"),
        ("{}", "is a folder; name a file in it"),
        ("{}/text.txt", r"is not an HDF5 file .*; name an HDF5 file"),
        ("{}/empty.h5", r"is empty; name an HDF5 file"),
    ],
)
def test_paths_that_lead_to_no_data_say_what_is_there(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("once upon a time")
    (tmp_path / "empty.h5").touch()
    with pytest.raises(UserError, match=message) as caught:
        sources.load(name.format(tmp_path))
    assert "delete it" not in str(caught.value)


def test_an_environment_is_for_files_only() -> None:
    with pytest.raises(UserError, match="for files"):
        sources.load(stored("me/walk-v0", [3]), env_id="Hopper-v4")


def test_an_npz_file_is_shown_the_way(tmp_path: Path) -> None:
    path = tmp_path / "demos.npz"
    np.savez(path, observations=np.zeros((2, 3)))
    with pytest.raises(UserError, match=r"python -m envs\.sources\.arrays .*demos\.npz"):
        sources.load(str(path), env_id="Hopper-v4")


@pytest.mark.parametrize("name", ["", "a,", "x" * 5000, "a\0b", "../../etc/passwd", "missing.hdf5"])
def test_nonsense_is_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        sources.load(name, env_id="Hopper-v4" if name.endswith("hdf5") else None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hopper-medium-v2", "mujoco/hopper/medium-v0"])
def test_what_must_not_be_downloaded_is_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"not on this disk.*no-download"):
        sources.load(name, download=False)


def test_the_latest_version_is_proposed_first() -> None:
    near = sources.near_matches("hopper-medum-v7")
    assert near == ["minrnn/hopper/medium-v0", "hopper-medium-v2", "hopper-medium-v1"]


def test_data_without_an_environment_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    name = "kitchen-mixed-v0"
    d4rl_files.write(d4rl.file_of(name), d4rl_files.random_arrays(name, [6, 7]))
    with pytest.raises(UserError, match=r"no environment.*FrankaKitchen.*--eval\.episodes 0"):
        sources.check_env(sources.load(name))


def test_another_source_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = Source(
        "walks:STEPS",
        lambda name: name.startswith("walks:"),
        lambda name, options: toys.data([int(name.removeprefix("walks:"))], options.seed),
        lambda: ["walks:10"],
    )
    monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, walks))
    np.testing.assert_array_equal(sources.load("walks:3", seed=5).obs, toys.data([3], 5).obs)
    assert sources.load("walks:3,walks:4").lengths.tolist() == [3, 4]
    assert sources.near_matches("walk:10") == ["walks:10"]
    with pytest.raises(UserError, match=r"name one of minrnn/.*a file, a Minari id, .*walks:STEPS"):
        sources.load("nothing like it")


def test_several_are_laid_end_to_end() -> None:
    names = [stored("me/a-v0", [3, 4]), stored("me/b-v0", [5], seed=1)]
    one, two = map(sources.load, names)
    both = sources.load(", ".join(names))
    assert both.name == "me/a-v0,me/b-v0"
    assert both.starts.tolist() == [0, 3, 7, 12]
    assert both.weights is None
    for field in ("obs", "action", "reward", "terminated"):
        expected = np.concatenate([getattr(one, field), getattr(two, field)])
        np.testing.assert_array_equal(getattr(both, field), expected)
    np.testing.assert_array_equal(both.returns, np.concatenate([one.returns, two.returns]))
    both.validate()


def test_reference_returns_of_two_sets_count_where_they_are_the_same() -> None:
    own, other = (0.0, 1.0, "own"), (0.0, 2.0, "own")
    one, two = (replace(toys.data([n]), reference=own) for n in (3, 4))
    assert combine([one, two]).reference == own
    assert combine([one, replace(two, reference=other)]).reference is None
    assert combine([one, replace(two, reference=None)]).reference is None


def test_weights_are_shares_of_the_steps_that_are_drawn() -> None:
    names = [stored("me/long-v0", [50] * 20), stored("me/short-v0", [10] * 10, seed=1)]
    both = sources.load(",".join(names), weights=[1, 3])
    sampler, drawn = WindowSampler(both, batch_size=64, length=1, seed=0), list[float]()
    for _ in range(100):
        drawn += sampler.sample().obs[:, 0, 0].tolist()  # obs[:, 0] counts the steps of a set
    alone = WindowSampler(sources.load(",".join(names)), batch_size=64, length=1, seed=0)
    plain = [float(v) for _ in range(100) for v in alone.sample().obs[:, 0, 0]]
    # Steps 100 to 999 are of the long set only: 90 % of it.
    assert abs(np.mean(np.array(drawn) >= 100) - 0.25 * 0.9) < 0.03
    assert abs(np.mean(np.array(plain) >= 100) - 1000 / 1100 * 0.9) < 0.03


@pytest.mark.parametrize("sampler", [WindowSampler, PackedSampler])
@pytest.mark.parametrize("lengths", [([10] * 50, [1000] * 5), ([5, 2000, 30] * 4, [64] * 100)])
def test_the_shares_hold_for_episodes_of_any_length(
    sampler: type[Sampler], lengths: tuple[list[int], list[int]]
) -> None:
    one, two = (
        Trajectories.from_episodes(
            [Episode(np.full((n, 1), tag), np.ones((n, 1)), np.ones(n), False) for n in each],
            env="ToyWalk-v0",
            name="walks",
        )
        for tag, each in enumerate(lengths)
    )
    drawer, steps, seconds = sampler(combine([one, two], [1, 3]), 64, 64, seed=0), 0, 0
    for _ in range(300):
        batch = drawer.sample()
        steps += batch.mask.sum()
        seconds += (batch.obs[..., 0] == 1)[batch.mask].sum()
    assert abs(seconds / steps - 0.75) < 0.02


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_two_sets_take_no_more_memory_than_one_and_a_half_times_their_size(
    checkout: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.6


MEMORY = """
import numpy as np
from envs.data.combine import combine
from envs.data.trajectories import Episode, Trajectories

def memory(field):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

def made(steps=1_000_000):
    obs, one = np.ones((steps, 12), np.float32), np.ones((steps, 1), np.float32)
    starts, ends = np.arange(0, steps + 1, 1000), np.zeros(steps // 1000, bool)
    low = np.full(1, -1, np.float32)
    return Trajectories(obs, one, one[:, 0].copy(), starts, ends, "W-v0", "w", low, -low)

before = memory("VmRSS")
both = combine([made(), made()])
size = both.obs.nbytes + both.action.nbytes + both.reward.nbytes
print((memory("VmHWM") - before) / size)
"""


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, np.nan], [np.inf, 1]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    sets = [toys.data([3]), toys.data([4])]
    with pytest.raises(UserError, match="weights"):
        combine(sets, weights)


def test_sets_of_different_environments_are_not_combined() -> None:
    walk, other = toys.data([3]), toys.episodes([4])
    jump = Trajectories.from_episodes(other, env="ToyJump-v0", name="toy/j-v0")
    words = r"toy/t-v0 and toy/j-v0.*environments.*ToyWalk-v0.*ToyJump-v0"
    with pytest.raises(UserError, match=words):
        combine([walk, jump])
