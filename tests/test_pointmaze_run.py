"""A task of Dict observations, from its data to a success rate, as a user runs it."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("gymnasium_robotics")

from envs.behaviour import pointmaze
from envs.sources import local, minari

DATA = "minrnn/pointmaze/umaze-v0"


@pytest.fixture(scope="module")
def small(minari_folder):
    """A data set under another id, as the recipe of its own is another one."""
    recipes = pointmaze.RECIPES["umaze"]
    pointmaze.RECIPES["umaze"] = replace(recipes, steps=3000)
    try:
        minari.write("test/pointmaze/umaze-v0", **local._pointmaze("pointmaze", "umaze", 0, False))
    finally:
        pointmaze.RECIPES["umaze"] = recipes
    return "test/pointmaze/umaze-v0"


def run(checkout, *arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=checkout,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_and_evaluation_report_the_same_success_rate(checkout, small, tmp_path):
    folder = tmp_path / "run"
    printed = run(checkout, "train.py", "--preset", "smoke", "--env", small, "--run-dir", folder)
    assert "continuing_task=False" in printed
    report = json.loads((folder / "results.json").read_text())
    assert report["protocols"]["last"]["env_kwargs"] == {"continuing_task": False}
    (row,) = report["results"]["last"]
    assert row["score"] is None  # the reference returns are those of another task
    # An episode ends at its success, with its only reward.
    assert row["success"] == [value == 1 for value in row["returns"]]
    assert row["success_rate"] == row["mean"]
    assert all(
        (length < 300) or not won
        for length, won in zip(row["lengths"], row["success"], strict=True)
    )
    printed = run(checkout, "evaluate.py", folder, "--episodes", 2)
    assert f"{100 * row['success_rate']:.1f} %" in printed
    again = json.loads((folder / "report.json").read_text())["results"]["last"]
    assert again == [row]
