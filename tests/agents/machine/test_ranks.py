"""Several ranks train what one process trains, and are resumed when one of them is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agents.evaluation.across_ranks import _to_json, gather
from agents.machine import device as runtime
from agents.machine import ranks as distributed
from agents.machine.ranks import ALONE, Ranks
from configs import cli, saved, to_dict
from envs.data.sampler import PackedSampler, WindowSampler
from envs.errors import UserError
from envs.rollout import Rollout
from tests.support import ranks_worker, torchrun
from tests.support.compare_runs import differences
from tests.support.models import tiny_data
from tests.tools import kills

linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")


@pytest.mark.parametrize("kind", [PackedSampler, WindowSampler])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_rows_of_all_ranks_are_the_batch(kind, ranks):
    every = {"seed": 3, "transitions": True, "inputs": ("prev_reward",)}
    alone = kind(tiny_data(), 5, 9, **every)
    shards = [kind(tiny_data(), 5, 9, **every) for _ in range(ranks)]
    for rank, shard in enumerate(shards):
        shard.shard(rank, ranks)
    for _ in range(20):
        batch, parts = alone.sample(), [shard.sample() for shard in shards]
        for rank, part in enumerate(parts):
            for ours, all_rows in zip(part, batch, strict=True):
                np.testing.assert_array_equal(ours, all_rows[rank::ranks])
                assert ours.flags.c_contiguous
            assert shards[rank].share == pytest.approx(part.mask.sum() / batch.mask.sum())
            assert shards[rank].last_episodes() == alone.last_episodes()
        assert sum(shard.share for shard in shards) == pytest.approx(1.0)
    assert alone.share == 1.0
    assert {json.dumps(s.state_dict()) for s in shards} == {json.dumps(alone.state_dict())}


def test_more_ranks_than_rows_are_refused():
    with pytest.raises(UserError, match="batch of 5 rows cannot be shared by 6 processes"):
        WindowSampler(tiny_data(), 5, 9).shard(0, 6)


class Told(Ranks):
    """One of several ranks, of which the others have said what they have."""

    def __init__(self, rank, said):
        super().__init__(rank, len(said))
        self.said = said

    def gather(self, value):
        assert str(value) == str(self.said[self.rank])  # NaN is not NaN
        return json.loads(json.dumps(self.said))


def cut(rollout, rank, ranks):
    """Return what a rank would have played of a rollout; None where it is nothing."""
    places = range(len(rollout.returns))[rank::ranks]
    if not places:
        return None
    return Rollout(
        rollout.returns[rank::ranks],
        rollout.lengths[rank::ranks],
        rollout.terminated[rank::ranks],
        None if rollout.success is None else rollout.success[rank::ranks],
        failures={i: rollout.failures[p] for i, p in enumerate(places) if p in rollout.failures},
    )


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_shares_of_a_rollout_are_gathered(ranks, says):
    rng = np.random.default_rng(0)
    played = Rollout(
        rng.normal(size=6),
        rng.integers(1, 9, 6),
        rng.random(6) < 0.5,
        rng.random(6) < 0.5 if says else None,
        failures={1: "seed 1, step 3: gone", 5: "seed 5, step 1: gone"},
    )
    played.returns[[1, 5]] = np.nan
    said = [_to_json(cut(played, rank, ranks)) for rank in range(ranks)]
    found = gather(cut(played, ranks - 1, ranks), Told(ranks - 1, said))
    for name in ("returns", "lengths", "terminated", "success"):
        np.testing.assert_array_equal(getattr(found, name), getattr(played, name))
    assert found.failures == played.failures
    assert gather(played, ALONE) is played


def test_one_process_alone_needs_nobody():
    with distributed.join("cpu", seed=0, resumes=False) as (ranks, device), ranks.first():
        assert (ranks, device) == (ALONE, torch.device("cpu"))
        assert ranks.gather([1]) == [[1]]
        before = torch.get_rng_state()
        ranks.seed(4)
        assert torch.equal(before, torch.get_rng_state())


def test_restarts_need_a_run_to_resume(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with (
        pytest.raises(UserError, match="add --run-dir RUN --resume-if-there"),
        distributed.join("cpu", seed=0, resumes=False),
    ):
        pass


@pytest.mark.parametrize(
    ("asked", "rank", "ranks", "expected"),
    [
        ("auto", 1, 2, ("cuda:1", "cpu:gloo,cuda:nccl")),
        ("cuda", 3, 4, ("cuda:1", "gloo")),  # two GPUs for four ranks
        ("cuda:1", 0, 2, ("cuda:1", "gloo")),
        ("cpu", 1, 2, ("cpu", "gloo")),
    ],
)
def test_each_rank_has_a_gpu_of_its_own_where_there_are_enough(
    monkeypatch, asked, rank, ranks, expected
):
    def select(name):
        return torch.device("cuda" if name == "auto" else name)

    monkeypatch.setattr(runtime, "select_device", select)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(device_count=lambda: 2, set_device=str))
    device, backend = distributed.choose(asked, rank, ranks)
    assert (str(device), backend) == expected


def test_a_restarted_command_resumes_its_run(tmp_path, capsys):
    flags = ["--preset", "smoke", "--run-dir", str(tmp_path), "--resume-if-there"]
    begun = cli.parse([*flags, "--seed", "3"], "")
    assert begun.resume is None
    given = replace(begun, data=replace(begun.data, return_scale=7.0))
    (tmp_path / saved.FILE).write_text(json.dumps(to_dict(given)))
    again = cli.parse([*flags, "--seed", "3"], "")
    assert (again.resume, again.data.return_scale) == (tmp_path, 7.0)
    with pytest.raises(SystemExit):
        cli.parse([*flags, "--seed", "4"], "")
    assert "--seed cannot change" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.parse(["--resume-if-there"], "")
    assert "needs --run-dir" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Return what two ranks of ranks_worker left."""
    folder = tmp_path_factory.mktemp("ranks")
    process = torchrun.start(folder, script=ranks_worker.__file__)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ranks_worker.KINDS)
def test_two_ranks_in_double_precision_are_one_process(two_ranks, kind):
    """So what differs in single precision is rounding, and nothing else."""
    alone, half = (ranks_worker.trained(kind, half=half, ema=0.9) for half in (False, True))
    for name, tensor in alone.acting_model.state_dict().items():
        torch.testing.assert_close(two_ranks[0][f"{kind}.{name}"], tensor, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        two_ranks[0][f"{kind}.losses"], torch.stack(alone.pending["loss"]), rtol=0, atol=1e-12
    )
    weight = alone.acting_model.head.mean.weight
    assert (half.acting_model.head.mean.weight - weight).abs().max() > 1e-3  # one rank's rows alone


@pytest.mark.slow
def test_both_ranks_hold_the_same_but_for_random_numbers(two_ranks):
    one, two = two_ranks
    assert [name for name in one if not torch.equal(one[name], two[name])] == ["random"]


@pytest.mark.slow
def test_gradients_are_those_of_torchs_data_parallel(two_ranks):
    torch.testing.assert_close(two_ranks[0]["ours"], two_ranks[0]["theirs"], rtol=0, atol=1e-6)
    assert two_ranks[0]["ours"].abs().max() > 0.01


FLAGS = [
    *("--preset", "smoke", "--env", kills.DATA, "--optim.updates", 100, "--data.batch-size", 20),
    *("--eval.every", 50, "--eval.targets", 20, 60, "--eval.episodes", 3),
    *("--checkpoint.every", 7, "--checkpoint.seconds", 0),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train once with two ranks; return the folder, and that for other runs."""
    kills.make_data()
    # No products in bfloat16, which AMX takes: they would make the smallest rounding error large.
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    folder = tmp_path_factory.mktemp("runs")
    process = torchrun.start(*FLAGS, "--run-dir", folder / "two", "--resume-if-there")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    yield folder
    del os.environ["ONEDNN_MAX_CPU_ISA"]


def python(checkout, *arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def returns(path):
    rows = json.loads(path.read_text())["results"]["last"]
    return [row["returns"] for row in rows]


@pytest.mark.slow
@linux
def test_two_ranks_at_half_the_batch_give_the_weights_of_one_process(checkout, runs):
    python(checkout, "train.py", *FLAGS, "--run-dir", runs / "one")
    one, two = (load_file(runs / name / "last" / "model.safetensors") for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    state = max((runs / "two" / "state").iterdir()) / "state.json"
    assert json.loads(state.read_text())["machine"]["ranks"] == 2
    # The ranks shared the episodes: of one checkpoint, they are those that one process plays.
    copy = shutil.copytree(runs / "two", runs / "copy")
    python(checkout, "evaluate.py", copy, "--episodes", 3)
    assert returns(copy / "results.json") == returns(copy / "report.json")


@pytest.mark.slow
@linux
def test_a_run_whose_rank_is_stopped_and_killed_ends_as_if_it_had_not(runs):
    folder = runs / "killed"
    process = torchrun.start(*FLAGS, "--run-dir", folder, "--resume-if-there")
    torchrun.strike(process, folder, 14, 1, signal.SIGTERM)
    torchrun.strike(process, folder, 63, 1, signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert printed.count("torchrun --nproc-per-node 2 --max-restarts 3 train.py --resume") == 1, (
        printed
    )
    assert printed.count("resumed at update") == 2, printed
    assert "connectFullMesh" not in printed  # every restart found the others at once
    assert differences(runs / "two", folder) == []


@pytest.mark.slow
@linux
def test_sigterm_to_torchrun_lets_the_ranks_save_their_state(runs):
    folder = runs / "stopped"
    flags = ["--checkpoint.every", 0, "--eval.every", 0, "--optim.updates", 100_000]
    process = torchrun.start(*FLAGS, *flags, "--run-dir", folder, "--resume-if-there")
    log = folder / "metrics.jsonl"
    while not log.exists() or not log.read_text():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.terminate()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1  # behind a traceback of torchrun's
    assert f"torchrun --nproc-per-node 2 --max-restarts 3 train.py --resume {folder}" in printed
    assert torchrun.saved(folder) >= 50
