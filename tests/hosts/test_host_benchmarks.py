"""The commands that compare with Stable-Baselines3: their tasks, tiny runs, and what they show."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sb3_contrib")
pytest.importorskip("tyro")

from benchmarks.host_curves import RECIPES, best, curve
from benchmarks.host_tasks import OPTIMUM, RepeatFirst, make, masked

TINY = ["--tasks", "repeat-first", "--steps", "1664", "--seeds", "0", "--episodes", "2"]


def run(checkout, command, *flags):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{command}", *map(str, flags)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def play(policy, episodes=40):
    envs = RepeatFirst(num_envs=8, length=20)
    obs, _ = envs.reset(seed=0)
    returns, found, kept = np.zeros(8), [], np.zeros(8, int)
    while len(found) < episodes:
        card = obs[:, :4].argmax(1)
        kept = np.where(obs[:, 4] == 1, card, kept)
        obs, reward, done, truncated, infos = envs.step(policy(card, kept))
        assert not truncated.any()
        returns += reward
        found += returns[done].tolist()
        returns[done] = 0
        assert all((infos["final_obs"][row] is not None) == done[row] for row in range(8))
        assert np.array_equal(obs[:, 4] == 1, done)  # the next episode starts at once
    return np.mean(found)


def test_repeat_first_has_the_optimum_that_is_said_and_needs_a_memory():
    assert play(lambda card, kept: kept) == pytest.approx(OPTIMUM["repeat-first"])
    assert play(lambda card, kept: (kept + 1) % 4) == pytest.approx(-1)
    assert play(lambda card, kept: card, 400) == pytest.approx(1.5 / 20 - 0.5, abs=0.05)


def test_repeat_first_for_stable_baselines_counts_returns():
    envs = make("repeat-first", 3, seed=1)
    obs = envs.reset()
    first = obs[:, :4].argmax(1)
    for _ in range(52):
        obs, _, done, infos = envs.step(first)
    assert done.all()
    assert [info["episode"]["r"] for info in infos] == pytest.approx([1.0] * 3)
    assert all(info["terminal_observation"][4] == 0 for info in infos)
    assert (obs[:, 4] == 1).all()


@pytest.mark.parametrize(("task", "shown"), [("Pendulum-v1", 2), ("Hopper-v5", 5)])
def test_velocities_are_not_shown(task, shown):
    if task.startswith("Hopper"):
        pytest.importorskip("mujoco")
    env = masked(task)
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape == (shown,)
    assert obs.dtype == env.observation_space.dtype == np.float32
    full, _ = env.unwrapped.reset(seed=0)
    assert np.array_equal(obs, full[:shown].astype(np.float32))


def test_updates_are_timed_and_drawn(checkout, tmp_path):
    flags = ["--quick", "--steps", "16", "--num-envs", "2", "--width", "8", "--episode", "5"]
    out, found = run(checkout, "hosts", *flags, "--plot", tmp_path / "hosts.png")
    assert (tmp_path / "hosts.png").read_bytes()[1:4] == b"PNG"
    rows = {row["memory"]: row for row in found["updates"]}
    assert len(rows) == 6
    assert rows["LSTM, RecurrentPPO"]["speedup"] == 1
    assert all(row["ms"] > 0 for row in rows.values())
    assert rows["mingru, StackPPO"]["rows"] == rows["LSTM, StackPPO"]["rows"]
    assert rows["mingru, RecurrentPPO"]["rows"] == rows["LSTM, RecurrentPPO"]["rows"]
    assert "| 16 | mingru, StackPPO |" in out


def test_curves_are_made_once(checkout, tmp_path):
    flags = [*TINY, "--out", tmp_path, "--figure", tmp_path / "curves.png"]
    _, found = run(checkout, "host_curves", *flags, "--memories", "minGRU", "none")
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == len(found["runs"]) == 2 * len(RECIPES["repeat-first"])
    made = json.loads(files[0].read_text())
    files[0].write_text(json.dumps(made | {"final": 12.5}))  # is not made again
    old = json.loads(files[1].read_text())
    files[1].write_text(json.dumps(old | {"gamma": 0.1, "final": 12.5}))  # other settings: it is
    _, again = run(checkout, "host_curves", *flags, "--memories", "minGRU", "none")
    assert [row["final"] for row in again["runs"]].count(12.5) == 1
    _, shown = run(checkout, "host_curves", *flags, "--no-run")  # of the others there is none
    assert len(shown["runs"]) == len(files)


def test_a_curve_is_the_mean_of_the_episodes_that_ended():
    points = curve([(10, 1.0), (11, 3.0), (250, 5.0)], steps=250)
    assert points == [(5.0, 1.0), (15.0, 3.0), (245.0, 5.0)]


def test_each_memory_is_drawn_at_its_best_learning_rate():
    def row(memory, rate, final):
        return {
            "task": "repeat-first",
            "learning_rate": rate,
            "decay": False,
            "memory": memory,
            "final": final,
        }

    rows = [row("LSTM", 1, 0.1), row("LSTM", 1, 0.3), row("LSTM", 2, 0.4), row("none", 1, -1.0)]
    assert [(r["memory"], r["learning_rate"]) for r in best(rows)] == [("LSTM", 2), ("none", 1)]
