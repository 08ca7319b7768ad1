"""A run is resumed in its folder as if it had not been left, or says why it cannot be."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from agents.evaluation.during_training import Evaluator
from agents.evaluation.result import Result
from agents.runs.folder import finished
from agents.storage import tensor_folder
from agents.storage.training_state import States
from benchmarks import runs
from configs import CheckpointConfig, EvalConfig
from envs.errors import UserError
from tests.support.compare_runs import differences
from tests.support.models import tiny_data
from tests.support.small_run import CPU, fit, go_on


def leave(folder, at, number=signal.SIGTERM):
    """Ask the run to stop when it is at an update; return the exit code."""

    def ask(run):
        sample = run.trainer.sampler.sample

        def signalled():
            if run.trainer.update == at - 1:
                os.kill(os.getpid(), number)
            return sample()

        run.trainer.sampler.sample = signalled
        fit(run)

    with pytest.raises(SystemExit) as ended, go_on(folder) as run:
        ask(run)
    return ended.value.code


def rewrite(state, **change):
    """Change the metadata of a saved state, and its checksum with it."""
    path, sums = state / "state.json", state / "SHA256SUMS"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))


@pytest.mark.parametrize(
    "change",
    [
        {"update": None},
        {"update": -1},
        {"update": 2**63},
        {"sampler": []},
        {"log": {}},
        {"log": {"seconds": 1.0, "metrics": -1, "tensorboard": {}}},
        {"log": {"seconds": 1.0, "tensorboard": {}}},
        {"log": {"seconds": 1.0, "jsonl": {"metrics.jsonl": 5.5}}},
        {"log": {"seconds": 1.0, "jsonl": {}, "tensorboard": 5}},
        {"log": {"seconds": [], "jsonl": {}}},
        {"data": 3},
        {"data": {"episodes": 12, "steps": 3, "sha256": None}},
        {"machine": {}},
        {"machine": {"torch": [], "device": "cpu", "threads": 1, "ranks": 1}},
        {"seconds": -1.0},
        {"seconds": float("inf")},
        {"evaluated": -1},
        {"evaluated": 6},
        {"evaluated": 1.5},
        {"best_update": 1},
        {"best_score": 1.0},
        {"best_score": float("nan"), "best_update": 5, "evaluated": 5},
        {"best_score": float("inf"), "best_update": 5, "evaluated": 5},
        {"best_score": "1", "best_update": 5, "evaluated": 5},
        {"best_score": 1.0, "best_update": 6, "evaluated": 5},
        {"best_score": 1.0, "best_update": True, "evaluated": 5},
    ],
)
def test_impossible_metadata_is_one_line_and_the_state_before_is_taken(tmp_path, capsys, change):
    folder = tmp_path / "run"
    leave(folder, at=5)
    (state,) = (folder / "state").iterdir()
    before = state.with_name("0000000000")
    shutil.copytree(state, before)
    rewrite(state, **change)
    with go_on(folder) as run:
        assert run.trainer.update == 5
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "is damaged (" in line]
    assert "0000000005 is damaged (" in note
    assert "SHA256" not in note
    assert "(tensor " not in note
    shutil.rmtree(before)
    with pytest.raises(UserError, match=r"0000000005 is damaged"), go_on(folder):
        pass


def test_a_run_whose_evaluations_all_failed_is_gone_on_with(tmp_path, capsys):
    leave(tmp_path / "run", at=5)
    with go_on(tmp_path / "run") as run:
        run.evaluated = 5
        run.offer(float("-inf"))
        run.save_state()
    with go_on(tmp_path / "run") as run:
        assert (run.best_score, run.best_update) == (float("-inf"), 5)
    assert "damaged" not in capsys.readouterr().out


def test_states_are_due_by_the_count_of_updates_and_by_the_clock(tmp_path):
    with go_on(tmp_path / "run") as run:
        for every, seconds, expected in [
            (0, 0.0, [False] * 4),
            (2, 0.0, [False, True, False, True]),
            (0, 1e-9, [True] * 4),
            (0, 1e9, [False] * 4),
        ]:
            options = CheckpointConfig(every=every, seconds=seconds)
            run.config = dataclasses.replace(run.config, checkpoint=options)
            found = []
            for run.trainer.update in (1, 2, 3, 4):
                found.append(run.state_due())
            assert found == expected


def test_signals_save_and_say_how_to_go_on(tmp_path, capsys):
    with go_on(tmp_path / "alone") as run:
        fit(run)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert leave(tmp_path / "run", at=17, number=signal.SIGTERM) == 143
    assert leave(tmp_path / "run", at=60, number=signal.SIGINT) == 130
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    printed = capsys.readouterr().out
    assert "stopped at update 17" in printed
    assert "stopped at update 60" in printed
    assert printed.count(f"python train.py --resume {tmp_path / 'run'}\n") == 2
    with go_on(tmp_path / "run") as run:
        fit(run)
    assert differences(tmp_path / "alone", tmp_path / "run") == []


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    with go_on(tmp_path / "alone") as run:
        fit(run)
    now = [time.time()]

    def earlier():
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    leave(tmp_path / "run", at=37)
    leave(tmp_path / "run", at=81)
    with go_on(tmp_path / "run") as run:
        fit(run)
    monkeypatch.undo()
    assert differences(tmp_path / "alone", tmp_path / "run") == []
    steps = []
    for name in ("alone", "run"):
        board = EventAccumulator(str(tmp_path / name / "tensorboard")).Reload()
        steps.append([event.step for event in board.Scalars("train/loss")])
    assert steps[0] == steps[1] == [50, 60, 100, 120, 130]


def test_other_data_is_refused(tmp_path):
    leave(tmp_path / "run", at=5)
    data = tiny_data()
    reward = data.reward.copy()
    reward[3] += 1
    other = dataclasses.replace(data, reward=reward)
    with pytest.raises(UserError, match=r"not the data that .* was started with \(12 episodes"):
        go_on(tmp_path / "run", other).__enter__()


def test_two_processes_do_not_train_one_run(tmp_path):
    with go_on(tmp_path / "run"), pytest.raises(UserError, match="another process"):
        go_on(tmp_path / "run").__enter__()
    with go_on(tmp_path / "run"):
        pass


def test_other_threads_are_noted(tmp_path, capsys):
    leave(tmp_path / "run", at=5)
    torch.set_num_threads(2)
    try:
        with go_on(tmp_path / "run"):
            pass
    finally:
        torch.set_num_threads(1)
    assert "note   threads was 1, is 2: rounding may differ" in capsys.readouterr().out


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_other_ranks_are_noted_with_what_becomes_of_dropout(tmp_path, capsys, dropout):
    folder = tmp_path / "run"
    leave(folder, at=5)
    (state,) = (folder / "state").iterdir()
    machine = json.loads((state / "state.json").read_text())["machine"]
    rewrite(state, machine={**machine, "ranks": 2})
    run = go_on(folder)
    run.config = dataclasses.replace(
        run.config, model=dataclasses.replace(run.config.model, dropout=dropout)
    )
    with run:
        pass
    more = ", and dropout draws other random numbers" * bool(dropout)
    printed = f"note   ranks was 2, is 1: rounding may differ from here on{more}\n"
    assert printed in capsys.readouterr().out


def test_a_run_that_is_not_evaluated_leaves_the_mark_of_its_end(tmp_path):
    with go_on(tmp_path / "run") as run:
        fit(run)
        assert not finished(tmp_path / "run")
        summary = train.report(run, Evaluator(run.config, run.data, CPU))
    assert "not evaluated, as --eval.episodes is 0" in summary
    assert finished(tmp_path / "run")
    left = json.loads((tmp_path / "run" / "results.json").read_text())
    assert left["results"] == {}
    assert left["protocols"]["last"]["checkpoint"] == "last (update 130)"
    with pytest.raises(SystemExit, match=r"error: .*run was trained with --eval\.episodes 0"):
        runs.results(tmp_path / "run", [])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_names_the_file_and_how_to_go_on(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    leave(folder, at=5)
    on = rf"; free some space, then resume: python train\.py --resume {folder}$"

    def train_with(disk):
        with go_on(folder) as run:
            run.log._loggers["jsonl"].file.close()
            run.log._loggers["jsonl"].file = disk
            fit(run)

    log = rf"cannot write {folder}/metrics\.jsonl: .*No space.*{on}"
    with pytest.raises(UserError, match=log), open("/dev/full", "a", buffering=1) as disk:
        train_with(disk)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_folder, "save_file", full)
    state = rf"cannot write {folder}/state/0{{8}}50: .*No space.*{on}"
    with pytest.raises(UserError, match=state), go_on(folder) as run:
        fit(run)


def test_ctrl_c_before_a_run_has_gone_on_says_how_to(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    leave(folder, at=5)
    capsys.readouterr()
    monkeypatch.setattr(train, "begin", interrupt)
    with pytest.raises(SystemExit) as ended:
        train.main(["--resume", str(folder)])
    assert ended.value.code == 130
    assert capsys.readouterr().err.endswith(f"\npython train.py --resume {folder}\n")
    with pytest.raises(KeyboardInterrupt):  # there is nothing to go on with
        train.main(["--run-dir", str(tmp_path / "other")])
    monkeypatch.setattr(States, "restore", interrupt)
    with pytest.raises(SystemExit), go_on(folder):
        pass
    assert capsys.readouterr().err.endswith(f"\npython train.py --resume {folder}\n")


def test_a_diverged_run_names_its_last_checkpoint(tmp_path):
    def diverge(run, at):
        sample = run.trainer.sampler.sample

        def poisoned():
            batch = sample()
            return batch._replace(obs=batch.obs * np.nan) if run.trainer.update == at else batch

        run.trainer.sampler.sample = poisoned
        fit(run)

    with pytest.raises(UserError, match="nothing was saved before it"), go_on(tmp_path / "a") as a:
        diverge(a, 3)
    last = rf"not finite at update 71 .*{tmp_path / 'b' / 'last'} is the last checkpoint before it"
    with pytest.raises(UserError, match=last), go_on(tmp_path / "b") as b:
        diverge(b, 70)
    newest = max(os.listdir(tmp_path / "b" / "state"))
    assert newest == "0000000070"  # before the update that diverged


def test_a_run_killed_before_its_first_save_begins_again(tmp_path):
    folder = tmp_path / "run"
    with go_on(tmp_path / "alone") as run:
        fit(run)
    with go_on(folder) as run:
        for update in run.trainer.fit():
            if update == 5:
                break
        run.log.metrics(5, "train", run.trainer.metrics())
    (folder / ".writing-config.json").write_text("{")
    (folder / "state").mkdir()
    (folder / "state" / ".writing-x1").mkdir()
    with go_on(folder) as run:
        assert run.trainer.update == 0
        fit(run)
    assert differences(tmp_path / "alone", folder) == []


def test_a_run_without_state_is_left_alone(tmp_path):
    leave(tmp_path / "run", at=70)
    shutil.rmtree(tmp_path / "run" / "state")
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(
        UserError, match=r"has no saved state: .*, or it was removed; start another"
    ):
        go_on(tmp_path / "run").__enter__()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == log


def test_a_damaged_log_does_not_keep_a_run_from_its_end(tmp_path, capsys):
    class Plays(Evaluator):
        def final(self, models):
            return {"last": [Result(1.0, np.ones(1), np.ones(1, np.int64))]}

    folder = tmp_path / "run"
    leave(folder, at=70)
    log = folder / "metrics.jsonl"
    log.write_bytes(b"[\xff" + log.read_bytes()[2:])
    with go_on(folder) as run:
        fit(run)
        evaluated = dataclasses.replace(run.config, eval=EvalConfig(episodes=1, targets=(1.0,)))
        run.config = evaluated
        train.report(run, Plays(evaluated, run.data, CPU))
    assert finished(folder)
    assert (folder / "curve.png").exists()
    assert f"note   {log}: 1 damaged line left out" in capsys.readouterr().out
