from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import minari as minari_package
import numpy as np
import pytest

from envs import sources
from envs.behaviour import pointmaze
from envs.behaviour.pointmaze import RECIPES, WaypointController, generate, path
from envs.errors import UserError
from envs.sources import minari

ID = "minrnn/pointmaze/umaze-v0"
OPEN = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


@pytest.fixture
def robotics() -> None:
    pytest.importorskip("gymnasium_robotics")


@pytest.fixture
def small(robotics: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred steps instead of many thousands."""
    for level, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, level, replace(recipe, steps=600))


def test_a_path_leads_around_walls_and_is_a_shortest_one() -> None:
    found = path(OPEN, (1, 1), (3, 3))
    assert (found[0], found[-1], len(found)) == ((1, 1), (3, 3), 5)
    assert all(OPEN[i][j] == 0 for i, j in found)
    assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(found))
    assert path(OPEN, (2, 3), (2, 3)) == [(2, 3)]


class Grid:
    """gymnasium-robotics' Maze for a map whose cell (i, j) has its centre at (j, -i)."""

    maze_map = OPEN

    def cell_xy_to_rowcol(self, xy: np.ndarray) -> np.ndarray:
        return np.array([round(-xy[1]), round(xy[0])])

    def cell_rowcol_to_xy(self, cell: np.ndarray) -> np.ndarray:
        return np.array([cell[1], -cell[0]], float)


def test_the_controller_passes_every_waypoint_and_ends_at_the_goal() -> None:
    controller = WaypointController(Grid(), np.random.default_rng(0))
    goal, at = np.array([3.2, -3.1]), np.array([1.0, -1.0])
    controller.plan(at, goal)
    passed = {(1, 1)}
    for _ in range(2000):
        at = at + 0.001 * np.array(controller.act(*at, 0.0, 0.0))
        passed.add(tuple(Grid().cell_xy_to_rowcol(at).tolist()))
    np.testing.assert_allclose(at, goal, atol=1e-3)
    assert passed == set(path(OPEN, (1, 1), (3, 3)))


def test_force_is_ten_times_the_way_less_the_velocity() -> None:
    controller = WaypointController(Grid(), np.random.default_rng(0))
    controller.plan(np.array([1.0, -1.0]), np.array([1.3, -1.1]))
    assert controller.act(1.0, -1.0, 0.5, -2.0) == pytest.approx((2.5, 1.0))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("level", list(RECIPES))
def test_every_episode_ends_at_its_one_success(level: str) -> None:
    made = generate(level, progress=False)
    assert sum(len(episode.reward) for episode in made) >= 600
    for before, episode in zip([None, *made], made, strict=False):
        goal, position = episode.obs[:, 2:4], episode.obs[:, 4:6]
        assert len(episode.obs) == len(episode.action) + 1
        np.testing.assert_array_equal(episode.obs[:, :2], position)
        assert (goal == goal[0]).all()  # from the first observation on
        distance = np.linalg.norm(position - goal, axis=1)
        np.testing.assert_array_equal(episode.reward, distance[1:] <= 0.45)
        assert episode.reward.sum() == episode.reward[-1] == 1
        assert np.abs(episode.action).max() <= 1
        if before is not None:  # one run without a reset
            np.testing.assert_array_equal(episode.obs[0, 4:], before.obs[-1, 4:])


@pytest.mark.usefixtures("small")
def test_a_seed_decides_everything() -> None:
    first, again, other = (generate("umaze", seed=seed, progress=False) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.action, b.action)
    assert not np.array_equal(first[0].obs[0], other[0].obs[0])


@pytest.mark.usefixtures("small")
def test_minari_knows_the_environment_that_the_data_is_made_for() -> None:
    sources.local.load(ID, progress=False)
    stored = minari_package.load_dataset(ID)
    assert set(stored[0].observations) == {"achieved_goal", "desired_goal", "observation"}
    assert bool(stored[0].truncations[-1])
    recorded = stored.recover_environment().unwrapped
    evaluated = stored.recover_environment(eval_env=True)
    assert recorded.continuing_task
    assert recorded.reset_target
    assert not evaluated.unwrapped.continuing_task
    assert evaluated.spec.max_episode_steps == 300


@pytest.mark.usefixtures("small")
def test_training_gets_the_environment_that_the_data_is_made_for() -> None:
    data = sources.load(ID, progress=False)
    assert (data.env_id, data.env.kwargs) == ("PointMaze_UMaze-v3", {"continuing_task": False})
    assert (data.obs_dim, data.action_dim) == (8, 2)
    assert set(data.returns) == {1.0}
    np.testing.assert_allclose(data.obs[0], generate("umaze", progress=False)[0].obs[0], rtol=1e-6)
    sources.check_env(data)


@pytest.mark.usefixtures("small")
def test_a_changed_recipe_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sources.local.load(ID, progress=False)
    monkeypatch.setattr(pointmaze, "_NOISE", 0.4)
    with pytest.raises(UserError, match="another version of the project; delete"):
        sources.local.load(ID, progress=False)


def test_without_its_package_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium as gym

    monkeypatch.setitem(__import__("sys").modules, "gymnasium_robotics", None)
    monkeypatch.delitem(gym.registry, "PointMaze_UMaze-v3", raising=False)
    with pytest.raises(UserError, match="pip install gymnasium-robotics"):
        sources.load(ID, progress=False)
    assert not minari.exists(ID)


@pytest.mark.usefixtures("robotics")
def test_the_news_of_the_package_stay_off_the_terminal() -> None:
    code = "from envs.worlds.make import make_env; make_env('PointMaze_UMaze-v3').close()"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
