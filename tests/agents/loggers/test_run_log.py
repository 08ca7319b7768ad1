"""The log of a resumed run has neither gaps nor repetitions."""

import json
import os
from pathlib import Path

import pytest

from agents.loggers.run_log import RunLog
from configs import Config, OptimConfig
from tests.support.compare_runs import differences, events

CONFIG = Config(optim=OptimConfig(updates=10), log="tensorboard,csv")


def test_a_log_is_cut_to_where_it_stood(tmp_path):
    with RunLog(tmp_path, CONFIG) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = json.loads(json.dumps(log.position()))
        log.metrics(2, "train", {"loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "tr')
    with RunLog(tmp_path, CONFIG, 1, position) as log:
        log.metrics(2, "train", {"loss": 2.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["train/loss"]) for row in rows] == [(1, 1.0), (2, 2.5)]
    assert rows[1]["seconds"] > position["seconds"]
    alone = tmp_path / "alone"
    alone.mkdir()
    with RunLog(alone, CONFIG) as log:
        log.metrics(1, "train", {"loss": 1.0})
        log.metrics(2, "train", {"loss": 2.5})
    assert differences(alone, tmp_path) == []


def test_a_watching_tensorboard_forgets_what_was_cut(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watching = EventAccumulator(str(tmp_path / "tensorboard"))
    with RunLog(tmp_path, CONFIG) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = log.position()
        log.metrics(2, "train", {"loss": 2.0})
        log.position()
        watching.Reload()
    with RunLog(tmp_path, CONFIG, 1, position) as log:
        log.metrics(2, "train", {"loss": 2.5})
    watching.Reload()
    found = [(event.step, event.value) for event in watching.Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 2.5)]


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_log_that_has_lost_lines_is_noted_and_resumed(tmp_path, capsys, left):
    with RunLog(tmp_path, CONFIG) as log:
        for update in (1, 2):
            log.metrics(update, "train", {"loss": 1.0})
        position = log.position()
    path = tmp_path / "metrics.jsonl"
    length = len(path.read_text().splitlines(keepends=True)[0])
    os.truncate(path, left and length + left - 1)
    with RunLog(tmp_path, CONFIG, 2, position) as log:
        log.metrics(3, "train", {"loss": 2.5})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["update"] for row in rows] == ([1, 3] if left else [3])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"note   {path} has lost lines")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 40)])
def test_lost_events_are_noted(tmp_path, capsys, damage):
    with RunLog(tmp_path, CONFIG) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = log.position()
    damage(*(tmp_path / "tensorboard").iterdir())
    with RunLog(tmp_path, CONFIG, 1, position) as log:
        log.metrics(2, "train", {"loss": 2.5})
    assert "tensorboard has lost events" in capsys.readouterr().out
    assert [step for _, step, _ in events(tmp_path)] == [2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_error_of_the_disk_names_the_file(tmp_path):
    named = pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'")
    with named, open("/dev/full", "a", buffering=1) as disk, RunLog(tmp_path, CONFIG) as log:
        log._loggers["jsonl"].file.close()
        log._loggers["jsonl"].file = disk
        log.metrics(1, "train", {"loss": 1.0})
