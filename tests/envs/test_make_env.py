from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
from toys import Walk

from envs.errors import UserError
from envs.make import env_sizes, make_env


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


def test_spaces_that_are_not_flat_boxes_are_refused() -> None:
    class Discrete(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gym.spaces.Discrete(3)  # type: ignore[assignment]

    with pytest.raises(UserError, match="action space Discrete"):
        env_sizes(Discrete)
    assert Walk.live == 0


def test_making_halfcheetah_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    make_env("HalfCheetah-v5").close()
    assert not list(Path.cwd().iterdir())
    assert "deprecated" not in "".join(capfd.readouterr())
