"""W&B has each row of a run once, in one run: its offline mode is read back, without a network."""

import json
import os
import signal
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest

from agents.loggers.run_log import RunLog
from configs import Config
from envs.errors import UserError
from tests.support.small_run import fit, go_on

wandb = pytest.importorskip("wandb")

TRAIN = """
import sys
from pathlib import Path
from matplotlib.figure import Figure
from tests.support.small_run import go_on
with go_on(Path(sys.argv[1]), log="wandb") as run:
    for update in run.trainer.fit():
        run.log.metrics(update, "train", {"loss": run.trainer.metrics()["loss"]})
        if update == 3:
            run.save_state()
        if update == int(sys.argv[2]):
            break
    run.log.figure("curve", Figure())
    run.log.scores({"last/return_asked_5": 2.5})
"""


def records(path):
    """Yield the records of a file of wandb's, which is a log of LevelDB's behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def values(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
def test_offline_runs_of_a_resumed_run_are_one_run_with_each_row_once(checkout, tmp_path):
    folder = tmp_path / "run"
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(checkout)}
    found = []
    for updates in ("5", "6"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", TRAIN, folder, updates],
            cwd=checkout, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime):
        every = list(records(file))
        (run,) = [r.run for r in every if r.WhichOneof("record_type") == "run"]
        rows = [values(r.history.item) for r in every if r.history.item]
        summary = [values(r.summary.update) for r in every if r.summary.update]
        assert [r.exit.exit_code for r in every if r.HasField("exit")] == [0]
        assert {"last/return_asked_5": 2.5} in summary
        assert rows.pop()["curve/_type"] == "image-file"
        settings = values(run.config.update)
        assert (settings["optim.updates"], settings["model.dim"]) == (130, 8)
        found.append((run.run_id, run.project, rows))
    first, second = found
    assert first[:2] == second[:2] == ((folder / "wandb-id.txt").read_text(), "minrnn")
    steps = [[(row["_step"], row["update"]) for row in rows] for *_, rows in found]
    assert steps[0] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert steps[1] == [(3, 4), (4, 5), (5, 6)]  # from the saved state on
    again = [row["train/loss"] for row in second[2][:2]]
    assert again == [row["train/loss"] for row in first[2][3:]]


class Double:
    """The server and the module of wandb: runs by their ids, and what was asked of each."""

    Error = wandb.Error
    Settings = SimpleNamespace
    Image = staticmethod(lambda image: image)

    def __init__(self):
        self.calls, self.rows, self.exits = [], [], []
        self.lost = 0

    def init(self, **arguments):
        self.calls.append(arguments)
        run = SimpleNamespace(summary={}, define_metric=lambda *_, **__: None)
        run.step = max([step for step, _ in self.rows], default=-1) + 1

        def log(row, *, step, commit):
            assert commit
            assert step >= run.step
            self.rows.append((step, row))
            run.step = step + 1

        run.log, run.finish = log, lambda exit_code: self.exits.append(exit_code)
        return run


@pytest.fixture
def server(monkeypatch):
    double = Double()
    monkeypatch.setattr("agents.loggers.wandb.wandb", double)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return double


def log(folder, update=0, position=None):
    return RunLog(folder, Config(log="wandb"), update, position)


def losses(server):
    return [(step, row["update"], row["train/loss"]) for step, row in server.rows]


def test_a_resumed_run_keeps_its_id_and_sends_no_row_twice(tmp_path, server, monkeypatch):
    with log(tmp_path) as first:
        first.metrics(1, "train", {"loss": 1.0})
        position = first.position()
        first.metrics(2, "train", {"loss": 2.0})
    monkeypatch.setenv("WANDB_PROJECT", "other")
    with log(tmp_path, 1, position) as second:
        second.metrics(2, "train", {"loss": 2.0})
        second.metrics(3, "train", {"loss": 3.0})
    assert losses(server) == [(0, 1, 1.0), (1, 2, 2.0), (2, 3, 3.0)]
    one, two = server.calls
    assert one["id"] == two["id"] == (tmp_path / "wandb-id.txt").read_text()
    assert (one["project"], two["project"]) == ("minrnn", "other")
    assert (one["resume"], one["dir"]) == ("allow", tmp_path)
    assert one["name"].endswith(f"/{tmp_path.name}")
    assert one["config"]["optim.lr"] == Config().optim.lr
    assert server.exits == [0, 0]


def test_a_logger_that_joins_later_starts_behind_what_is_there(tmp_path, server):
    with log(tmp_path) as first:
        first.metrics(1, "train", {"loss": 1.0})
    with log(tmp_path, 7, {"seconds": 1.0, "jsonl": {}}) as second:
        second.metrics(8, "train", {"loss": 2.0})
        assert second.position()["wandb"] == {"rows": 2}
    assert losses(server) == [(0, 1, 1.0), (1, 8, 2.0)]


def test_a_killed_run_is_marked_as_failed(tmp_path, server):
    def kill(run):
        os.kill(os.getpid(), signal.SIGTERM)
        fit(run)

    with pytest.raises(SystemExit), go_on(tmp_path / "run", log="wandb") as run:
        kill(run)
    assert server.exits == [1]
    with go_on(tmp_path / "run", log="wandb") as run:
        fit(run)
    assert server.exits == [1, 0]
    assert [row["update"] for _, row in server.rows] == [50, 60, 100, 120, 130]


def test_without_a_login_the_error_names_the_ways_out(tmp_path, server):
    def fail(**_):
        raise wandb.Error("No API key configured.")

    server.init = fail
    fix = r"No API key configured; run `wandb login`, set WANDB_MODE=offline, or choose another"
    with pytest.raises(UserError, match=fix):
        log(tmp_path)
