"""benchmarks.grid: every run is a row, none is repeated, and one that fails stops no other."""

import contextlib
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import grid, runs
from benchmarks.grid_table import FAILED, FINISHED, Key, Row, Table, means
from envs.errors import UserError
from tests.tools import kills

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

    def wait(self, tasks, num_returns=1, timeout=None):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        function, *arguments = task
        return function(*map(_plain, arguments))

    def cancel(self, task, force):
        assert not force, "it would be killed, and not save its state"
        self.cancelled.append(task)


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.fixture
def ray(monkeypatch):
    """Put the tasks of the grid into this process, and leave the environment as it was."""
    ray = ImmediateRay()
    monkeypatch.setattr(grid, "connected", lambda *_: contextlib.nullcontext(ray))
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_grid_asks_the_others_to_stop_and_goes_on(
    ray, trained, tmp_path, monkeypatch, capsys, number, code
):
    def stop(folder, flags, log):
        if (tmp_path / "grid.csv").exists() and len(cells(tmp_path)) == 2:
            os.kill(os.getpid(), number)
        succeed(folder)

    with monkeypatch.context() as context:
        context.setattr(runs, "train", stop)
        with pytest.raises(SystemExit) as caught:
            start(tmp_path)
    assert caught.value.code == code
    assert len(ray.cancelled) == 1
    assert len(cells(tmp_path)) == 3
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("stopped, 3 of 4 runs are finished; to go on: python -m benchmarks.grid")
    start(tmp_path)
    assert len(trained) == 1
    assert len(cells(tmp_path)) == 4


def test_ctrl_c_before_ray_listens_tells_how_to_go_on(tmp_path, monkeypatch, capsys):
    @contextlib.contextmanager
    def connected(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(grid, "connected", connected)
    with pytest.raises(SystemExit) as caught:
        start(tmp_path)
    assert caught.value.code == 130
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("stopped, 0 of 4 runs are finished; to go on: python -m benchmarks.grid")


def test_nothing_heavy_is_imported_before_ctrl_c_is_caught(checkout):
    code = "import sys, benchmarks.grid; sys.exit(bool({'torch', 'ray'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


def test_a_run_that_was_finished_without_its_row_is_read(ray, trained, tmp_path):
    start(tmp_path)
    (tmp_path / "grid.csv").unlink()
    start(tmp_path)
    assert len(trained) == 4
    assert [row["score"] for row in cells(tmp_path)] == ["2.5"] * 4


def test_a_run_without_an_evaluation_is_finished_and_has_no_score(
    ray, trained, tmp_path, monkeypatch, capsys
):
    def train(folder, flags, log):
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"protocol": {}, "results": {}}))

    with monkeypatch.context() as context:
        context.setattr(runs, "train", train)
        start(tmp_path, backbones=["mingru"], seeds=["0"])
    assert "mingru seed 0: not evaluated" in capsys.readouterr().out
    for _ in range(2):  # by its row, and by its folder
        start(tmp_path, backbones=["mingru"], seeds=["0"])
        (row,) = cells(tmp_path)
        assert (row["status"], row["score"], row["mean"], row["error"]) == (FINISHED, "", "", "")
        (tmp_path / "grid.csv").unlink()
    assert "| a/b | mingru | 1 of 1 | - | - | - |" in capsys.readouterr().out
    assert not trained


@pytest.mark.parametrize("report", ["{", "[1]", '{"a":' * 100_000, '{"results": {"last": [1]}}'])
def test_a_damaged_report_is_a_row_with_its_error(ray, trained, tmp_path, monkeypatch, report):
    start(tmp_path, backbones=["mingru"], seeds=["0"])
    (tmp_path / "grid.csv").unlink()
    next(tmp_path.glob("*/mingru-seed0/results.json")).write_text(report)
    monkeypatch.setattr(runs, "train", lambda folder, flags, log: None)
    with pytest.raises(UserError, match=r"1 of 1 runs failed, the first with: .*json is damaged"):
        start(tmp_path, backbones=["mingru"], seeds=["0"])
    assert [row["status"] for row in cells(tmp_path)] == [FAILED]


def test_runs_of_other_flags_are_not_mixed(ray, trained, tmp_path):
    start(tmp_path, "--", "--optim.updates", "5")
    for _ in range(2):  # by their rows, and by their folders
        with pytest.raises(UserError, match=r"begun with the flags --optim.updates 5, not \(none"):
            start(tmp_path)
        (tmp_path / "grid.csv").unlink(missing_ok=True)


@pytest.mark.parametrize("text", [b"{", b"\xff", b'"text"', b"[1]", b"[" * 100_000])
def test_damaged_flags_are_one_line(ray, trained, tmp_path, text):
    (tmp_path / "flags.json").write_bytes(text)
    with pytest.raises(UserError, match=r"flags\.json is damaged .*: (remove it|save its text)"):
        start(tmp_path)
    assert not trained


def test_flags_that_train_refuses_are_told_at_once_and_lock_nothing(ray, trained, tmp_path, capsys):
    with pytest.raises(UserError, match=r"train\.py refuses the flags behind --"):
        start(tmp_path / "grid", "--", "--preset", "smoke", "--optim.updats", "5")
    assert "Unrecognized options: --optim.updats" in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()
    assert not trained


def test_where_no_run_has_begun_other_flags_may_be_given(ray, trained, tmp_path):
    with pytest.raises(UserError, match=r"as does one with other flags behind --$"):
        start(tmp_path, "--", "--optim.updates", "5", backbones=["broken"], seeds=["0"])
    start(tmp_path, "--", "--optim.updates", "6", backbones=["mingru"], seeds=["0"])
    assert json.loads((tmp_path / "flags.json").read_text()) == ["--optim.updates", "6"]
    with pytest.raises(UserError, match=r"tries them again$"):
        start(tmp_path, "--", "--optim.updates", "6", backbones=["broken"], seeds=["0"])


@pytest.mark.parametrize(
    "flag", ["--seed", "--model.backbone=gru", "--run_dir", "--resume-if-there"]
)
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
    with pytest.raises(UserError, match=r"line 2 of .* is not a run of a grid"):
        Table(path)


@pytest.mark.parametrize("content", [b"env\n\xff\n", b"x" * 200_000])
def test_a_table_that_cannot_be_read_is_one_line(tmp_path, content):
    (tmp_path / "grid.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"grid\.csv cannot be read .*: take the file away"):
        Table(tmp_path / "grid.csv")
    with pytest.raises(UserError, match="cannot be read"):
        Table(tmp_path)


def test_means_are_over_finished_runs_alone():
    rows = [Row("e", "b", seed, FINISHED, float(seed), 1, 10.0, 0.1) for seed in (1, 3)]
    rows += [Row("e", "b", 5, FAILED), Row("e", "c", 0, FAILED)]
    assert list(means(rows)) == [
        ["e", "b", "2 of 3", "2.0 ± 1.4", "10 ± 0", "10.0% ± 0.0%"],
        ["e", "c", "0 of 1", "-", "-", "-"],
    ]


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


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
def test_a_grid_that_is_stopped_loses_nothing(checkout, tmp_path):
    kills.make_data()
    command = [sys.executable, "-m", "benchmarks.grid", "--envs", kills.DATA, "--seeds", "0"]
    command += ["--backbones", "mingru", "--out", str(tmp_path), "--", "--preset", "smoke"]
    command += ["--optim.updates", "1000", "--checkpoint.seconds", "0", "--eval.every", "0"]
    # As a shell begins a command in the background.
    background = ["sh", "-c", 'trap "" INT; exec "$0" "$@"', *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    grid = subprocess.Popen(background, cwd=checkout, **pipes)
    run = tmp_path / kills.DATA.replace("/", "-") / "mingru-seed0"
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert grid.poll() is None, grid.stderr.read()
        time.sleep(0.05)
    grid.send_signal(signal.SIGTERM)
    told, errors = grid.communicate(timeout=300)
    assert (grid.returncode, errors.strip()) == (143, b"")
    assert told.strip().startswith(b"stopped, 0 of 1 runs are finished; to go on: ")
    (state,) = (run / "state").iterdir()  # saved as it was stopped, and at no other time
    assert int(state.name) >= 50
    again = subprocess.run(command, cwd=checkout, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    assert [row["status"] for row in cells(tmp_path)] == [FINISHED]
    updates = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in updates][: 1000 // 50] == list(range(50, 1001, 50))
