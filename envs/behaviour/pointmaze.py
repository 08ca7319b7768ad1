"""PointMaze data: a noisy waypoint controller that goes from goal to goal, as for Minari's sets.

The recipe is that of D4RL/pointmaze/*-v2 (Farama-Foundation/minari-dataset-generation-scripts,
scripts/pointmaze): one endless run of PointMaze_*-v3 with continuing_task and reset_target, cut
into episodes at each success. Action = 10 (waypoint - position) - velocity + N(0, 0.5), clipped to
-1 and 1; the waypoints are the jittered cells of a shortest path, followed by the goal itself.
Differences: noise is seeded; the first observation of an episode has the new goal, where Minari's
still has the old one; the first waypoint is jittered too.

An episode in the data has one reward, 1 at its end. So agents are evaluated on PointMaze_*-v3 with
continuing_task=False: an episode ends at its success or at the time limit, and its return is 1 or
0. (In the plain environment the agent would have to stay at its goal, which no episode shows.) All
returns in the data are 1: the goal in the observation decides what the agent does, not the target.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from envs.behaviour.generate import progress_bar
from envs.data.trajectories import Episode
from envs.worlds.make import make_env
from envs.worlds.spec import EnvSpec

Cell = tuple[int, int]


@dataclass(frozen=True)
class Recipe:
    """The environment and the length of one recording."""

    env_id: str
    steps: int
    """The least number of steps: the last episode runs to its end."""


RECIPES = {
    "umaze": Recipe("PointMaze_UMaze-v3", 200_000),
    "open": Recipe("PointMaze_Open-v3", 200_000),
    "medium": Recipe("PointMaze_Medium-v3", 400_000),
    "large": Recipe("PointMaze_Large-v3", 600_000),
}
RECORDED = {"continuing_task": True, "reset_target": True, "max_episode_steps": 1_000_000}
"""Arguments of the recorded environment, which never ends."""
EVALUATED = {"continuing_task": False}
"""Arguments of the environment for evaluation: an episode ends at its success."""

_GAIN, _DAMPING, _NOISE, _REACHED, _JITTER = 10.0, 1.0, 0.5, 0.1, 0.2
_RESET_SEED = 123  # Minari's
_MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))


class WaypointController:
    """Drives the point along the cells of a shortest path, then to the goal itself.

    maze: gymnasium-robotics' Maze. `plan` is called at the start of each episode.
    """

    def __init__(self, maze: Any, rng: np.random.Generator) -> None:
        self._maze, self._rng = maze, rng
        self._waypoints: deque[tuple[float, float]] = deque()

    def plan(self, position: NDArray[np.float64], goal: NDArray[np.float64]) -> None:
        """Choose the waypoints from a position (2,) to a goal (2,)."""
        cells = path(self._maze.maze_map, self._cell(position), self._cell(goal))[1:-1]
        jitter = self._rng.uniform(size=(len(cells), 2)) * _JITTER
        centres = [self._maze.cell_rowcol_to_xy(np.array(cell)) for cell in cells]
        inner = [tuple((xy - by).tolist()) for xy, by in zip(centres, jitter, strict=True)]
        self._waypoints = deque([*inner, tuple(goal.tolist())])

    def _cell(self, xy: NDArray[np.float64]) -> Cell:
        row, column = self._maze.cell_xy_to_rowcol(xy)
        return int(row), int(column)

    def act(self, x: float, y: float, vx: float, vy: float) -> tuple[float, float]:
        """Return the force towards the next waypoint, without noise or clipping."""
        to_x, to_y = self._waypoints[0]
        if len(self._waypoints) > 1 and (to_x - x) ** 2 + (to_y - y) ** 2 <= _REACHED**2:
            self._waypoints.popleft()
            to_x, to_y = self._waypoints[0]
        return _GAIN * (to_x - x) - _DAMPING * vx, _GAIN * (to_y - y) - _DAMPING * vy


def path(maze_map: list[list[Any]], start: Cell, end: Cell) -> list[Cell]:
    """Return the cells of a shortest path, both ends included; 1 in the map is a wall.

    Breadth-first search from the end: of equally short paths, the one that value iteration takes.

    Example:
        >>> path([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], (2, 1), (1, 2))
        [(2, 1), (1, 1), (1, 2)]
    """
    distance, queue = {end: 0}, deque([end])
    while queue:
        cell = queue.popleft()
        for near in _neighbours(maze_map, cell):
            if near not in distance:
                distance[near] = distance[cell] + 1
                queue.append(near)
    cells = [start]
    while cells[-1] != end:
        cells.append(min(_neighbours(maze_map, cells[-1]), key=lambda cell: distance[cell]))
    return cells


def _neighbours(maze_map: list[list[Any]], cell: Cell) -> list[Cell]:
    around = [(cell[0] + di, cell[1] + dj) for di, dj in _MOVES]
    return [(i, j) for i, j in around if maze_map[i][j] != 1]


def generate(level: str, *, seed: int = 0, progress: bool = True) -> list[Episode]:
    """Record one of RECIPES, with flat observations; UserError without gymnasium-robotics."""
    recipe = RECIPES[level]
    env = make_env(EnvSpec(recipe.env_id, RECORDED))
    try:
        with progress_bar(recipe.steps, f"making pointmaze {level}", "steps", progress) as bar:
            return _record(env, recipe.steps, seed, bar)
    finally:
        env.close()


def _record(env: Any, steps: int, seed: int, bar: tqdm[Any]) -> list[Episode]:
    world, (noise, jitter) = env.unwrapped, np.random.default_rng(seed).spawn(2)
    controller = WaypointController(world.maze, jitter)
    episodes: list[Episode] = []
    obs, _ = env.reset(seed=_RESET_SEED + seed)
    done = 0
    while done < steps:
        goal = world.goal.copy()
        obs = obs.copy()
        obs[2:4] = goal  # achieved_goal, desired_goal, observation: position and velocity
        controller.plan(obs[:2], goal)
        episode = _to_goal(env, obs, controller, noise)
        obs = episode.obs[-1]
        episodes.append(episode)
        done += len(episode.reward)
        bar.update(len(episode.reward))
    return episodes


def _to_goal(
    env: Any, obs: NDArray[np.float64], controller: WaypointController, noise: np.random.Generator
) -> Episode:
    """Record steps until the goal is reached."""
    seen, actions, rewards = [obs], list[NDArray[np.float32]](), list[float]()
    success = False
    while not success:
        force = np.array(controller.act(*obs[4:].tolist()))
        force += _NOISE * noise.standard_normal(2)
        action = np.minimum(np.maximum(force, -1.0), 1.0).astype(np.float32)
        obs, reward, _, _, info = env.step(action)
        success = info["success"]
        seen.append(obs)
        actions.append(action)
        rewards.append(float(reward))
    return Episode(np.array(seen), np.array(actions), np.array(rewards), terminated=False)


def fingerprint(level: str, seed: int) -> str:
    """Return a digest of everything that decides a data set's contents, except this file's code."""
    constants = (_GAIN, _DAMPING, _NOISE, _REACHED, _JITTER, _RESET_SEED)
    text = repr((RECIPES[level], RECORDED, EVALUATED, constants, seed))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
