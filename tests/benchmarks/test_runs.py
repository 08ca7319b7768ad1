"""benchmarks.runs: train.py is run once for each folder, and stopped so that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import runs

TRAIN = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2])
def save(*_):
    (folder / "saved").touch()
    if not (folder / "deaf").exists():
        sys.exit(143)
signal.signal(signal.SIGTERM, save)
(folder / "ready").touch()
if (folder / "fails").exists():
    sys.exit("train 50%\\rtrain 60%\\rTraceback\\nerror: no room")
while (folder / "waits").exists():
    time.sleep(0.01)
(folder / "given").write_text(" ".join(sys.argv[1:]))
"""


ROW = {"target": 2.0, "mean": 1.0, "score": None, "failed": 0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run of a train.py that does what the files in it say."""
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setattr(runs, "CHECKOUT", tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_was_begun_is_gone_on_with(folder: Path, begun: bool) -> None:
    if begun:
        (folder / "config.json").write_text("{}")
    runs.train(folder, ["--seed", "1"])
    option = "--resume" if begun else "--run-dir"
    assert (folder / "given").read_text() == f"{option} {folder} --seed 1"


def test_a_run_that_fails_tells_its_last_line(folder: Path, tmp_path: Path) -> None:
    (folder / "fails").touch()
    with pytest.raises(runs.RunFailed, match=r"^no room$"):
        runs.train(folder, [], tmp_path / "logs" / "log.txt")
    with pytest.raises(runs.RunFailed, match=r"^ended with 1$"):
        runs.train(folder, [])


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("Traceback\n  File\nValueError: no\n\n", "ValueError: no"),
        (
            "note\n╭─ Unrecognized options ─╮\n│ Unrecognized options:  │\n"
            "│ --optim.updats, 5      │\n│ ────────────────────── │\n"
            "│ Perhaps you meant:     │\n╰────────────────────────╯\n",
            "Unrecognized options: --optim.updats, 5",
        ),
    ],
)
def test_the_line_that_tells_is_found(tmp_path: Path, written: str, told: str) -> None:
    (tmp_path / "log").write_text(written, encoding="utf-8")
    assert runs._last_line(tmp_path / "log") == told


@pytest.mark.parametrize("deaf", [False, True])
def test_a_run_that_is_broken_off_saves_its_state_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    (folder / "waits").touch()
    if deaf:
        (folder / "deaf").touch()
        monkeypatch.setattr(runs, "PATIENCE", 1.0)

    def interrupt(seconds: float) -> None:
        if (folder / "ready").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, "time", SimpleNamespace(sleep=interrupt))
    with pytest.raises(KeyboardInterrupt):
        runs.train(folder, [])
    assert (folder / "saved").exists()
    assert not (folder / "given").exists()


def test_the_rows_of_the_last_checkpoint_are_the_results(folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps({"results": {"last": [ROW]}}))
    assert runs.results(folder, []) == [ROW]
    assert runs.results(folder.parent, [], run=False) is None


def test_a_run_without_an_evaluation_is_one_line(folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps({"protocol": {}, "results": {}}))
    with pytest.raises(SystemExit, match=r"error: .*run was trained with --eval.episodes 0, so"):
        runs.results(folder, [])


@pytest.mark.parametrize(
    "report",
    [
        *("{", "[1]", '{"a":' * 100_000, '{"results": {"last": [1]}}', '{"results": {"last": 1}}'),
        *(
            json.dumps({"results": {"last": [ROW | wrong]}})
            for wrong in ({"mean": None}, {"mean": float("nan")}, {"target": "x"}, {"score": [1]})
        ),
        json.dumps({"results": {"last": [ROW | {"target": 10**400}]}}),
    ],
)
def test_a_damaged_report_is_one_line(folder: Path, report: str) -> None:
    (folder / "results.json").write_text(report)
    with pytest.raises(SystemExit, match=r"^error: .*json is damaged \(.*\): remove it"):
        runs.results(folder, [])
