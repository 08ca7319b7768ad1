"""The trainer, the saved state, the ranks and the moving average are generic over the objective."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from agents.storage.training_state import States, capture
from agents.training import objectives
from agents.training.objectives import OBJECTIVES, ReturnConditioned
from agents.training.trainer import Trainer
from configs import OptimConfig
from envs.data.sampler import WindowSampler
from envs.errors import UserError
from tests.support import toy_objective
from tests.support.compare_runs import differences
from tests.support.models import tiny_data, tiny_model
from tests.tools import kills

FLAGS = [
    "--preset", "smoke", "--env", kills.DATA, "--optim.objective", "toy_td", "--optim.ema", "0.9",
    "--optim.objective-options", "discount", "0.9", "--optim.updates", "120", "--eval.every", "60",
    "--checkpoint.every", "10", "--model.dropout", "0.1",
]  # fmt: skip


def start(checkout, *flags):
    command = [sys.executable, toy_objective.__file__, *map(str, flags)]
    return subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    printed, _ = process.communicate()
    assert process.returncode == 0, printed.decode()


@pytest.mark.slow
def test_a_run_with_a_critic_and_a_target_that_is_killed_resumes_to_the_bit(checkout, tmp_path):
    kills.make_data()
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(start(checkout, *FLAGS, "--run-dir", alone))
    process = start(checkout, *FLAGS, "--run-dir", killed)
    while len([*killed.glob("state/*/SHA256SUMS")]) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # and not done already
    assert not (killed / "results.json").exists()
    finish(start(checkout, "--resume", killed))
    assert not differences(alone, killed)
    state = load_file(max((alone / "state").iterdir()) / "state.safetensors")
    assert state["moves"] == 120
    assert not torch.equal(state["target.0.weight"], state["value.0.weight"])
    assert {"optimizer.value.0.weight.exp_avg", "average.module.head.mean.weight"} <= state.keys()
    assert not any(name.startswith("optimizer.target") for name in state)
    # What acts is the model alone, and the objective's metrics are in the log.
    assert not any("value" in name for name in load_file(alone / "last" / "model.safetensors"))
    rows = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert all(row["train/td"] > 0 for row in rows if "train/loss" in row)


def test_a_group_with_a_learning_rate_of_its_own_keeps_it():
    made = OBJECTIVES["toy_td"](tiny_model(), lr=0.5)
    assert [group.get("lr") for group in made.param_groups(0.1)] == [None, None, 0.5]


def test_what_is_wrong_with_an_objective_is_one_line():
    with pytest.raises(UserError, match=r"no --optim.objective 'iql'; there is return_conditioned"):
        objectives.make("iql", tiny_model(), {})
    with pytest.raises(UserError, match=r"--optim.objective-options of return_conditioned: .*beta"):
        objectives.make("return_conditioned", tiny_model(), {"beta": 1.0})


def test_a_name_is_one_objectives():
    with pytest.raises(ValueError, match="return_conditioned' is taken by"):

        @objectives.register("return_conditioned")
        class Other(ReturnConditioned):
            pass

    assert OBJECTIVES["return_conditioned"] is ReturnConditioned
    objectives.register("return_conditioned")(ReturnConditioned)  # the same again


class Odd(ReturnConditioned):
    """Metrics as people write them, a part of the model twice, and one group of parameters."""

    def __init__(self, model):
        super().__init__(model)
        self.actor, self.calls = model.head, 0

    def loss(self, batch):
        self.calls += 1
        loss, _ = super().loss(batch)
        metrics = {"q/mean": loss * 2, "q.max": 3.0, "steps": batch.mask.sum()}
        return loss, metrics if self.calls % 2 else {**metrics, "sometimes": loss}

    def param_groups(self, weight_decay):
        return [{"params": list(self.model.head.parameters())}]


def odd(updates=7):
    torch.manual_seed(0)
    sampler = WindowSampler(tiny_data(), 4, 8, seed=0)
    config = OptimConfig(updates=updates, warmup=0, clip=0.0)
    return Trainer(Odd(tiny_model()), sampler, config, torch.device("cpu"))


def test_metrics_of_any_name_and_kind_are_saved_and_restored(tmp_path):
    first, second, states = odd(), odd(), States(tmp_path, 2)
    updates = first.fit()
    for _ in range(5):
        next(updates)
    states.save("0005", *capture(first))
    assert states.restore(second, pytest.fail) is not None
    second.objective.calls = first.objective.calls
    for trainer in (first, second):
        assert [*trainer.fit()] == [6, 7]
    ours, theirs = first.metrics(), second.metrics()
    assert ours.keys() >= {"q/mean", "q.max", "steps", "sometimes"}
    clock = "updates_per_second"
    assert {**ours, clock: 0} == {**theirs, clock: 0}
    weights = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_the_norm_of_the_gradient_is_of_the_parameters_that_are_trained_and_of_one_update():
    trainer = odd()
    for _ in trainer.fit():
        head = torch.cat([p.grad.flatten() for p in trainer.model.head.parameters()])
        torch.testing.assert_close(trainer.pending["grad_norm"][-1], head.norm())


def test_a_metric_with_a_name_of_the_trainers_is_refused(monkeypatch):
    monkeypatch.setattr(
        Odd, "loss", lambda self, batch: (self.model.head.mean.bias.sum(), {"lr": 1})
    )
    with pytest.raises(UserError, match="the trainer has a metric 'lr'"):
        next(odd().fit())
