"""A log that is damaged, or a stranger's, costs its damaged lines alone."""

from __future__ import annotations

import json
import os

import pytest

from agents.loggers import history
from agents.loggers.history import read_metrics
from agents.report.plots import curve, curves, render

GOOD = {"update": 1, "train/loss": 0.5}
BAD = [
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b"3",
    b"null",
    b'"update"',
    b"[1]",
    b"\xff",
    b'{"update": 1, "train/loss": 0.5, "\xff',
    b'{"update": 3, "tr',
    b"{}",
    b'{"train/loss": 1.0}',
    b'{"update": 1.5}',
    b'{"update": true}',
    b'{"update": 2, "train/loss": "1"}',
    b'{"update": 2, "train/loss": [1]}',
    b'{"update": 2, "train/loss": 1e200}',
    b'{"update": 1%s}' % (b"0" * 400),
    b'{"update": 1%s}' % (b"0" * 5000),
]


def left(folder, *lines):
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines))


@pytest.mark.parametrize("bad", BAD)
def test_a_damaged_line_is_left_out_and_noted(tmp_path, capsys, bad):
    first, last = (json.dumps({**GOOD, "update": u}).encode() for u in (1, 2))
    left(tmp_path, first, bad, last, b"")
    assert [row["update"] for row in read_metrics(tmp_path)] == [1, 2]
    told = capsys.readouterr().out
    assert told == f"note   {tmp_path / 'metrics.jsonl'}: 1 damaged line left out\n"


def test_what_a_run_logs_is_read_and_nothing_is_noted(tmp_path, capsys):
    rows = [GOOD, {"update": 2, "eval/score": float("-inf"), "eval/failed": 1.0}]
    left(tmp_path, *(json.dumps(row).encode() for row in rows), b"")
    assert read_metrics(tmp_path) == rows
    assert capsys.readouterr().out == ""


def test_no_more_than_a_bounded_size_is_read(tmp_path, capsys, monkeypatch):
    line = json.dumps(GOOD).encode()
    left(tmp_path, *[line] * 100)
    monkeypatch.setattr(history, "LARGEST", 10 * len(line))
    assert read_metrics(tmp_path) == [GOOD] * 9
    assert "is larger than" in capsys.readouterr().out


@pytest.mark.parametrize("instead", [lambda path: None, os.mkdir, os.mkfifo])
def test_a_log_that_is_no_file_has_no_rows(tmp_path, capsys, instead):
    instead(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path) == []
    assert "metrics.jsonl is lost" in capsys.readouterr().out


@pytest.mark.parametrize("value", [9e99, -9e99, 0.0, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("update", [-3, 10**99])
def test_what_is_read_can_be_drawn(tmp_path, value, update):
    names = ("train/loss", "eval/return_asked_3", "eval/return_asked_x", "eval/return_asked_1e300")
    pairs = ((1, value), (2, 1.0), (update, value))
    rows = [{"update": u, **dict.fromkeys(names, v)} for u, v in pairs]
    left(tmp_path, *(json.dumps(row).encode() for row in rows))
    read = read_metrics(tmp_path)
    assert len(read) == 3
    for figure in (curve(read, 3.0, "run"), curves({"a": [read, read]}, 3.0, "runs")):
        (_, below) = figure.axes
        assert len(below.lines) <= 4
        assert render(figure, format="png").startswith(b"\x89PNG")
