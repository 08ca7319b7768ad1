"""Loggers are chosen by name; one that cannot be used is an error of one line, before training."""

import csv
import json
import subprocess
import sys

import pytest

from agents.loggers import base
from agents.loggers.jsonl import Jsonl
from agents.loggers.run_log import RunLog, check_position
from configs import Config
from envs.errors import UserError
from tests.support.small_run import fit, go_on


def log(folder, names, update=0, position=None):
    return RunLog(folder, Config(log=names), update, position)


def test_loggers_are_found_by_their_names():
    pytest.importorskip("wandb")
    found = base.find("csv, tensorboard,wandb")
    assert [kind.__name__ for kind in found.values()] == ["Csv", "TensorBoard", "Wandb"]
    assert all(issubclass(kind, base.Logger) for kind in found.values())
    assert base.find("none") == {}


@pytest.mark.parametrize("names", ["mlflow", "csv,mlflow", "", "none,csv"])
def test_an_unknown_logger_lists_those_there_are(names):
    with pytest.raises(UserError, match="choose from tensorboard, csv, wandb, or none"):
        base.find(names)


def test_a_missing_package_is_one_line_before_training(checkout, tmp_path):
    code = (
        "import sys; sys.modules['wandb'] = None\n"
        "import train; from envs.script import run_script\n"
        f"flags = ['--log', 'csv,wandb', '--run-dir', {str(tmp_path / 'run')!r}]\n"
        "sys.exit(run_script(lambda: train.main(flags)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "\nerror: --log wandb needs: pip install wandb\n"
    assert not (tmp_path / "run").exists()


def test_the_help_names_all_loggers_and_imports_none(checkout):
    code = (
        "import sys, train\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'tensorboard', 'wandb', 'tqdm'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in base.LOGGERS:
        assert name in done.stdout.split("options")[0]


def test_positions_of_earlier_versions_are_read(tmp_path):
    with log(tmp_path, "tensorboard") as first:
        first.metrics(1, "train", {"loss": 1.0})
        position = first.position()
        first.metrics(2, "train", {"loss": 2.0})
    old = {
        "seconds": position["seconds"],
        "metrics": position["jsonl"][Jsonl.name],
        "tensorboard": position["tensorboard"],
    }
    assert check_position(old) == position
    assert check_position(position) == position


def test_a_resumed_run_may_have_other_loggers_and_loses_nothing(tmp_path):
    with log(tmp_path, "csv") as first:
        first.metrics(1, "train", {"loss": 1.0})
        position = first.position()
        first.metrics(2, "train", {"loss": 9.0})
    with log(tmp_path, "none", 1, position) as second:
        second.metrics(2, "train", {"loss": 2.0})
        position = json.loads(json.dumps(second.position()))
    with log(tmp_path, "csv,tensorboard", 2, position) as third:
        third.metrics(3, "train", {"loss": 3.0})
    lines = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert lines[0] == ["update", "seconds", "metric", "value"]
    assert [(u, name, v) for u, _, name, v in lines[1:]] == [
        ("1", "train/loss", "1.0"),
        ("3", "train/loss", "3.0"),  # the second log was told to leave this file out
    ]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/loss"] for row in rows] == [1.0, 2.0, 3.0]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_csv_has_four_columns_whichever_metrics_come_when(tmp_path):
    with log(tmp_path, "csv") as one:
        one.metrics(1, "train", {"loss": 1.0})
        one.metrics(2, "train", {"q, the least": -2.0, "loss": 0.5})
        one.metrics(3, "train", {"loss": 0.25, 'the "odd"': 1e-30})
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [(row["update"], row["metric"], float(row["value"])) for row in csv.DictReader(file)]
    assert rows == [
        ("1", "train/loss", 1.0),
        ("2", "train/q, the least", -2.0),
        ("2", "train/loss", 0.5),
        ("3", "train/loss", 0.25),
        ("3", 'train/the "odd"', 1e-30),
    ]


def test_a_csv_of_a_resumed_run_is_that_of_one_left_alone(tmp_path):
    def end(folder, updates):
        with go_on(folder, log="csv") as run:
            for update in run.trainer.fit():
                run.log.metrics(update, "train", {"loss": run.trainer.metrics()["loss"]})
                if update == updates:
                    return
                if update == 20:
                    run.save_state()

    def values(folder):
        lines = (folder / "metrics.csv").read_text().splitlines()
        return [line.split(",")[::2] + line.split(",")[3:] for line in lines]

    end(tmp_path / "alone", 40)
    end(tmp_path / "killed", 30)
    end(tmp_path / "killed", 40)
    assert values(tmp_path / "killed") == values(tmp_path / "alone")
    assert len(values(tmp_path / "alone")) == 41


def test_a_log_without_a_folder_logs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with RunLog() as nothing:
        nothing.metrics(1, "train", {"loss": 1.0})
        nothing.figure("curve", None)
        nothing.scores({"last": 1.0})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_all_loggers_are_closed_and_the_first_error_is_the_one_to_report(tmp_path):
    closed = []

    class Fails(base.Logger):
        path = tmp_path

        def __init__(self, name):
            self.name = name

        def close(self, *, failed=False):
            closed.append((self.name, failed))
            raise OSError(1, self.name)

    with pytest.raises(OSError, match="b"), RunLog() as log:
        log._loggers = {"a": Fails("a"), "b": Fails("b")}

    def interrupted():
        with RunLog() as log:
            log._loggers = {"a": Fails("a")}
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert closed == [("b", False), ("a", False), ("a", True)]


def test_a_run_without_more_loggers_is_trained(tmp_path):
    with go_on(tmp_path / "run", log="none") as run:
        fit(run)
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
    assert not (tmp_path / "run" / "tensorboard").exists()
