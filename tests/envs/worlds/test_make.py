from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from envs.errors import UserError
from envs.worlds.make import action_bounds, env_sizes, make_env, registered, time_limit
from envs.worlds.spec import EnvSpec
from tests.support.toys import Walk


def test_an_unknown_environment_names_near_matches() -> None:
    with pytest.raises(UserError, match=r"near matches: .*Hopper-v5") as caught:
        make_env("Hoper-v5")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "env_id", ["Hopper-v99", "not an id", "", "nobody/has-this-v0", "Hopper-v2"]
)
def test_every_bad_id_is_one_clear_line(env_id: str) -> None:
    with pytest.raises(UserError) as caught:
        make_env(env_id)
    assert "\n" not in str(caught.value)


def test_robotics_environments_name_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gymnasium_robotics", None)
    monkeypatch.delitem(gym.registry, "AdroitHandDoor-v1", raising=False)
    with pytest.raises(UserError, match="pip install gymnasium-robotics"):
        make_env("AdroitHandDoor-v1")


def test_a_robot_that_the_newest_mujoco_breaks_names_the_older_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks() -> None:
        raise AssertionError

    monkeypatch.setitem(
        gym.registry, "FrankaKitchen-v1", gym.envs.registration.EnvSpec("FrankaKitchen-v1", breaks)
    )
    with pytest.raises(UserError, match=r'FrankaKitchen-v1 does not work .*"mujoco<3.17"'):
        make_env("FrankaKitchen-v1")


@pytest.mark.parametrize(
    ("env_id", "sizes"),
    [("Hopper-v5", (11, 3)), ("HalfCheetah-v5", (17, 6)), ("Walker2d-v4", (17, 6))],
)
def test_sizes_are_those_of_the_spaces(env_id: str, sizes: tuple[int, int]) -> None:
    assert env_sizes(env_id) == sizes


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    Walk.live = 0
    yield
    assert Walk.live == 0


@pytest.mark.usefixtures("nothing_left_open")
def test_spaces_that_are_not_flat_boxes_are_refused() -> None:
    class Discrete(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gym.spaces.Discrete(3)  # type: ignore[assignment]

    with pytest.raises(UserError, match="action space Discrete"):
        env_sizes(Discrete)


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("space", [gym.spaces.Discrete(2), gym.spaces.Box(-1, 1, (2, 2))])
def test_bounds_are_of_vectors_of_actions_only(space: gym.Space) -> None:
    class Other(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = space  # type: ignore[assignment]

    with pytest.raises(UserError, match="Other has the action space"):
        action_bounds(Other)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of one's own that registers an environment when it is imported."""
    name = "toy_package_of_ones_own"
    for version, steps in ((0, 30), (1, 50)):
        with (tmp_path / f"{name}.py").open("a") as file:
            file.write(
                f"import gymnasium\n"
                f"gymnasium.register('ToyOwn-v{version}', "
                f"'tests.support.toys:Walk', max_episode_steps={steps})\n"
            )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)
    for version in (0, 1):
        gym.registry.pop(f"ToyOwn-v{version}", None)


def test_the_limit_of_an_environment_that_its_module_registers_is_found(module: str) -> None:
    assert time_limit(f"{module}:ToyOwn-v0") == 30
    assert time_limit(f"{module}:ToyOwn") == 50  # the latest, as gym.make has it
    assert time_limit(EnvSpec(f"{module}:ToyOwn-v0", {"max_episode_steps": 7})) == 7
    assert time_limit(EnvSpec(f"{module}:ToyOwn-v0", {"max_episode_steps": -1})) is None


@pytest.mark.parametrize(
    "env_id", ["", "nobody_has_this:ToyOwn-v0", "not an id", "tests.support.toys:Nobody"]
)
def test_what_is_not_registered_is_not_found(env_id: str) -> None:
    assert registered(env_id) is None
    assert time_limit(env_id) is None


def test_making_halfcheetah_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    make_env("HalfCheetah-v5").close()
    assert not list(Path.cwd().iterdir())
    assert "deprecated" not in "".join(capfd.readouterr())


INTERRUPTED = {
    "with a cause": """
try:
    raise KeyboardInterrupt
except KeyboardInterrupt as interrupt:
    raise ImportError("failed") from interrupt""",
    "twice": """
import gymnasium
try:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise ImportError("failed")
except ImportError as error:
    raise gymnasium.error.DependencyNotInstalled("it is not installed") from error""",
}


@pytest.mark.parametrize("how", INTERRUPTED)
@pytest.mark.parametrize(
    ("use", "package", "env_id"),
    [
        (make_env, "toy_package", "toy_package:Toy-v0"),
        (registered, "toy_package", "toy_package:Toy-v0"),
        (make_env, "gymnasium_robotics", "AdroitHandDoor-v1"),
        (registered, "gymnasium_robotics", "AdroitHandDoor-v1"),
        (make_env, "mujoco", "Hopper-v5"),
    ],
)
def test_ctrl_c_while_a_package_is_imported_is_not_that_it_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    use: Callable[[str], object],
    package: str,
    env_id: str,
) -> None:
    (tmp_path / f"{package}.py").write_text(INTERRUPTED[how])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    if package != "mujoco":
        monkeypatch.delitem(gym.registry, env_id, raising=False)
    with pytest.raises(KeyboardInterrupt):
        use(env_id)


def test_an_opengl_that_is_missing_is_one_line_and_concerns_mujoco_alone(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from envs.errors import UserError\n"
        "from envs.worlds.make import make_env\n"
        "make_env('CartPole-v1')\n"
        "for env_id in ('Hopper-v5', 'PointMaze_UMaze-v3'):\n"
        "    try:\n"
        "        make_env(env_id)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["Hopper-v5", "PointMaze_UMaze-v3"]
    assert all("does not start with MUJOCO_GL=nothing (" in line for line in lines)
    assert all("unset MUJOCO_GL" in line for line in lines)
