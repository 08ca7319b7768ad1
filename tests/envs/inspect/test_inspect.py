from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs import sources
from envs.data.trajectories import Episode, Trajectories
from envs.inspect import __main__ as inspect
from envs.inspect import histogram, summary
from envs.sources import minari
from tests.support import toys

ID = "me/walk-v0"


@pytest.fixture
def data() -> Trajectories:
    minari.write(ID, toys.episodes([3, 9, 5]), env=toys.register(), description="walks")
    return minari.read(ID)


def test_it_prints_what_the_data_is(
    data: Trajectories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new" / "walk.png"
    assert inspect.main([ID, "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    for expected in ("3, of which 2 were terminated", "least 3", "most 9", "ToyWalk-v0"):
        assert expected in text
    assert f"best {data.returns.max():,.1f}" in text
    assert "repaired      nothing" in text
    assert "#" * histogram.WIDTH in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_has_the_same(data: Trajectories, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([ID, "--json", "--no-plot"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["episodes"], about["steps"], about["observations"]) == (3, 17, toys.OBS)
    assert about["returns"]["mean"] == pytest.approx(data.returns.mean())
    assert about["reference"] is None
    assert about["defect"] is None


def test_scores_and_constant_observations_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    obs = np.random.default_rng(0).normal(size=(4, 11))
    obs[:, 3] = 7.0
    hop = Episode(obs, np.zeros((3, 3)), np.full(3, 3234.3 / 3), True)
    about = summary.describe(Trajectories.from_episodes([hop], env="Hopper-v5", name="hop"))
    assert about["reference"]["best_score"] == pytest.approx(100.0)
    assert about["constant_observations"] == [3]
    text = inspect.report(about)
    assert "best 100.0" in text
    assert "observations 3 never change" in text


def test_data_of_another_environment_is_a_defect() -> None:
    data = Trajectories.from_episodes(toys.episodes([4]), env="Hopper-v5", name="wrong")
    about = summary.describe(data)
    assert "Hopper-v5 has 11 and 3" in about["defect"]
    assert "defect" in inspect.report(about)


def test_an_unknown_id_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main(["hopper-medum-v0"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_is_one_line(
    data: Trajectories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert inspect.main([ID, "--plot", str(tmp_path / "file" / "a.png")]) == 2
    assert "choose another --plot" in capsys.readouterr().err


def test_data_that_is_cut_at_each_success_has_no_score() -> None:
    maze = "PointMaze_UMaze-v3"  # its reference returns are of 300 steps, and stays at the goal
    cut = [replace(e, terminated=False) for e in toys.episodes([20, 300, 70])]
    about = summary.describe(Trajectories.from_episodes(cut, env=maze, name="cut"))
    assert about["reference"] is None
    assert "2 of 3 episodes were cut before the time limit of 300" in inspect.report(about)
    whole = [replace(e, terminated=False) for e in toys.episodes([300, 300, 70])]
    about = summary.describe(Trajectories.from_episodes(whole, env=maze, name="whole"))
    assert about["reference"]["expert"] == 161.86


def test_the_data_sets_own_reference_returns_are_shown() -> None:
    data = replace(toys.data([4, 4]), reference=(0.0, 1.0, "its own"))
    text = inspect.report(summary.describe(data))
    assert f"best {100 * data.returns.max():.1f}" in text
    assert "100: 1; its own" in text


def test_options_may_be_spelled_as_train_py_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main(["hopper-medium-v2", "--data.no-download", "--data.no-cache"]) == 2
    assert "--data.no-download forbids it" in capsys.readouterr().err


def test_ctrl_c_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "load", interrupted)
    assert inspect.main([ID]) == 130
    assert capsys.readouterr().err == "\ninterrupted; nothing that was saved before is lost\n"


def test_a_histogram_of_equal_values_shows_the_value() -> None:
    assert histogram.text(np.ones(2714), width=3).split() == ["1", "###", "2714"]
    assert histogram.text(np.full(2, -3234.5), width=3).split() == ["-3,234.5", "###", "2"]


@pytest.mark.parametrize("values", [[5.0], [1.0, 1.0], [-3e6, 2e7, 4e7], [1e-9, 2e-9]])
def test_a_histogram_counts_every_value(values: list[float]) -> None:
    lines = histogram.text(np.array(values)).splitlines()
    assert sum(int(line.split()[-1]) for line in lines) == len(values)
