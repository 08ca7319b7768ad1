"""The trainer, the saved state, the ranks and the moving average are generic over the objective."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from agents.training import objectives
from agents.training.objectives import OBJECTIVES
from envs.errors import UserError
from tests.support import toy_objective
from tests.support.compare_runs import differences
from tests.support.models import tiny_model
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
    with pytest.raises(UserError, match=r"no objective 'iql'; there is return_conditioned"):
        objectives.make("iql", tiny_model(), {})
    with pytest.raises(UserError, match=r"--optim.objective-options of return_conditioned: .*beta"):
        objectives.make("return_conditioned", tiny_model(), {"beta": 1.0})
