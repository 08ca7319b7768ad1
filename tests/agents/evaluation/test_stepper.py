"""`--eval.stepper envpool`: it plays during training, and never for a score that is reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from agents.evaluation import evaluate as evaluation
from agents.evaluation.spec import EvalSpec
from agents.storage.checkpoint import load_checkpoint
from envs.errors import UserError
from envs.rollout import rollout
from envs.sources import minari
from envs.worlds.spec import EnvSpec

DATA = "test/stepper/random-v0"


@pytest.fixture(scope="module")
def data(minari_folder: Path) -> str:
    rng = np.random.default_rng(0)

    def act(obs: Any, reward: Any, resets: Any, episode: Any) -> Any:
        return rng.uniform(-1, 1, (len(obs), 3))

    played = rollout("Hopper-v5", act, seeds=range(20), num_envs=4, record=True)
    assert played.episodes is not None
    minari.write(DATA, played.episodes, env="Hopper-v5", algorithm="random", description="test")
    return DATA


def run(data: str, folder: Path, *arguments: str) -> list[tuple[str, int]]:
    """Train the smoke preset; return who played, from which seed on."""
    played: list[tuple[str, int]] = []

    def noting(name: str) -> Any:
        play = getattr(evaluation, name)

        def noted(env_id: str, actor: Any, seeds: list[int], **more: Any) -> Any:
            played.append((name, seeds[0]))
            return play(env_id, actor, seeds, **more)

        return noted

    with pytest.MonkeyPatch.context() as patch:
        # The precision that training likes is not that of other tests.
        patch.setattr("agents.machine.device.configure", lambda threads: None)
        for name in ("rollout", "pool_rollout"):
            patch.setattr(evaluation, name, noting(name))
        train.main(["--preset", "smoke", "--env", data, "--run-dir", str(folder), *arguments])
    return played


def test_only_the_evaluations_during_training_are_envpools(data, tmp_path, capsys):
    pytest.importorskip("envpool")
    folder = tmp_path / "run"
    played = run(data, folder, "--eval.stepper", "envpool")
    assert played[:2] == [("pool_rollout", 1_010_000)] * 2  # at updates 10 and 20
    assert set(played[2:]) == {("rollout", 10_000)}
    report = json.loads((folder / "results.json").read_text())
    model, metadata = load_checkpoint(folder / "last")
    spec = EvalSpec(tuple(metadata["targets"]), episodes=2, seed=10_000, num_envs=4)
    again = evaluation.evaluate(model, EnvSpec("Hopper-v5"), spec)
    for row, result in zip(report["results"]["last"], again, strict=True):
        assert row["returns"] == result.returns.tolist()
    chosen = report["protocols"]["best"]["checkpoint"]
    assert "1 other episodes of envpool's asked for" in chosen
    assert chosen in capsys.readouterr().out


def test_training_does_not_start_where_envpool_cannot_be_used(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[envpool\]"'):
        run(data, tmp_path / "run", "--eval.stepper", "envpool")
    assert not (tmp_path / "run").exists()
    assert run(data, tmp_path / "run", "--eval.episodes", "0", "--eval.stepper", "envpool") == []


def test_another_stepper_is_refused(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        run(data, tmp_path / "run", "--eval.stepper", "brax")
    assert refused.value.code == 2
    printed = capsys.readouterr().err
    assert "gymnasium" in printed
    assert "envpool" in printed


@pytest.mark.parametrize(
    ("keys", "more"), [((), {"record": True}), ((), {"num_procs": 2}), (("x",), {})]
)
def test_what_scores_need_is_not_taken_for_envpool(keys, more):
    env = EnvSpec("Hopper-v5", obs_keys=keys)
    spec = EvalSpec((1.0,), **{"num_procs": 1, "stepper": "envpool", **more})
    with pytest.raises(ValueError, match="envpool takes no"):
        evaluation.evaluate(None, env, spec)
