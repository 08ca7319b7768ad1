"""A run that is gone on with is the run that was never left, to the bit."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_run import CPU, fit, go_on
from tests_support import tiny_data, tiny_model

from agents import resume
from agents.resume import States, capture, restore
from agents.runlog import RunLog
from agents.stop import Stop, Stopped
from agents.trainer import Trainer
from configs import CheckpointConfig, OptimConfig
from envs.errors import UserError
from envs.fingerprint import fingerprint
from envs.sampler import PackedSampler, WindowSampler
from tests.compare_runs import differences


def make(kind=PackedSampler, seed=0, **optim):
    """Return a fresh trainer with dropout, its random numbers those of a seed."""
    model = tiny_model(dropout=0.2)
    torch.manual_seed(seed)
    sampler = kind(tiny_data(), 4, 8, seed=seed)
    return Trainer(model, sampler, OptimConfig(updates=23, warmup=4, **optim), CPU)


def train_to(trainer, end, every=5):
    """Train to update `end`; return the metrics of every `every` updates, but for the clock's."""
    rows = []
    if trainer.update < end:
        for update in trainer.fit():
            if update % every == 0:
                rows.append({**trainer.metrics(), "updates_per_second": 0})
            if update == end:
                break
    return rows


def tensors_of(trainer):
    """Return all tensors of a trainer's state, with the generator's."""
    return {name: tensor.clone() for name, tensor in capture(trainer)[0].items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("kind", [PackedSampler, WindowSampler])
@pytest.mark.parametrize(
    "optim", [{}, {"ema": 0.9}, {"precision": "bfloat16"}, {"schedule": "constant", "clip": 0.0}]
)
@pytest.mark.parametrize("left_at", [0, 7, 10])
def test_a_restored_trainer_goes_on_to_the_bit(tmp_path, kind, optim, left_at):
    alone = make(kind, **optim)
    expected = train_to(alone, 23)
    first = make(kind, **optim)
    rows = train_to(first, left_at)  # 7 lies in between two lines of the log
    States(tmp_path, 2).save("0", *capture(first))
    train_to(first, 23)  # what comes after the save is lost
    second = make(kind, seed=9, **optim)
    with torch.no_grad():
        second.model.head.weight.add_(1)
    restore(second, *States(tmp_path, 2).newest(second, print))
    assert rows + train_to(second, 23) == expected
    assert_same(tensors_of(second), tensors_of(alone))
    assert second.sampler.state_dict() == alone.sampler.state_dict()


def test_saving_changes_nothing():
    alone = make(ema=0.9)
    expected = train_to(alone, 23)
    saved = make(ema=0.9)
    rows = [row for end in range(1, 24) for row in train_to(saved, end) if capture(saved)]
    assert rows == expected
    assert_same(tensors_of(saved), tensors_of(alone))


def test_what_is_not_finite_is_never_saved():
    trainer = make()
    train_to(trainer, 3)
    with torch.no_grad():
        trainer.model.head.weight.fill_(float("nan"))
    train_to(trainer, 4)
    with pytest.raises(UserError, match="not finite at update 4 "):
        capture(trainer)


def test_the_last_states_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    trainer, told = make(), []
    states = States(tmp_path, 2)
    for end in (2, 4, 6):
        train_to(trainer, end)
        states.save(f"{end:04d}", *capture(trainer))
    assert sorted(os.listdir(tmp_path)) == ["0004", "0006"]
    file = tmp_path / "0006" / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    tensors, facts = states.newest(make(), told.append)
    assert facts["update"] == 4
    assert "0006 is damaged" in told[0]
    # The next one is older than the damaged one, and the newest all the same.
    again = make()
    restore(again, tensors, facts)
    train_to(again, 5)
    states.save("0005", *capture(again))
    assert sorted(os.listdir(tmp_path)) == ["0004", "0005"]
    for folder in tmp_path.iterdir():
        (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"0004 is damaged"):
        states.newest(make(), told.append)


def test_a_state_killed_between_its_renames_is_found(tmp_path):
    trainer, states = make(), States(tmp_path, 2)
    for end in (2, 4):
        train_to(trainer, end)
        states.save(f"{end:04d}", *capture(trainer))
    os.rename(tmp_path / "0004", tmp_path / ".old-0004")
    assert states.newest(make(), print)[1]["update"] == 4
    train_to(trainer, 6)
    states.save("0006", *capture(trainer))
    train_to(trainer, 8)
    states.save("0008", *capture(trainer))
    assert sorted(os.listdir(tmp_path)) == ["0006", "0008"]


def test_a_state_of_another_model_is_refused(tmp_path):
    States(tmp_path, 2).save("0", *capture(make(ema=0.9)))
    with pytest.raises(UserError, match=r"damaged .*average"):
        States(tmp_path, 2).newest(make(), print)


@pytest.mark.parametrize("change", [{"update": None}, {"sampler": []}, {"log": {}}, {"data": 3}])
def test_facts_of_another_shape_are_one_line(tmp_path, change):
    leave(tmp_path / "run", at=5)
    (state,) = (tmp_path / "run" / "state").iterdir()
    facts = json.loads((state / "state.json").read_text())
    (state / "SHA256SUMS").unlink()  # which the first format does not have
    (state / "state.json").write_text(json.dumps({**facts, **change, "format": 1}))
    with pytest.raises(UserError, match="damaged"), go_on(tmp_path / "run"):
        pass


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


def test_a_second_ctrl_c_ends_at_once_and_an_echo_of_the_first_does_not(monkeypatch):
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        monkeypatch.setattr(Stop, "_SAME", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_can_be_played_again_is_broken_off():
    with Stop() as stop, pytest.raises(Stopped), stop.at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), stop.at_once():
            pytest.fail("went on")


def test_other_data_is_refused(tmp_path):
    leave(tmp_path / "run", at=5)
    data = tiny_data()
    reward = data.reward.copy()
    reward[3] += 1
    other = dataclasses.replace(data, reward=reward)
    with pytest.raises(UserError, match=r"not the data that .* was begun with \(12 episodes"):
        go_on(tmp_path / "run", other).__enter__()


def test_a_fingerprint_sees_every_part_of_the_data():
    data = tiny_data()
    seen = {fingerprint(data)["sha256"]}
    for name in ("obs", "action", "reward", "starts", "terminated", "action_low", "action_high"):
        values = getattr(data, name).copy()
        values[-1] = 1 - values[-1]
        seen.add(fingerprint(dataclasses.replace(data, **{name: values}))["sha256"])
    weighted = dataclasses.replace(data, weights=np.ones(12))
    seen.add(fingerprint(weighted)["sha256"])
    assert len(seen) == 9
    assert fingerprint(tiny_data())["sha256"] in seen


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


def test_a_log_is_cut_to_where_it_stood(tmp_path):
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = json.loads(json.dumps(log.position()))
        log.metrics(2, "train", {"loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "tr')
    with RunLog(tmp_path, 10, 1, position) as log:
        log.metrics(2, "train", {"loss": 2.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["train/loss"]) for row in rows] == [(1, 1.0), (2, 2.5)]
    assert rows[1]["seconds"] > position["seconds"]
    alone = tmp_path / "alone"
    alone.mkdir()
    with RunLog(alone, 10) as log:
        log.metrics(1, "train", {"loss": 1.0})
        log.metrics(2, "train", {"loss": 2.5})
    assert differences(alone, tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="shorter than when the state"):
        RunLog(tmp_path, 10, 1, position)


def test_a_watching_tensorboard_forgets_what_was_cut(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watching = EventAccumulator(str(tmp_path / "tensorboard"))
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = log.position()
        log.metrics(2, "train", {"loss": 2.0})
        log.position()
        watching.Reload()
    with RunLog(tmp_path, 10, 1, position) as log:
        log.metrics(2, "train", {"loss": 2.5})
    watching.Reload()
    found = [(event.step, event.value) for event in watching.Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 2.5)]


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
    with pytest.raises(UserError, match=r"has no saved state, which an older minrnn"):
        go_on(tmp_path / "run").__enter__()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == log


CODE = """
import sys, torch; sys.path[:0] = ["tests"]
from hashlib import sha256
from agents import runtime
from agents.trainer import Trainer
from configs import OptimConfig
from envs.sampler import WindowSampler
from small_run import CPU, fit, go_on
from tests_support import tiny_data, tiny_model
runtime.configure(2)
{extra}
model = tiny_model(backbone="{backbone}", dropout=0.1)
sampler = WindowSampler(tiny_data(), 16, 16, seed=3)
trainer = Trainer(model, sampler, OptimConfig(updates=30), torch.device("cpu"))
list(trainer.fit())
weights = torch.cat([p.detach().flatten() for p in model.parameters()])
print(sha256(weights.numpy()).hexdigest())
"""


def test_two_processes_of_one_seed_have_the_same_weights(checkout):
    def weights(backbone, extra=""):
        code = CODE.format(backbone=backbone, extra=extra)
        return subprocess.run(
            [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
        ).stdout

    assert weights("mingru,minlstm") == weights("mingru,minlstm", "runtime.be_deterministic()")


def test_moments_and_generators_are_asked_for_by_name():
    trainer = make(ema=0.9)
    train_to(trainer, 3)
    tensors = capture(trainer)[0]
    wanted = resume.expected(trainer)({}, {name: (t.shape, t.dtype) for name, t in tensors.items()})
    assert wanted == {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
