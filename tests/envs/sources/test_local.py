from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import minari as minari_package
import numpy as np
import pytest

from envs import sources
from envs.behaviour import generate, mixes
from envs.behaviour.mixes import Stage
from envs.errors import UserError
from envs.sources import local, minari

ID = "minrnn/hopper/medium-v0"
ROOT = Path(__file__).parents[3]
SMALL = (Stage("00005000", 4), Stage("00010000", 3, 0.5))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven short episodes instead of 250."""
    monkeypatch.setitem(mixes._MEDIUM, "hopper", SMALL)


def child(code: str) -> subprocess.Popen[str]:
    """Run code in another process, with the same small mix."""
    head = (
        "import os\nfrom envs.behaviour import mixes\nfrom envs.behaviour.mixes import Stage\n"
        "from envs.sources import local\n"
        f"mixes._MEDIUM['hopper'] = {SMALL!r}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_data_set_is_made_at_first_use_and_read_then(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sources.load(ID, progress=False)
    assert (first.num_episodes, first.env_id, first.name) == (7, "Hopper-v5", ID)
    sources.check_env(first)

    def again(*_: object, **__: object) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr(local, "generate_level", again)
    second = sources.load(ID, progress=False)
    np.testing.assert_array_equal(first.obs, second.obs)
    np.testing.assert_array_equal(first.reward, second.reward)


def test_minari_reads_a_data_set_made_here() -> None:
    sources.load(ID, progress=False)
    dataset = minari_package.load_dataset(ID)
    assert dataset.total_episodes == 7
    env = dataset.recover_environment()
    episode = dataset[5]
    obs, _ = env.reset(seed=int(next(iter(dataset.storage.get_episode_metadata([5])))["seed"]))
    for t in range(len(episode)):  # the stored seed and actions give the stored episode
        np.testing.assert_array_equal(obs, episode.observations[t])
        obs, reward, *_ = env.step(episode.actions[t])
        assert reward == episode.rewards[t]
    env.close()


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_data_do_not_depend_on_the_number_of_environments(num_envs: int) -> None:
    made, other = (
        generate.generate_level("hopper", "medium", num_envs=k, progress=False)
        for k in (16, num_envs)
    )
    for a, b in zip(made, other, strict=True):
        assert a.seed == b.seed
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.action, b.action)


def test_another_seed_makes_another_data_set() -> None:
    zero, one = (sources.load(ID, seed=seed, progress=False) for seed in (0, 1))
    assert one.name == "minrnn/hopper/medium-seed1-v0"
    assert minari.list_ids() == [one.name, zero.name]
    assert not np.array_equal(zero.obs[:5], one.obs[:5])


def test_medium_expert_is_the_episodes_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mixes._EXPERT, "hopper", (Stage("00025000", 2),))
    both = sources.load("minrnn/hopper/medium-expert-v0", progress=False)
    medium = sources.load(ID, progress=False)
    assert both.num_episodes == 9
    np.testing.assert_array_equal(both.select(range(7)).obs, medium.obs)


def test_a_changed_recipe_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sources.load(ID, progress=False)
    monkeypatch.setitem(mixes._MEDIUM, "hopper", (Stage("00005000", 5),))
    with pytest.raises(UserError, match="another version of the project; delete"):
        sources.load(ID, progress=False)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UserError, match="minrnn/hopper/medium-replay-v0"):
        local.load("minrnn/hopper/best-v0")


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_killed_process_leaves_nothing_that_looks_complete(
    moment: str, minari_folder: Path
) -> None:
    step = {"writing": "fsync", "renaming": "rename"}[moment]
    process = child(f"os.{step} = lambda *_: os.kill(os.getpid(), 9)\nlocal.load({ID!r})\n")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output
    assert minari.list_ids() == []
    assert minari_package.list_local_datasets() == {}
    assert not minari.exists(ID)
    assert sources.load(ID, progress=False).num_episodes == 7
    assert not list(minari_folder.glob(".partial-*"))  # what the killed one left is cleared


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    code = (
        "made = local.generate_level\n"
        f"local.generate_level = lambda *a, **k: (open({str(tmp_path / 'made')!r}, 'a').write('x'),"
        " made(*a, **k))[1]\n"
        f"print(local.load({ID!r}, progress=False).num_steps)\n"
    )
    both = [child(code), child(code)]
    steps = [process.communicate(timeout=300)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0], steps
    assert steps[0] == steps[1] == str(sources.load(ID, progress=False).num_steps)
    assert (tmp_path / "made").read_text() == "x"


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(UserError, match="point MINARI_DATASETS_PATH to a folder"):
        sources.load(ID, progress=False)


def test_sixteen_data_sets_are_local() -> None:
    assert len(local.LOCAL_DATA) == 16
    assert local.LOCAL_DATA["minrnn/hopper/medium-replay-v0"] == ("hopper", "medium-replay")
