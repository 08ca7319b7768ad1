"""Our reading beside that of the package d4rl, where it is installed (pip install d4rl)."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from envs.sources import d4rl
from envs.sources.d4rl.table import ENTRIES
from tests.support import d4rl_files

SETS = ["hopper-medium-v2", "halfcheetah-random-v2", "pen-cloned-v1", "door-human-v1"]


@pytest.fixture(scope="module")
def package() -> Iterator[Any]:
    if importlib.util.find_spec("d4rl") is None:
        pytest.skip("d4rl is not installed")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("D4RL_SUPPRESS_IMPORT_ERROR", "1")
        patch.setitem(sys.modules, "mujoco_py", None)  # fails with an Exception that d4rl misses
        yield pytest.importorskip("d4rl", exc_type=ImportError)


def test_urls_and_scores_are_those_of_the_package(package: Any) -> None:
    infos = importlib.import_module("d4rl.infos")
    shared = [entry for entry in ENTRIES.values() if entry.name in infos.DATASET_URLS]
    assert {e.name for e in ENTRIES.values()} - {e.name for e in shared} == {
        name for name in ENTRIES if name.startswith("antmaze") and name.endswith("v1")
    }
    for entry in shared:
        assert entry.url == infos.DATASET_URLS[entry.name]
        assert entry.reference.minimum == infos.REF_MIN_SCORE[entry.name]
        assert entry.reference.maximum == infos.REF_MAX_SCORE[entry.name]


def test_a_score_is_that_of_the_package(package: Any) -> None:
    from envs.scoring.references import normalized

    ours = normalized(1500.0, "Hopper-v4")
    assert ours == pytest.approx(100 * package.get_normalized_score("hopper-medium-v2", 1500.0))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("column", [False, True])
def test_episodes_are_those_of_the_package(
    package: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, column: bool
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    entry = ENTRIES[name]
    given = d4rl_files.random_arrays(name, [7, 1, entry.limit or 0, 30, 4])
    given["terminals"][-1] = given["timeouts"][-1] = False  # the last one has no end
    if column:
        given |= {k: given[k][:, None] for k in ("rewards", "terminals")}
    path = d4rl_files.write(d4rl.file_of(name), given)
    found = d4rl.load(name)

    offline = importlib.import_module("d4rl.offline_env").OfflineEnv()
    offline.observation_space = SimpleNamespace(shape=(entry.sizes[0],))
    offline.action_space = SimpleNamespace(shape=(entry.sizes[1],))
    dataset = offline.get_dataset(h5path=str(path))
    steps = found.num_steps
    np.testing.assert_array_equal(found.obs, dataset["observations"][:steps])
    np.testing.assert_array_equal(found.action, dataset["actions"][:steps])
    np.testing.assert_array_equal(found.reward, dataset["rewards"][:steps])

    rows = {k: v for k, v in dataset.items() if "metadata" not in k}  # it cannot do scalars
    theirs = list(package.sequence_dataset(offline, rows))
    assert found.lengths.tolist() == [len(episode["rewards"]) for episode in theirs]
    for i, episode in enumerate(theirs):
        ours = found.episode(i)
        np.testing.assert_array_equal(ours.obs[: len(ours.reward)], episode["observations"])
        np.testing.assert_array_equal(ours.action, episode["actions"])
        np.testing.assert_array_equal(ours.reward, episode["rewards"])
        late = len(ours.reward) >= (entry.horizon or 0)  # a time limit for us, whatever it says
        assert ours.terminated == (bool(episode["terminals"][-1]) and not late)
