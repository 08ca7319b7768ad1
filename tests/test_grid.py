"""benchmarks.grid: every run is a row, none is repeated, and one that fails stops no other."""

import contextlib
import csv
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import grid, runs
from benchmarks.grid_table import FAILED, FINISHED, Key, Row, Table, means
from envs.errors import UserError
from tests import kills

FOUND = [
    {"target": 10.0, "mean": 12.0, "score": 1.0, "failed": 0},
    {"target": 20.0, "mean": 18.0, "score": 2.5, "failed": 1},
]


class Lost(Exception):
    """What Ray raises where a process or a machine is gone."""


class ImmediateRay:
    """Ray as the grid uses it, in this process: a task is done when it is waited for."""

    exceptions = SimpleNamespace(RayError=Lost)
    cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)

    def __init__(self):
        self.options, self.cancelled = {}, []

    def remote(self, **options):
        self.options = options
        return lambda function: SimpleNamespace(
            remote=lambda *arguments: (function, *map(_hashable, arguments))
        )

    def wait(self, tasks):
        return tasks[:1], tasks[1:]

    def get(self, task):
        function, *arguments = task
        return function(*map(_plain, arguments))

    def cancel(self, task, force):
        self.cancelled.append(task)


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.fixture
def ray(monkeypatch):
    """Put the tasks of the grid into this process, and leave the environment as it was."""
    ray = ImmediateRay()
    monkeypatch.setattr(grid, "_ray", lambda options: contextlib.nullcontext(ray))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return ray


@pytest.fixture
def trained(monkeypatch):
    """Let runs leave results without training; return what was asked of train.py."""
    asked = []

    def train(folder, flags, log):
        asked.append((folder, flags))
        if "broken" in flags:
            raise runs.RunFailed("no cell 'broken'")
        if "lost" in flags:
            raise Lost("the machine is gone\nfor good")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps({"results": {"last": FOUND}}))

    monkeypatch.setattr(runs, "train", train)
    return asked


def cells(out):
    with (out / "grid.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def start(out, *flags, backbones=("mingru", "minlstm"), seeds=("0", "1")):
    own = ["--envs", "a/b", "--backbones", *backbones, "--seeds", *seeds, "--out", str(out)]
    grid.main([*own, *flags])


def test_every_run_is_a_row_and_none_is_repeated(ray, trained, tmp_path, capsys):
    start(tmp_path, "--", "--optim.updates", "5")
    assert [(row["backbone"], row["seed"]) for row in cells(tmp_path)] == [
        *(("mingru", "0"), ("minlstm", "0"), ("mingru", "1"), ("minlstm", "1"))
    ]
    row = cells(tmp_path)[0]
    assert [float(row[name]) for name in ("score", "target", "mean")] == [2.5, 20.0, 18.0]
    assert (float(row["calibration_error"]), row["episodes_failed"]) == (0.1, "1")
    assert trained[0][1] == [
        *("--env", "a/b", "--model.backbone", "mingru", "--seed", "0", "--threads", "1"),
        *("--optim.updates", "5"),
    ]
    assert (
        "| a/b | mingru | 2 of 2 | 2.5 ± 0.0 | 18 ± 0 | 10.0% ± 0.0% |" in capsys.readouterr().out
    )
    start(tmp_path, "--", "--optim.updates", "5", seeds=("0", "1", "2"))
    assert [folder.name for folder, _ in trained[4:]] == ["mingru-seed2", "minlstm-seed2"]
    assert len(cells(tmp_path)) == 6


def test_a_failed_run_is_a_row_and_is_tried_again(ray, trained, tmp_path, monkeypatch):
    backbones = ("broken", "lost", "mingru")
    with pytest.raises(UserError, match="4 of 6 runs failed, the first with: no cell 'broken'"):
        start(tmp_path, backbones=backbones)
    found = {(row["backbone"], row["seed"]): row for row in cells(tmp_path)}
    assert len(found) == 6
    assert found["broken", "0"]["status"] == found["lost", "1"]["status"] == FAILED
    assert found["lost", "1"]["error"] == "the machine is gone"
    assert found["mingru", "0"]["status"] == FINISHED
    monkeypatch.setattr(runs, "train", lambda folder, flags, log: succeed(folder))
    start(tmp_path, backbones=backbones)
    assert [row["status"] for row in cells(tmp_path)] == [FINISHED] * 6
    assert {row["error"] for row in cells(tmp_path)} == {""}


def succeed(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"results": {"last": FOUND}}))


def test_a_stopped_grid_cancels_what_is_left_and_goes_on(ray, trained, tmp_path, monkeypatch):
    def stop(folder, flags, log):
        if len(cells(tmp_path)) == 2 if (tmp_path / "grid.csv").exists() else False:
            raise KeyboardInterrupt
        succeed(folder)

    with monkeypatch.context() as context:
        context.setattr(runs, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path)
    assert len(ray.cancelled) == 1
    assert len(cells(tmp_path)) == 2
    start(tmp_path)
    assert len(trained) == 2
    assert len(cells(tmp_path)) == 4


def test_a_run_that_was_finished_without_its_row_is_read(ray, trained, tmp_path):
    start(tmp_path)
    (tmp_path / "grid.csv").unlink()
    start(tmp_path)
    assert len(trained) == 4
    assert [row["score"] for row in cells(tmp_path)] == ["2.5"] * 4


def test_runs_of_other_flags_are_not_mixed(ray, trained, tmp_path):
    start(tmp_path, "--", "--optim.updates", "5")
    with pytest.raises(UserError, match=r"begun with the flags --optim.updates 5, not \(none\)"):
        start(tmp_path)
    (tmp_path / "flags.json").write_text("{")
    with pytest.raises(UserError, match=r"flags\.json is damaged .*: remove it"):
        start(tmp_path)


@pytest.mark.parametrize("flag", ["--seed", "--model.backbone=gru", "--run_dir"])
def test_what_the_grid_sets_cannot_be_set_again(ray, trained, tmp_path, flag):
    with pytest.raises(UserError, match="is set by the grid"):
        start(tmp_path, "--", flag, "1")
    assert not trained


def test_two_grids_do_not_share_a_folder(ray, trained, tmp_path):
    with grid._alone(tmp_path), pytest.raises(UserError, match="another grid is writing"):
        start(tmp_path)


def test_data_sets_that_would_share_a_folder_are_refused(tmp_path):
    options = grid.Options(envs=("a/b", "a-b"))
    with pytest.raises(UserError, match="would share a folder"):
        grid.plan(options, tmp_path)


def test_ray_is_asked_for_what_a_run_needs(ray, trained, tmp_path):
    start(tmp_path, "--cpus", "2", "--gpus", "0.5")
    assert ray.options == {"num_cpus": 2, "num_gpus": 0.5, "max_retries": 2}
    assert trained[0][1][-2:] == ["--threads", "2"]


def test_a_table_keeps_any_text(tmp_path):
    path = tmp_path / "grid.csv"
    row = Row("a,b", 'x"y', 3, FAILED, seconds=1.5, error='said, "no"\nand left')
    table = Table(path)
    table.put(row)
    table.put(Row("c", "d", 0, FINISHED, 1.0, 2.0, 3.0, 0.25, 0, 9.0, "node", "folder"))
    assert Table(path).rows == table.rows
    assert Table(path).rows[Key("a,b", 'x"y', 3)] == row


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "env,backbone,seed\nx,y,z\n"])
def test_a_table_of_another_kind_is_one_line(tmp_path, text):
    path = tmp_path / "grid.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"line 2 of .* is no run of a grid"):
        Table(path)


def test_means_are_over_finished_runs_alone():
    rows = [Row("e", "b", seed, FINISHED, float(seed), 1, 10.0, 0.1) for seed in (1, 3)]
    rows += [Row("e", "b", 5, FAILED), Row("e", "c", 0, FAILED)]
    assert list(means(rows)) == [
        ["e", "b", "2 of 3", "2.0 ± 1.4", "10 ± 0", "10.0% ± 0.0%"],
        ["e", "c", "0 of 1", "-", "-", "-"],
    ]


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_was_begun_is_gone_on_with(tmp_path, monkeypatch, begun):
    commands = []

    def run(command, **options):
        commands.append(command[1:])
        options["stderr"].write(b"train 50%\rtrain 60%\rTraceback\nerror: no room\n")
        return SimpleNamespace(returncode=2)

    monkeypatch.setattr(subprocess, "run", run)
    folder = tmp_path / "run"
    if begun:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    with pytest.raises(runs.RunFailed, match=r"^no room$"):
        runs.train(folder, ["--seed", "1"], tmp_path / "logs" / "log.txt")
    option = "--resume" if begun else "--run-dir"
    assert commands == [["train.py", option, str(folder), "--seed", "1"]]


def test_without_ray_one_line_names_the_extra(checkout, tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from benchmarks.grid import main; from envs.script import run_script\n"
        f"sys.exit(run_script(lambda: main(['--out', {str(tmp_path / 'out')!r}])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert 'pip install -e ".[grid]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
def test_ray_trains_and_a_second_call_repeats_nothing(checkout, tmp_path, capsys):
    kills.make_data()
    flags = ["--envs", kills.DATA, "--seeds", "0", "--out", str(tmp_path), "--backbones", "mingru"]
    smoke = ["--", "--preset", "smoke"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.grid", *flags, "nosuch", *smoke],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "1 of 2 runs failed, the first with: no cell 'nosuch'" in done.stderr
    rows = {row["backbone"]: row for row in cells(tmp_path)}
    assert rows["mingru"]["status"] == FINISHED
    assert "no cell 'nosuch'" in rows["nosuch"]["error"]
    (report,) = tmp_path.glob("*/mingru-seed0/results.json")
    top = max(json.loads(report.read_text())["results"]["last"], key=lambda row: row["target"])
    assert float(rows["mingru"]["mean"]) == top["mean"]
    before = report.stat().st_mtime_ns
    grid.main([*flags, *smoke])
    assert "1 of 1 runs are finished" in capsys.readouterr().out
    assert report.stat().st_mtime_ns == before
