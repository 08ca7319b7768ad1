"""Episodes whose environment fails: what is played goes on, and every report says so."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import evaluate as evaluate_py
import train
from agents.evaluation import evaluate as evaluation
from agents.evaluation.result import Result, merge_runs
from agents.evaluation.spec import EvalSpec
from agents.machine import device
from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from agents.report import page as html
from agents.report import plots, table
from agents.report import rows as report
from benchmarks.runs import calibration
from configs import ModelConfig
from envs.errors import UserError
from envs.rollout import envpool, rollout
from envs.scoring import statistics
from envs.scoring.protocol import score_protocol
from envs.sources import minari
from envs.worlds.spec import EnvSpec


class Brittle(gym.Env[np.ndarray, np.ndarray]):
    """Three steps of reward 1; of `seeds` it raises an error in the second.

    So it does of those that are one more than a multiple of `every`, and of those beyond `last`.
    """

    every = 0
    last: int | None = None

    def __init__(self, seeds: tuple[int, ...] = ()) -> None:
        self.observation_space = gym.spaces.Box(-9, 9, (3,), np.float64)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.seeds = seeds

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seed, self.steps = seed, 0
        return np.zeros(3), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        bad = self.seed in self.seeds or (self.every and (self.seed or 0) % self.every == 1)
        bad = bad or (self.last is not None and (self.seed or 0) > self.last)
        if bad and self.steps == 2:
            raise RuntimeError("the physics of <this> exploded")
        over = self.steps == 3
        return np.zeros(3), 1.0 + (self.seed or 0) % 2, over, False, {"success": over}


@pytest.fixture(scope="module", autouse=True)
def env_id():
    gym.register("Brittle-v0", "tests.agents.evaluation.test_failures:Brittle")
    yield "Brittle-v0"
    gym.registry.pop("Brittle-v0")


def evaluate(seeds: tuple[int, ...], **more: Any) -> list[Result]:
    spaces = Spaces([0.0] * 3, [1.0] * 3, [-1.0] * 2, [1.0] * 2, 1.0, 0.0, 5.0)
    model = DecisionModel(ModelConfig(dim=8, num_layers=1), spaces)
    spec = EvalSpec((5.0, 2.0), episodes=4, seed=10, num_envs=3, **more)
    return evaluation.evaluate(model, EnvSpec("Brittle-v0", {"seeds": seeds}), spec)


def test_means_are_over_the_episodes_that_finished():
    results = evaluate((11, 13), record=True)
    for result in results:
        assert list(result.failures) == [1, 3]
        assert result.failures[1] == (
            "seed 11, step 1: RuntimeError: the physics of <this> exploded"
        )
        assert result.finished.tolist() == [True, False, True, False]
        assert (result.mean, result.iqm, result.mean_length) == (3.0, 3.0, 3.0)
        assert result.success_rate == 1.0
        assert result.mean_interval == (3.0, 3.0)
        assert result.actions is not None
        assert [len(actions) for actions in result.actions] == [3, 0, 3, 0]


@pytest.mark.parametrize("seeds", [(10, 11, 12), (10, 11, 12, 13)])
def test_more_than_half_of_one_target_is_too_many(seeds):
    with pytest.raises(UserError, match=r"episodes of Brittle-v0.* failed.*seed 1\d, step 1: Runt"):
        evaluate(seeds)


def test_pooled_runs_keep_their_failures_apart():
    one, two = (evaluate(seeds)[0] for seeds in ((11,), (10, 12)))
    pooled = merge_runs([one, two])
    assert list(pooled.failures) == [1, 4, 6]
    assert pooled.mean == (3 + 3 + 6 + 6 + 6) / 5
    low, high = pooled.mean_interval
    assert 3 <= low < pooled.mean < high <= 6
    assert pooled.success_interval == (pytest.approx(0.566, abs=1e-3), 1.0)


def reported() -> tuple[dict[str, list[Result]], report.Report]:
    results = {"last": evaluate((11,)), "best": evaluate(())}
    protocol = score_protocol(
        data="a/b-v0", env="Brittle-v0", targets=[5, 2], episodes=4, seeds=[10], runs=["a"]
    )
    return results, report.as_json(results, dict.fromkeys(results, protocol))


def test_the_report_counts_them_and_says_what_happened():
    _, entries = reported()
    row = entries["results"]["last"][0]
    assert (row["failed"], row["failures"]["1"][:15]) == (1, "seed 11, step 1")
    assert row["returns"] == [3.0, None, 3.0, 6.0]
    assert row["success"] == [True, None, True, True]
    assert entries["results"]["best"][0]["failed"] == 0
    json.dumps(entries, allow_nan=False)
    lines = table.text(entries).splitlines()
    assert lines[0].endswith("  failed")
    assert [line.split()[-1] for line in lines[2:6]] == ["1", "1", "0", "0"]
    assert len({len(line) for line in lines[:6]}) == 1
    assert (
        "last, asked 5: 1 of 4 episodes failed and are in no mean; seed 11, step 1: RuntimeError: "
        "the physics of <this> exploded"
    ) in lines


def test_the_page_and_the_figures_count_them():
    results, entries = reported()
    page = html.page("title", entries, {}, {})
    assert "1 of 4 episodes failed and are in no mean" in page
    assert "&lt;this&gt; exploded" in page
    assert "<th>failed</th>" in page
    assert "<td>failed <small>1 steps</small></td>" in page
    for draw in (plots.calibration, plots.returns):
        figure = draw(results, None, "title")
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert [label for label in labels if "failed" in label]
        assert not [label for label in labels if "best" in label and "failed" in label]


def test_nothing_is_said_where_nothing_failed():
    _, entries = reported()
    entries["results"].pop("last")
    assert "failed" not in table.text(entries)
    assert "failed" not in html.page("title", entries, {}, {})
    assert "failed" not in calibration(entries["results"]["best"], 5.0)


def test_the_tables_of_the_benchmarks_count_them():
    rows = reported()[1]["results"]["last"]
    assert calibration(rows, 5.0).endswith("; 2 episodes failed and are in no mean")


def test_the_best_and_the_worst_are_of_those_that_finished():
    nan = float("nan")
    found = report.best_median_worst([2.0, nan, 3.0, 1.0])
    assert found == {"best": 2, "median": 0, "worst": 3}


def test_an_interval_with_gaps_is_that_of_the_scores_there_are():
    nan = np.nan
    full = statistics.nested_interval([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], statistics.row_means)
    gaps = [[nan, 1.0, 2.0, 3.0], [4.0, 5.0, nan, 6.0]]
    assert statistics.nested_interval(gaps, statistics.row_means) == full
    low, high = statistics.nested_interval([[0.0, nan, nan], [1.0, 1.0, 1.0]], statistics.row_means)
    assert (low, high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="one score of every run"):
        statistics.nested_interval([[1.0], [nan]])


def test_a_run_goes_on_and_its_reports_count(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "configure", lambda threads: None)

    def still(obs: Any, *_: Any) -> Any:
        return np.zeros((len(obs), 2))

    played = rollout("Brittle-v0", still, seeds=range(8), record=True)
    assert played.episodes is not None
    minari.write("failing/brittle-v0", played.episodes, env="Brittle-v0", description="test")
    monkeypatch.setattr(Brittle, "every", 4)
    flags = ["--preset", "smoke", "--env", "failing/brittle-v0", "--eval.targets", "3", "6"]
    flags += ["--eval.episodes", "8", "--eval.quick-episodes", "4"]
    train.main([*flags, "--run-dir", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    happened = "2 of 8 episodes failed and are in no mean; seed 10001, step 1: RuntimeError: the ph"
    assert f"asked 3: {happened}" in printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    for row in results["last"]:
        assert row["failed"] == 2
        assert row["mean"] == 4.0  # of four episodes with 3, and two with 6
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"eval/failed_asked_3": 1' in metrics

    evaluate_py.main([str(tmp_path / "run"), "--checkpoint", "last", "--episodes", "5"])
    assert "1 of 5 episodes failed and are in no mean" in capsys.readouterr().out
    assert "1 of 5 episodes failed" in (tmp_path / "run" / "report.html").read_text()


def test_training_ends_where_its_evaluations_on_the_way_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "configure", lambda threads: None)

    def still(obs: Any, *_: Any) -> Any:
        return np.zeros((len(obs), 2))

    played = rollout("Brittle-v0", still, seeds=range(8), record=True)
    assert played.episodes is not None
    minari.write("failing/later-v0", played.episodes, env="Brittle-v0", description="test")
    monkeypatch.setattr(Brittle, "last", 500_000)  # those of the report are below
    flags = ["--preset", "smoke", "--env", "failing/later-v0", "--eval.targets", "3"]
    train.main([*flags, "--run-dir", str(tmp_path / "run")])
    assert "note   not evaluated; training continues: " in capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert [row["failed"] for row in results["last"]] == [0]
    assert '"eval/failed": 1.0' in (tmp_path / "run" / "metrics.jsonl").read_text()


class FakePool:
    """What pool_rollout needs of envpool: two steps an episode, of reward 1."""

    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, seeds: list[int], bad: tuple[int, ...], what: str) -> None:
        self.bad, self.what, self.steps = np.isin(seeds, bad), what, np.zeros(len(seeds))

    def reset(self) -> Any:
        return np.zeros((len(self.steps), 3)), {}

    def step(self, actions: Any, rows: Any) -> Any:
        self.steps[rows] += 1
        obs, reward = np.zeros((len(rows), 3)), np.ones(len(rows))
        broken = self.bad[rows]
        (obs[:, 0] if self.what == "obs" else reward)[broken] = np.nan
        assert (self.steps[rows] <= 2).all()
        return obs, reward, self.steps[rows] == 2, np.zeros(len(rows), np.bool_), {}


@pytest.mark.parametrize("what", ["obs", "reward"])
def test_envpools_episodes_fail_alone_too(monkeypatch, what):
    def still(obs: Any, *_: Any) -> Any:
        assert np.isfinite(obs).all()
        return np.zeros((len(obs), 2))

    def play(*bad: int) -> Any:
        monkeypatch.setattr(envpool, "_make", lambda _, seeds, *__: FakePool(seeds, bad, what))
        return envpool.pool_rollout("Toy-v0", still, range(7), num_envs=3)

    played = play(1, 4, 5)
    assert sorted(played.failures) == [1, 4, 5]
    np.testing.assert_array_equal(played.returns, [2, np.nan, 2, 2, np.nan, np.nan, 2])
    assert played.terminated.tolist() == [True, False, True, True, False, False, True]
    with pytest.raises(UserError, match="4 of 7 episodes of Toy-v0 failed"):
        play(1, 2, 3, 4)
