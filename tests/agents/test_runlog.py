"""A log that is gone on with has neither gaps nor doubles."""

import json

import pytest

from agents.runlog import RunLog
from envs.errors import UserError
from tests.compare_runs import differences


def test_a_log_is_cut_to_where_it_stood(tmp_path):
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = json.loads(json.dumps(log.position()))
        log.metrics(2, "train", {"loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "tr')
    with RunLog(tmp_path, 10, 1, position) as log:
        log.metrics(2, "train", {"loss": 2.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["train/loss"]) for row in rows] == [(1, 1.0), (2, 2.5)]
    assert rows[1]["seconds"] > position["seconds"]
    alone = tmp_path / "alone"
    alone.mkdir()
    with RunLog(alone, 10) as log:
        log.metrics(1, "train", {"loss": 1.0})
        log.metrics(2, "train", {"loss": 2.5})
    assert differences(alone, tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="shorter than when the state"):
        RunLog(tmp_path, 10, 1, position)


def test_a_watching_tensorboard_forgets_what_was_cut(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watching = EventAccumulator(str(tmp_path / "tensorboard"))
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = log.position()
        log.metrics(2, "train", {"loss": 2.0})
        log.position()
        watching.Reload()
    with RunLog(tmp_path, 10, 1, position) as log:
        log.metrics(2, "train", {"loss": 2.5})
    watching.Reload()
    found = [(event.step, event.value) for event in watching.Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 2.5)]
