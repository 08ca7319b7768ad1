"""A restored trainer continues bit for bit, and only from a sound state."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from agents.storage import training_state
from agents.storage.folder_formats import STATE
from agents.storage.training_state import States, capture
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import Trainer
from configs import OptimConfig
from envs.data.sampler import PackedSampler, WindowSampler
from envs.errors import UserError
from envs.files import recover
from tests.support.models import tiny_data, tiny_model
from tests.support.small_run import CPU


def make(kind=PackedSampler, seed=0, **optim):
    """Return a fresh trainer with dropout, its random numbers those of a seed."""
    model = tiny_model(dropout=0.2)
    torch.manual_seed(seed)
    sampler = kind(tiny_data(), 4, 8, seed=seed)
    return Trainer(
        ReturnConditioned(model), sampler, OptimConfig(updates=23, warmup=4, **optim), CPU
    )


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
def test_a_restored_trainer_continues_to_the_bit(tmp_path, kind, optim, left_at):
    alone = make(kind, **optim)
    expected = train_to(alone, 23)
    first = make(kind, **optim)
    rows = train_to(first, left_at)  # 7 lies in between two lines of the log
    States(tmp_path, 2).save("0", *capture(first))
    train_to(first, 23)  # what comes after the save is lost
    second = make(kind, seed=9, **optim)
    with torch.no_grad():
        second.model.head.mean.weight.add_(1)
    States(tmp_path, 2).restore(second, print)
    assert rows + train_to(second, 23) == expected
    assert_same(tensors_of(second), tensors_of(alone))
    assert second.sampler.state_dict() == alone.sampler.state_dict()


class Tied(ReturnConditioned):
    """An objective with a layer that shares its weight with another, and the head by two names."""

    def __init__(self, model):
        super().__init__(model)
        self.again = model.head
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def loss(self, batch):
        imitation, metrics = super().loss(batch)
        return imitation + self.second(self.first(batch.obs)).square().mean(), metrics


def test_weights_that_are_tied_are_so_after_a_resume(tmp_path):
    def tied():
        torch.manual_seed(0)
        objective, sampler = Tied(tiny_model(dropout=0.2)), PackedSampler(tiny_data(), 4, 8)
        return Trainer(objective, sampler, OptimConfig(updates=12, warmup=4), CPU)

    alone = tied()
    train_to(alone, 12)
    expected = tensors_of(alone)
    first, second = tied(), tied()
    train_to(first, 5)
    States(tmp_path, 2).save("0", *capture(first))
    States(tmp_path, 2).restore(second, print)
    assert second.objective.second.weight is second.objective.first.weight
    train_to(second, 12)
    assert_same(tensors_of(second), expected)


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
        trainer.model.head.mean.weight.fill_(float("nan"))
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
    again = make()
    assert states.restore(again, told.append)["update"] == again.update == 4
    assert re.fullmatch(
        r"note   .*0006 is damaged \(.*SHA256SUMS\); resuming from the one before it", told[0]
    )
    assert "train again" not in told[0]
    # The next one is older than the damaged one, and the newest all the same.
    train_to(again, 5)
    states.save("0005", *capture(again))
    assert sorted(os.listdir(tmp_path)) == ["0004", "0005"]
    for folder in tmp_path.iterdir():
        (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"0004 is damaged"):
        states.restore(make(), told.append)


def test_two_states_of_one_update_count_as_one(tmp_path):
    trainer, states = make(), States(tmp_path, 2)
    for end, name in [(2, "0002"), (4, "0004"), (4, "0004-evaluated"), (6, "0006")]:
        train_to(trainer, end)
        states.save(name, *capture(trainer))
    assert sorted(os.listdir(tmp_path)) == ["0004-evaluated", "0006"]
    states.save("0006-evaluated", *capture(trainer))
    assert sorted(os.listdir(tmp_path)) == ["0004-evaluated", "0006-evaluated"]


def test_a_kill_while_an_old_state_is_removed_leaves_no_half_one(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    removed = shutil.rmtree

    def killed(folder, **options):
        if not folder.exists():  # what was written aside has been renamed
            return removed(folder, **options)
        os.unlink(folder / "state.json")
        raise Killed

    trainer, states = make(), States(tmp_path, 1)
    states.save("0000", *capture(trainer))
    train_to(trainer, 2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            states.save("0002", *capture(trainer))
    assert sorted(os.listdir(tmp_path)) == [".writing-0000", "0002"]
    recover(tmp_path)
    assert os.listdir(tmp_path) == ["0002"]


@pytest.mark.parametrize("kind", [PackedSampler, WindowSampler])
@pytest.mark.parametrize(
    "change",
    [
        {"cursor": -5},
        {"cursor": 10**6},
        {"cursor": "1"},
        {"more": 1},
        {"rng": None},
        {"rng": {"bit_generator": "MT19937"}},
        {"rng": {"state": {"state": 1.5, "inc": 3}}},
        {"rng": {"state": {"state": -1, "inc": 3}}},
        {"rng": {"has_uint32": "1"}},
        {"rng": {"uinteger": 2**40}},
    ],
)
def test_an_impossible_sampler_is_damage(tmp_path, kind, change):
    trainer, states, told = make(kind), States(tmp_path, 2), []
    states.save("0000", *capture(trainer))
    train_to(trainer, 2)
    tensors, metadata = capture(trainer)
    for name, value in change.items():
        both = {**metadata["sampler"]["rng"], **value} if isinstance(value, dict) else value
        metadata["sampler"] = {**metadata["sampler"], name: both}
    states.save("0002", tensors, metadata)
    train_to(trainer, 3)
    again = make(kind, seed=9)
    assert states.restore(again, told.append)["update"] == again.update == 0
    assert "0002 is damaged (" in told[0]
    train_to(again, 3)
    assert_same(tensors_of(again), tensors_of(trainer))


def test_a_state_of_a_newer_version_is_not_passed_over(tmp_path, monkeypatch):
    states = States(tmp_path, 2)
    states.save("0002", *capture(make()))
    monkeypatch.setattr(training_state, "STATE", STATE._replace(version=STATE.version + 1))
    states.save("0004", *capture(make()))
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"0004 was written by a newer minrnn .*: update minrnn"):
        states.restore(make(), pytest.fail)


def test_a_state_killed_between_its_renames_is_found(tmp_path):
    trainer, states = make(), States(tmp_path, 2)
    for end in (2, 4):
        train_to(trainer, end)
        states.save(f"{end:04d}", *capture(trainer))
    os.rename(tmp_path / "0004", tmp_path / ".old-0004")
    assert states.restore(make(), print)["update"] == 4
    train_to(trainer, 6)
    states.save("0006", *capture(trainer))
    train_to(trainer, 8)
    states.save("0008", *capture(trainer))
    assert sorted(os.listdir(tmp_path)) == ["0006", "0008"]


def test_a_state_of_another_model_is_refused(tmp_path):
    States(tmp_path, 2).save("0", *capture(make(ema=0.9)))
    with pytest.raises(UserError, match=r"damaged .*average"):
        States(tmp_path, 2).restore(make(), print)


CODE = """
import torch
from hashlib import sha256
from agents.machine import device as runtime
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import Trainer
from configs import OptimConfig
from envs.data.sampler import WindowSampler
from tests.support.models import tiny_data, tiny_model
runtime.configure(2)
{extra}
model = tiny_model(backbone="mingru,minlstm", dropout=0.1)
sampler = WindowSampler(tiny_data(), 16, 16, seed={seed})
trainer = Trainer(ReturnConditioned(model), sampler, OptimConfig(updates=30), torch.device("cpu"))
list(trainer.fit())
weights = torch.cat([p.detach().flatten() for p in model.parameters()])
print(sha256(weights.numpy()).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_of_one_seed_have_the_same_weights(checkout):
    def weights(seed, extra=""):
        code = CODE.format(seed=seed, extra=extra)
        return subprocess.run(
            [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
        ).stdout

    once = weights(3)
    assert once == weights(3, "runtime.be_deterministic()")
    assert once != weights(4)


def test_moments_and_generators_are_asked_for_by_name():
    trainer = make(ema=0.9)
    train_to(trainer, 3)
    tensors = capture(trainer)[0]
    wanted = training_state.expected(trainer)(
        {}, {name: (t.shape, t.dtype) for name, t in tensors.items()}
    )
    assert wanted == {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
