"""Evaluation in environments with arguments, parts and successes; and what is reported of it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.evaluation import evaluate as evaluation
from agents.evaluation.result import Result
from agents.evaluation.spec import EvalSpec
from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from agents.report import rows, table
from agents.storage import checkpoint
from configs import ModelConfig
from envs.errors import UserError
from envs.scoring.protocol import score_protocol
from envs.worlds.spec import EnvSpec

OBS = 3
LINE = EnvSpec("Line-v0")


class Line(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """`horizon` steps of reward 1; the last is a success where the seed is even."""

    def __init__(self, horizon: int = 4, speaks: bool = True) -> None:
        box = gym.spaces.Box(-9, 9, (1,), np.float64)
        self.observation_space = gym.spaces.Dict(dict.fromkeys("cba", box))
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.horizon, self.speaks = horizon, speaks

    def _obs(self) -> dict[str, np.ndarray]:
        return {name: np.array([float(i)]) for i, name in enumerate("abc")}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.even, self.steps = seed is not None and seed % 2 == 0, 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        over = self.steps == self.horizon
        info = {"success": over and self.even} if self.speaks else {}
        return self._obs(), 1.0, over, False, info


@pytest.fixture(scope="module", autouse=True)
def env_id():
    gym.register("Line-v0", Line)
    yield "Line-v0"
    gym.registry.pop("Line-v0")


def model(obs_dim: int = OBS) -> DecisionModel:
    spaces = Spaces([0.0] * obs_dim, [1.0] * obs_dim, [-1.0] * 2, [1.0] * 2, 1.0, 0.0, 5.0)
    return DecisionModel(ModelConfig(dim=8, num_layers=1), spaces)


def evaluate(obs_dim: int = OBS, env: EnvSpec = LINE, **more: Any) -> list[Result]:
    spec = EvalSpec((5.0, 2.0), episodes=3, seed=10, num_envs=4, **more)
    return evaluation.evaluate(model(obs_dim), env, spec)


def test_successes_lie_with_their_episodes():
    results = evaluate()
    assert [r.success.tolist() for r in results if r.success is not None] == [
        [True, False, True]
    ] * 2
    assert [r.success_rate for r in results] == [pytest.approx(2 / 3)] * 2
    assert [r.returns.tolist() for r in results] == [[4.0] * 3] * 2


def test_arguments_and_keys_reach_the_environment():
    results = evaluate(2, EnvSpec("Line-v0", {"horizon": 7}, ("c", "a")))
    assert results[1].lengths.tolist() == [7, 7, 7]
    with pytest.raises(UserError, match=r"sizes \(2, 2\), Line-v0 has \(3, 2\)"):
        evaluate(2)


def reported(**kwargs: Any) -> tuple[str, dict[str, Any]]:
    env = EnvSpec("Line-v0", kwargs)
    protocol = score_protocol(data="a/b-v0", env=env, targets=[5, 2], episodes=3, seeds=[10])
    results = {"last": evaluate(env=env)}
    report = rows.as_json(results, {"last": protocol})
    return table.text(report), report


def test_the_report_has_the_rate_where_there_is_one():
    printed, entries = reported(horizon=5)
    assert "success" in printed.splitlines()[0]
    assert "66.7 %" in printed.splitlines()[2]
    assert "horizon=5" in printed
    row = entries["results"]["last"][0]
    assert row["success"] == [True, False, True]
    low, high = row["success_interval_95"]
    assert low < row["success_rate"] < high


def test_and_nothing_of_it_where_there_is_none():
    printed, entries = reported(speaks=False)
    assert "success" not in printed
    assert not [key for key in entries["results"]["last"][0] if "success" in key]


def test_the_data_sets_own_reference_returns_make_the_score():
    protocol = score_protocol(
        data="a/b-v0",
        env="Hopper-v5",
        targets=[5, 2],
        episodes=3,
        seeds=[10],
        own=(2.0, 12.0, "its own"),
    )
    results = {"last": evaluate()}  # 4 each
    report = rows.as_json(results, {"last": protocol})
    assert report["results"]["last"][0]["score"] == pytest.approx(20)
    printed = table.text(report)
    assert "20.0" in printed.splitlines()[2].split()
    assert "its own" in printed
    assert "D4RL" not in printed


def test_columns_line_up_with_their_headings():
    for speaks in (True, False):
        heading, line, first, second = reported(speaks=speaks)[0].splitlines()[:4]
        assert len(heading) == len(line) == len(first) == len(second)


def test_a_checkpoint_remembers_the_environment(tmp_path):
    metadata = {
        "env_id": "Line-v0",
        "data": "a/b-v0",
        "targets": [1.0],
        "update": 1,
        "window": None,
    }
    checkpoint.save_checkpoint(tmp_path / "old", model(), metadata)
    assert checkpoint.load_checkpoint(tmp_path / "old")[1]["env_kwargs"] == {}
    world = {"env_kwargs": {"horizon": 7}, "obs_keys": ["c", "a"]}
    checkpoint.save_checkpoint(tmp_path / "new", model(2), metadata | world)
    acting, loaded = checkpoint.load_checkpoint(tmp_path / "new")
    assert {key: loaded[key] for key in world} == world
    spec = EvalSpec((1.0,), episodes=1, seed=0, num_envs=1)
    played = evaluation.evaluate(acting, EnvSpec.from_json(loaded), spec)
    assert played[0].lengths.tolist() == [7]


@pytest.mark.parametrize(("engine", "procs"), [("numba", 3), ("eager", 1)])
def test_processes_of_its_own_choice_cannot_change_a_score(monkeypatch, engine, procs):
    taken = []
    monkeypatch.setattr(evaluation, "choose_num_procs", lambda steps: 3)
    play = evaluation.rollout

    def alone(*given: Any, num_procs: int, **more: Any) -> Any:
        taken.append(num_procs)
        return play(*given, **more)

    monkeypatch.setattr(evaluation, "rollout", alone)
    evaluate(engine=engine, num_procs=None)
    assert taken == [procs]
