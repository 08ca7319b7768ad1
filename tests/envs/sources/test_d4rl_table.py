from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pytest

from envs.scoring.references import normalized
from envs.sources.d4rl.table import ENTRIES, Entry
from envs.worlds.catalog import lookup
from envs.worlds.make import env_sizes, make_env, make_raw
from envs.worlds.spec import EnvSpec

MUJOCO = [e for e in ENTRIES.values() if "v4" in e.env.env_id and "AntMaze" not in e.env.env_id]
ROBOTICS = [e for e in ENTRIES.values() if e.env.env_id and e not in MUJOCO]
URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("hopper-medium-replay-v2", "gym_mujoco_v2/hopper_medium_replay-v2.hdf5"),
        ("ant-full-replay-v1", "gym_mujoco_v1/ant_full_replay-v1.hdf5"),
        ("walker2d-medium-expert-v2", "gym_mujoco_v2/walker2d_medium_expert-v2.hdf5"),
        ("walker2d-medium-replay-v0", "gym_mujoco/walker_mixed.hdf5"),
        ("halfcheetah-random-v0", "gym_mujoco/halfcheetah_random.hdf5"),
        ("pen-human-v1", "hand_dapg_v1/pen-human-v1.hdf5"),
        ("hammer-cloned-v0", "hand_dapg/hammer-demos-v0-bc-combined.hdf5"),
        ("door-expert-v0", "hand_dapg/door-v0_expert_clipped.hdf5"),
        ("maze2d-open-v0", "maze2d/maze2d-open-sparse.hdf5"),
        ("maze2d-large-dense-v1", "maze2d/maze2d-large-dense-v1.hdf5"),
        (
            "antmaze-large-play-v2",
            "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_"
            "sparse_fixed.hdf5",
        ),
        (
            "antmaze-umaze-v1",
            "ant_maze_v1/Ant_maze_umaze_noisy_multistart_False_multigoal_False_sparse.hdf5",
        ),
        ("kitchen-complete-v0", "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"),
    ],
)
def test_urls_are_those_of_d4rls_infos(name: str, url: str) -> None:
    assert ENTRIES[name].url == URL + url


def test_every_set_has_a_name_and_a_file_of_its_own() -> None:
    kinds = ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay")
    for env, kind in product(("hopper", "halfcheetah", "walker2d", "ant"), kinds):
        assert f"{env}-{kind}-v2" in ENTRIES
    assert len(ENTRIES) == 4 * (5 + 6 + 6) + 4 * 3 * 2 + 8 + 6 * 3 + 3
    assert len({entry.url.rsplit("/", 1)[1] for entry in ENTRIES.values()}) == len(ENTRIES)
    assert all(name == entry.name for name, entry in ENTRIES.items())


def check_environment(entry: Entry) -> None:
    saved = EnvSpec.from_json(json.loads(json.dumps(entry.env.to_json())))
    assert env_sizes(saved) == (entry.leading or entry.sizes[0], entry.sizes[1])
    env = make_env(saved)
    assert env.spec is not None
    assert env.spec.max_episode_steps == entry.limit == entry.reference.horizon or (
        entry.family == "antmaze"
    )
    env.close()
    spec = lookup(saved)
    assert spec is not None
    assert spec.family == entry.family
    assert spec.maximum == entry.reference.maximum


def one_of_each(entries: list[Entry]) -> list[Entry]:
    return list({(e.env.env_id, e.family): e for e in entries}.values())


@pytest.mark.parametrize("entry", one_of_each(MUJOCO), ids=lambda e: e.name)
def test_locomotion_environments_of_today_have_the_sizes_and_scores(entry: Entry) -> None:
    check_environment(entry)


@pytest.mark.parametrize("entry", one_of_each(ROBOTICS), ids=lambda e: e.name)
def test_robotics_environments_of_today_have_the_sizes_and_scores(entry: Entry) -> None:
    pytest.importorskip("gymnasium_robotics", exc_type=ImportError)
    check_environment(entry)


def test_ant_with_contact_forces_has_all_of_d4rls_observations() -> None:
    entry = ENTRIES["ant-medium-v2"]
    assert entry.full_env is not None
    assert env_sizes(entry.full_env) == entry.sizes


D4RL_MAZES: dict[str, list[str]] = {
    "open": ["#######", "#OOOOO#", "#OOGOO#", "#OOOOO#", "#######"],
    "umaze": ["#####", "#GOO#", "###O#", "#OOO#", "#####"],
    "medium": [
        *("########", "#OO##OO#", "#OO#OOO#", "##OOO###", "#OO#OOO#", "#O#OO#O#", "#OOO#OG#"),
        "########",
    ],
    "large": [
        *("############", "#OOOO#OOOOO#", "#O##O#O#O#O#", "#OOOOOO#OOO#", "#O####O###O#"),
        *("#OO#O#OOOOO#", "##O#O#O#O###", "#OO#OOO#OGO#", "############"),
    ],
}
"""As d4rl/pointmaze/maze_model.py has them."""


@pytest.mark.parametrize("name", ["maze2d-open-v0", "maze2d-umaze-v1", "maze2d-large-dense-v1"])
def test_positions_of_maze2d_are_in_the_same_cells_today(name: str) -> None:
    pytest.importorskip("gymnasium_robotics", exc_type=ImportError)
    entry = ENTRIES[name]
    env: Any = make_raw(entry.env).unwrapped
    for (row, line), column in product(enumerate(D4RL_MAZES[name.split("-")[1]]), range(12)):
        if column >= len(line):
            continue
        # The point's position is measured from 1.2, the walls' from 1.
        centre = np.array([row + 1.0, column + 1.0]) - 1.2
        i, j = env.maze.cell_xy_to_rowcol(centre + entry.shift)
        assert env.maze.maze_map[i][j] == {"#": 1, "O": 0, "G": "g"}[line[column]]
        np.testing.assert_allclose(env.maze.cell_rowcol_to_xy((i, j)), centre + entry.shift)
    env.close()


@pytest.mark.parametrize(
    ("name", "maze", "goal"),
    [
        ("antmaze-umaze-v2", "umaze", (3, 1)),
        ("antmaze-medium-play-v2", "medium", (6, 6)),
        ("antmaze-large-diverse-v2", "large", (7, 9)),
    ],
)
def test_positions_of_antmaze_are_in_the_same_cells_today(
    name: str, maze: str, goal: tuple[int, int]
) -> None:
    pytest.importorskip("gymnasium_robotics", exc_type=ImportError)
    entry = ENTRIES[name]
    env: Any = make_raw(entry.env).unwrapped
    for (row, line), column in product(enumerate(D4RL_MAZES[maze]), range(12)):
        if column >= len(line):
            continue
        # The ant starts at 0, in the cell (1, 1); a cell is 4 wide, x goes along the columns.
        centre = 4.0 * (np.array([column, row]) - 1)
        i, j = env.maze.cell_xy_to_rowcol(centre + entry.shift)
        expected = {goal: "g", (1, 1): "r"}.get((row, column), int(line[column] == "#"))
        assert env.maze.maze_map[i][j] == expected
        np.testing.assert_allclose(env.maze.cell_rowcol_to_xy((i, j)), centre + entry.shift)
    obs, _ = env.reset(seed=0)
    assert np.abs(obs["achieved_goal"] - entry.shift).max() <= 1.0
    env.close()


def test_scores_of_mazes_depend_on_how_the_environment_is_made() -> None:
    np.testing.assert_allclose(normalized([23.85, 161.86], "PointMaze_UMaze-v3"), [0, 100])
    once = {"continuing_task": False}
    assert normalized(1.0, EnvSpec("PointMaze_UMaze-v3", once)) is None
    assert normalized(1.0, EnvSpec("PointMaze_UMaze-v3", {"max_episode_steps": 1000})) is None
    assert normalized(1.0, "PointMaze_Open-v3") is None
    np.testing.assert_allclose(
        normalized(20.66, EnvSpec("PointMaze_Open-v3", {"max_episode_steps": 150})), 100
    )
    assert normalized(1.0, "AntMaze_UMaze-v4") is None
    np.testing.assert_allclose(normalized(1.0, EnvSpec("AntMaze_UMaze-v4", once)), 100)
    np.testing.assert_allclose(normalized(1.0, EnvSpec("AntMaze_Large_Diverse_GR-v5", once)), 100)


def test_scores_of_pen_need_its_hundred_steps() -> None:
    assert normalized(3000.0, "AdroitHandPen-v1") is None  # 200 steps: twice the return
    np.testing.assert_allclose(
        normalized(
            [96.262799, 3076.8331017826877], EnvSpec("AdroitHandPen-v1", {"max_episode_steps": 100})
        ),
        [0, 100],
    )


@pytest.mark.parametrize("tasks", [None, ["kettle"], list("abcdefg"), ["a", "a", "b", "c"], "four"])
def test_scores_of_the_kitchen_need_four_tasks(tasks: object) -> None:
    four = {"tasks_to_complete": ["microwave", "kettle", "light switch", "slide cabinet"]}
    np.testing.assert_allclose(normalized(3.0, EnvSpec("FrankaKitchen-v1", four)), 75)
    stays = {**four, "remove_task_when_completed": False}  # a reward at every step
    assert normalized(3.0, EnvSpec("FrankaKitchen-v1", stays)) is None
    other = {} if tasks is None else {"tasks_to_complete": tasks}
    assert normalized(3.0, EnvSpec("FrankaKitchen-v1", other)) is None
