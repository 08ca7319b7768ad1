"""D4RL's data sets by name: the URL of each, and the environment of today that fits it.

URLs and reference scores are from D4RL's infos.py and registrations; the scores are in
envs/worlds/catalog.py. The environments of today were compared with D4RL's:

- Hopper, HalfCheetah, Walker2d, Ant: -v4 has D4RL's rewards and friction, -v5 does not.
- Ant: 111 observations, of which D4RL's contact forces (27 to 110) are 0; Ant-v4 has the other 27.
- Adroit: the same observations; pen has 100 steps there, 200 in AdroitHandPen-v1. The -v1 of the
  others adds the hand's distance (x 0.1) to the reward where D4RL subtracts it: gymnasium-robotics,
  pull request 220. What that does to scores was not measured.
- maze2d: the same point mass. Today's mazes have their middle at 0 and another goal each time:
  `maze_map` turns the maze as D4RL has it and fixes the goal, `shift` moves the positions.
- antmaze: likewise. But today's ant differs: 5 times the torque, half the time step.
- kitchen: FrankaKitchen-v1 has velocities instead of the goal, 59 numbers instead of 60.

Not included: the sets of Minigrid, Flow, CARLA and PyBullet, the superseded maze2d-*-v0 and
ant-random-expert-v0, maze2d-eval-*, antmaze-eval-* and antmaze-ultra-*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from envs.worlds.catalog import REFERENCES, Reference
from envs.worlds.spec import EnvSpec

ROOT = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the reader of D4RL's flat layout needs and the file does not say."""

    name: str
    env: EnvSpec = field(default_factory=EnvSpec)
    """The environment of today, where there is one."""
    limit: int | None
    """Steps after which an episode ends if the file does not mark it, None if not known."""
    horizon: int | None = None
    """Steps at which a terminal means the time limit; None if terminals mean something else."""
    shift: tuple[float, ...] = ()
    """Added to the first numbers of observations, to move positions into today's frame."""
    leading: int | None = None
    """How many numbers of an observation to keep if all others are always 0."""
    full_env: EnvSpec | None = None
    """The environment where they are not."""
    goal_runs: bool = False
    """Every step at the goal is marked as terminal; only the first of them ends the episode."""
    open_bounds: bool = False
    """The bounds of actions are those of the data, as no environment gives them."""
    remark: str = ""
    """A note for the user about the environment."""


@dataclass(frozen=True, kw_only=True)
class Entry(Layout):
    """One data set of D4RL."""

    url: str
    family: str
    """The name in envs.worlds.catalog.REFERENCES."""
    sizes: tuple[int, int]
    """Sizes of observations and actions in the file."""

    @property
    def reference(self) -> Reference:
        """The reference returns of its family."""
        return next(row for row in REFERENCES if row.family == self.family)


_WALLS = {
    "open": "####### #.....# #.....# #.....# #######",
    "umaze": "##### #...# ###.# #...# #####",
    "medium": "######## #..##..# #..#...# ##...### #..#...# #.#..#.# #...#..# ########",
    "large": "############ #....#.....# #.##.#.#.#.# #......#...# #.####.###.# "
    "#..#.#.....# ##.#.#.#.### #..#...#...# ############",
}
"""D4RL's mazes, row by row. In maze2d, x is the row and y the column; in antmaze, the other way."""

Cells = list[list[int | str]]


def _cells(maze: str, marks: Mapping[tuple[int, int], str]) -> Cells:
    cells: Cells = [[int(cell == "#") for cell in row] for row in _WALLS[maze].split()]
    for (row, column), mark in marks.items():
        cells[row][column] = mark
    return cells


def _locomotion() -> Iterator[Entry]:
    full = EnvSpec("Ant-v4", {"use_contact_forces": True})
    ant: dict[str, Any] = {"leading": 27, "full_env": full}
    for family, env_id, sizes, more in (
        ("hopper", "Hopper-v4", (11, 3), {}),
        ("halfcheetah", "HalfCheetah-v4", (17, 6), {}),
        ("walker2d", "Walker2d-v4", (17, 6), {}),
        ("ant", "Ant-v4", (111, 8), ant),
    ):
        for version in (0, 1, 2):
            kinds = ["random", "medium", "expert", "medium-replay", "medium-expert"]
            for kind in kinds if version == 0 else [*kinds, "full-replay"]:
                file = f"{family}_{kind.replace('-', '_')}-v{version}"
                url = f"{ROOT}/gym_mujoco_v{version}/{file}.hdf5"
                if version == 0:
                    file = file.removesuffix("-v0").replace("medium_replay", "mixed")
                    file = file.replace("walker2d_mixed", "walker_mixed")
                    url = f"{ROOT}/gym_mujoco/{file}.hdf5"
                name = f"{family}-{kind}-v{version}"
                yield Entry(
                    name=name,
                    url=url,
                    family=family,
                    env=EnvSpec(env_id),
                    sizes=sizes,
                    limit=1000,
                    horizon=1000,
                    **more,
                )


def _adroit() -> Iterator[Entry]:
    files = {"human": "-v0_demos_clipped", "cloned": "-demos-v0-bc-combined"}
    files["expert"] = "-v0_expert_clipped"
    for family, env_id, sizes, limit in (
        ("pen", "AdroitHandPen-v1", (45, 24), 100),
        ("door", "AdroitHandDoor-v1", (39, 28), 200),
        ("hammer", "AdroitHandHammer-v1", (46, 26), 200),
        ("relocate", "AdroitHandRelocate-v1", (39, 30), 200),
    ):
        kwargs = {"max_episode_steps": limit} if family == "pen" else {}
        for kind, file in files.items():
            first = Entry(
                name=f"{family}-{kind}-v1",
                url=f"{ROOT}/hand_dapg_v1/{family}-{kind}-v1.hdf5",
                family=family,
                env=EnvSpec(env_id, kwargs),
                sizes=sizes,
                limit=limit,
                horizon=limit,
            )
            yield first
            url = f"{ROOT}/hand_dapg/{family}{file}.hdf5"
            yield replace(first, name=f"{family}-{kind}-v0", url=url)


def _maze2d() -> Iterator[Entry]:
    for maze, env, version, limit, goal in (
        ("open", "Open", 0, 150, (2, 3)),
        ("umaze", "UMaze", 1, 300, (1, 1)),
        ("medium", "Medium", 1, 600, (6, 6)),
        ("large", "Large", 1, 800, (7, 9)),
    ):
        cells = _cells(maze, {goal: "g"})
        rows, columns = len(cells), len(cells[0])
        turned = [[cells[i][columns - 1 - j] for i in range(rows)] for j in range(columns)]
        for dense in ("", "-dense"):
            file = f"maze2d-{maze}{dense or '-sparse'}{'-v1' if version else ''}"
            yield Entry(
                name=f"maze2d-{maze}{dense}-v{version}",
                url=f"{ROOT}/maze2d/{file}.hdf5",
                family=f"maze2d-{maze}{dense}",
                env=EnvSpec(
                    f"PointMaze_{env}{'Dense' if dense else ''}-v3",
                    {"maze_map": turned, "max_episode_steps": limit},
                    ("observation",),
                ),
                sizes=(4, 2),
                limit=limit,
                # D4RL's walls stand at whole numbers + 1, its point at 1.2 + its position.
                shift=(0.2 - (rows - 1) / 2, 0.2 - (columns - 1) / 2),
            )


def _antmaze() -> Iterator[Entry]:
    names = {"umaze": ("u-maze", "UMaze"), "medium": ("big-maze", "Medium")}
    names["large"] = ("hardest-maze", "Large")
    for maze, kind, goal in (
        ("umaze", "", (3, 1)),
        ("umaze", "-diverse", (3, 1)),
        ("medium", "-play", (6, 6)),
        ("medium", "-diverse", (6, 6)),
        ("large", "-play", (7, 9)),
        ("large", "-diverse", (7, 9)),
    ):
        limit = 700 if maze == "umaze" else 1000
        cells = _cells(maze, {(1, 1): "r", goal: "g"})[::-1]
        middle = [4.0 * (1 - (size - 1) / 2) for size in (len(cells[0]), len(cells))]
        starts, goals = kind != "", kind == "-diverse"
        for version, folder, end in (
            (0, "ant_maze_new", "sparse"),
            (1, "ant_maze_v1", "sparse"),
            (2, "ant_maze_v2", "sparse_fixed"),
        ):
            file = maze if version == 1 else names[maze][0]
            yield Entry(
                name=f"antmaze-{maze}{kind}-v{version}",
                url=f"{ROOT}/{folder}/Ant_maze_{file}_noisy_multistart_{starts}_multigoal_{goals}_"
                f"{end}.hdf5",
                family="antmaze",
                env=EnvSpec(
                    f"AntMaze_{names[maze][1]}-v4",
                    {"maze_map": cells, "continuing_task": False},
                    ("achieved_goal", "observation"),
                ),
                sizes=(29, 8),
                limit=limit,
                shift=(middle[0], middle[1]),
                goal_runs=True,
                remark="today's AntMaze has another ant than D4RL's (5 times the torque, half the "
                "time step): what is learnt from this data need not walk there",
            )


def _kitchen() -> Iterator[Entry]:
    tasks = {"complete": "mini_kitchen_microwave_kettle_light_slider"}
    tasks["partial"] = "kitchen_microwave_kettle_light_slider"
    tasks["mixed"] = "kitchen_microwave_kettle_bottomburner_light"
    for kind, file in tasks.items():
        yield Entry(
            name=f"kitchen-{kind}-v0",
            url=f"{ROOT}/kitchen/{file}-v0.hdf5",
            family="kitchen",
            sizes=(60, 9),
            limit=280,
            horizon=280,
            remark="no environment of today has its 60 observations (FrankaKitchen-v1 has 59, "
            "velocities instead of the goal)",
        )


ENTRIES = {
    entry.name: entry
    for make in (_locomotion, _adroit, _maze2d, _antmaze, _kitchen)
    for entry in make()
}
"""All data sets by name."""
