"""Runs on the disk, the seeds of one setting, and the returns of their data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation import checkpoints, compare
from agents.evaluation.spec import Plan
from agents.storage.checkpoint import save_checkpoint
from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.files import write_json
from tests.support import d4rl_files, toys
from tests.support.models import tiny_model


def save(folder, *, targets=(1.0, 2.0), returns=(1.0, 3.0), backbone="mingru", **config):
    """Write what a run of train.py leaves, as far as it is read here."""
    metadata = {"env_id": "Toy-v0", "data": "toy/toy-v0", "targets": list(targets), "update": 7}
    for name in ("last", "best"):
        model = tiny_model(backbone=backbone)
        save_checkpoint(folder / name, model, {**metadata, "window": None})
    write_json(folder / "config.json", {"seed": 0, "env": "toy/toy-v0", **config})
    write_json(folder / checkpoints.DATA_FILE, {"returns": list(returns)})
    return folder


def names(paths, which="last"):
    return {
        key: [c.run.name for c in group]
        for key, group in checkpoints.group(checkpoints.find(paths, which)).items()
    }


def test_seeds_of_one_setting_lie_together(tmp_path):
    more = [{"log": "csv", "optim": {"objective": "return_conditioned"}}, {}]  # the second is old
    paths = [
        save(tmp_path / f"s{i}", seed=i, device=f"cuda:{i}", run_dir=f"{i}", **more[i])
        for i in range(2)
    ]
    assert names(paths, "both") == {("", "last"): ["s0", "s1"], ("", "best"): ["s0", "s1"]}
    assert [c.seed for c in checkpoints.find(paths, "last")] == [0, 1]


def test_settings_are_called_by_what_sets_them_apart(tmp_path):
    a = save(tmp_path / "a", optim={"lr": 0.1})
    b = save(tmp_path / "b", optim={"lr": 0.2})
    c = save(tmp_path / "c", backbone="minlstm", optim={"lr": 0.2}, seed=3)
    assert names([a, b]) == {("lr=0.1", "last"): ["a"], ("lr=0.2", "last"): ["b"]}
    assert names([a, c]) == {("mingru", "last"): ["a"], ("minlstm", "last"): ["c"]}
    assert list(names([a, b, c])) == [
        ("mingru lr=0.1", "last"),
        ("mingru lr=0.2", "last"),
        ("minlstm lr=0.2", "last"),
    ]


def test_how_a_run_was_evaluated_is_no_setting(tmp_path):
    a = save(tmp_path / "a", eval={"every": 10}, optim={"compile": "on"})
    b = save(tmp_path / "b", eval={"every": 20}, seed=1)
    assert names([a, b]) == {("", "last"): ["a", "b"]}


def test_a_run_named_twice_is_played_once(tmp_path):
    a = save(tmp_path / "a")
    assert names([a, a / ".." / "a"]) == {("", "last"): ["a"]}


def test_a_checkpoint_named_beside_its_run_is_played_once(tmp_path):
    a = save(tmp_path / "a")
    assert names([a, a / "best"], "best") == {("", "best"): ["a"]}


def test_one_seed_twice_is_refused(tmp_path):
    found = checkpoints.find([save(tmp_path / name, seed=4) for name in "ab"], "last")
    with pytest.raises(UserError, match=r"a and .*b are the same seed, 4, of the same setting"):
        checkpoints.group(found)


def test_a_path_that_is_another_checkpoint_than_asked_for_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint called last"):
        checkpoints.find([save(tmp_path / "a") / "best"], "last")


def test_seeds_that_remembered_in_different_ways_are_not_mixed(tmp_path):
    found = checkpoints.find([save(tmp_path / f"{i}", seed=i) for i in range(2)], "last")
    found[1].metadata["window"] = 9
    with pytest.raises(UserError, match="different memories: give --memory"):
        compare.evaluate_checkpoints(found, Plan())


def test_a_checkpoint_alone_finds_its_run(tmp_path):
    a = save(tmp_path / "a", seed=5)
    (found,) = checkpoints.find([a / "best"])
    assert (found.name, found.run, found.seed) == ("best", a, 5)
    assert checkpoints.data_returns(found) is not None


def test_a_checkpoint_killed_between_its_renames_is_found(tmp_path):
    a = save(tmp_path / "a")
    (a / "last").rename(a / ".old-last")
    assert [c.name for c in checkpoints.find([a])] == ["last", "best"]


def test_no_checkpoint_names_the_way_to_one(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint .*train\.py"):
        checkpoints.find([tmp_path])


def test_a_damaged_config_is_named(tmp_path):
    a = save(tmp_path / "a")
    (a / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        checkpoints.find([a])


def test_returns_of_the_data_are_the_runs_own_or_unknown(tmp_path):
    (found,) = checkpoints.find([save(tmp_path / "a")], "last")
    assert checkpoints.data_returns(found).tolist() == [1.0, 3.0]
    (tmp_path / "a" / checkpoints.DATA_FILE).unlink()
    assert checkpoints.data_returns(found) is None
    local = replace(found, metadata={**found.metadata, "data": "minrnn/hopper/medium-v0"})
    assert checkpoints.data_returns(local) is None  # and nothing has been rolled out


def test_a_runs_configuration_does_not_choose_a_module_to_import(tmp_path, monkeypatch):
    (found,) = checkpoints.find([save(tmp_path / "a", data={"env_id": "evil:Toy-v0"})], "last")
    (tmp_path / "a" / checkpoints.DATA_FILE).unlink()
    monkeypatch.setattr(checkpoints.sources, "load", lambda *_, **__: pytest.fail("loaded"))
    assert checkpoints.data_returns(found) is None


def test_returns_are_read_again_with_the_arguments_of_the_run(tmp_path):
    episodes = [Episode(np.zeros((4, 3)), np.zeros((3, 2)), np.full(3, 2.0), True)]
    path = d4rl_files.write(tmp_path / "own.hdf5", d4rl_files.arrays(episodes))
    given = {"env_id": toys.register(), "env_kwargs": {"horizon": 9}, "obs_keys": []}
    (found,) = checkpoints.find([save(tmp_path / "a", data=given)], "last")
    (tmp_path / "a" / checkpoints.DATA_FILE).unlink()
    found = replace(found, metadata={**found.metadata, "data": str(path)})
    assert checkpoints.data_returns(found).tolist() == [6.0]
    for other in ({"env_kwargs": {"no_such": 1}}, {"env_kwargs": [1]}, {"obs_keys": "ab"}):
        damaged = replace(found, config={"data": given | other})
        assert checkpoints.data_returns(damaged) is None


def test_runs_that_were_evaluated_through_other_wrappers_are_no_seeds_of_one_setting(tmp_path):
    found = checkpoints.find([save(tmp_path / "a", seed=0), save(tmp_path / "b", seed=1)], "last")
    assert len(checkpoints.group(found)) == 1
    wrapped = {**found[0].metadata, "env_wrappers": [("ClipAction", {})]}
    assert len(checkpoints.group([replace(found[0], metadata=wrapped), found[1]])) == 2


def test_targets_are_those_named_or_quantiles_or_the_runs(tmp_path):
    found = checkpoints.find([save(tmp_path / "a")], "last")
    data = np.array([0.0, 10.0])
    assert compare.choose_targets(found, Plan(targets=(5.0,)), data) == (5.0,)
    assert compare.choose_targets(found, Plan(quantiles=(0, 0.5, 0.5)), data) == (0.0, 5.0)
    tiny = compare.choose_targets(found, Plan(quantiles=(0, 0.5, 1)), data / 1e4)
    assert tiny == (0.0, 0.0005, 0.001)
    assert compare.choose_targets(found, Plan(), data) == (1.0, 2.0)
    with pytest.raises(UserError, match=r"--quantiles needs .*--targets"):
        compare.choose_targets(found, Plan(quantiles=(0.5,)), None)
    other = checkpoints.find([save(tmp_path / "b", targets=(1.0, 9.0), seed=1)], "last")
    with pytest.raises(UserError, match="different targets: give --targets"):
        compare.choose_targets(found + other, Plan(), data)


@pytest.mark.parametrize(
    ("plan", "window_of_run", "windows"),
    [
        (Plan(), None, [None]),
        (Plan(), 8, [8]),
        (Plan(window=5), None, [5]),
        (Plan(memory=("carry", "window")), None, [None, 20]),
        (Plan(memory=("window", "carry"), window=5), 8, [5, None]),
        (Plan(memory=("carry",)), 8, [None]),
    ],
)
def test_memory_is_as_planned_or_as_in_the_run(plan, window_of_run, windows):
    assert compare.choose_windows(plan, window_of_run) == windows
