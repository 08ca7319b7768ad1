"""All that is written is written by Windows' rules for files (tests/support/windows.py)."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import train
from agents.acting.export import export_pt2
from agents.loggers.base import synced
from agents.runs import folder as run_folder
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from envs import files
from envs.data import cache
from envs.errors import UserError
from envs.rollout import rollout
from envs.sources import minari
from envs.sources.download.http import fetch
from tests.support import windows
from tests.support.loopback import Server, running
from tests.support.models import tiny_data, tiny_model
from tests.support.small_run import fit, go_on


@pytest.fixture(autouse=True)
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows.pretend(monkeypatch, tmp_path)


def test_the_rules_are_windows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w", encoding="utf-8") as file:
        file.write("a\n")
        with pytest.raises(PermissionError):
            path.unlink()
        with pytest.raises(PermissionError):
            tmp_path.joinpath("other").touch() or os.replace(tmp_path / "other", path)
    assert path.read_bytes() == b"a\r\n"
    with pytest.raises(UnicodeEncodeError):
        path.write_text("名")
    handle = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(handle)
    os.close(handle)
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(FileExistsError):
        os.rename(path, tmp_path / "OTHER")
    with pytest.raises(OSError, match="Invalid argument"):
        (tmp_path / "a:b").mkdir()
    (tmp_path / "folder").mkdir()
    mapped = np.lib.format.open_memmap(tmp_path / "folder" / "x.npy", "w+", shape=(3,))
    with pytest.raises(PermissionError):
        (tmp_path / "folder").rename(tmp_path / "new")
    del mapped
    (tmp_path / "FOLDER").rename(tmp_path / "new")
    assert (tmp_path / "New" / "X.npy").is_file()
    assert sorted(os.listdir(tmp_path)) == ["file", "new", "other"]


METADATA = {"env_id": "Toy-v0", "data": "toy/toy-v0", "targets": [1.0], "update": 3, "window": None}


def test_a_checkpoint_is_saved_in_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_NONBLOCK")
    for update in (3, 4):
        save_checkpoint(tmp_path / "last", tiny_model(), METADATA | {"update": update})
    assert load_checkpoint(tmp_path / "last")[1]["update"] == 4
    assert os.listdir(tmp_path) == ["last"]
    for name in ("agent.json", "SHA256SUMS"):  # sha256sum -c takes no \r
        assert b"\r" not in (tmp_path / "last" / name).read_bytes()


def test_a_checkpoint_that_is_being_read_is_replaced_once_it_is_closed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    with (tmp_path / "last" / "agent.json").open("rb") as file:
        threading.Timer(0.2, file.close).start()
        save_checkpoint(tmp_path / "last", tiny_model(), METADATA | {"update": 4})
    assert load_checkpoint(tmp_path / "last")[1]["update"] == 4


def test_what_is_read_for_long_stays_and_the_new_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    files.write_file(tmp_path / "results.json", b"old")
    with (tmp_path / "results.json").open("rb"), pytest.raises(UserError, match="cannot write"):
        files.write_file(tmp_path / "results.json", b"new")
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    with (
        (tmp_path / "last" / "agent.json").open("rb"),
        pytest.raises(UserError, match="cannot write"),
    ):
        save_checkpoint(tmp_path / "last", tiny_model(), METADATA | {"update": 4})
    assert (tmp_path / "results.json").read_bytes() == b"old"
    assert load_checkpoint(tmp_path / "last")[1]["update"] == 3
    assert sorted(os.listdir(tmp_path)) == ["last", "results.json"]


def test_a_run_is_logged_saved_left_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with contextlib.suppress(KeyError), go_on(folder) as run:
        for update in run.trainer.fit():
            if update % 50 == 0:
                run.log.metrics(update, "train", run.trainer.metrics())
            if run.state_due():
                run.save_state()
            if update == 65:
                raise KeyError
    names = {path.name for path in folder.iterdir()}
    with go_on(folder) as run:
        assert run.trainer.update == 60
        fit(run)
    assert not any(path.name.startswith((".writing", ".old")) for path in folder.rglob("*"))
    assert {"metrics.jsonl", "tensorboard", "state", "config.json"} <= names
    lines = (folder / "metrics.jsonl").read_bytes()
    assert b"\r" not in lines
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["update"] for row in rows if "train/loss" in row] == [50, 100, 120, 130]


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    first, second = run_folder.locked(tmp_path), run_folder.locked(tmp_path)
    with first, pytest.raises(UserError, match="another process"), second:
        pass


def test_events_that_a_tensorboard_reads_do_not_stop_a_resume(tmp_path: Path) -> None:
    from agents.loggers.base import Start
    from agents.loggers.tensorboard import TensorBoard

    board = tmp_path / "tensorboard"
    board.mkdir()
    stale = board / "events.out.tfevents.1"
    stale.write_bytes(b"later than the state")
    with stale.open("rb"):
        TensorBoard(Start(tmp_path, {})).close()
        assert stale.stat().st_size == 0
    assert synced([stale]) == {stale.name: 0}


def test_a_download_gets_its_name(tmp_path: Path) -> None:
    with running(Server({"/a.bin": b"x" * 1000})) as server:
        path = fetch(server.url("/a.bin"), tmp_path / "sets" / "a.bin", progress=False)
    assert path.read_bytes() == b"x" * 1000
    assert not list(path.parent.glob("*.part*"))


def test_an_entry_of_the_cache_that_is_in_use_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_BYTES", 1)
    files.write_file(tmp_path / "a", b"a")
    files.write_file(tmp_path / "b", b"b")
    used = cache.cached([tmp_path / "a"], {}, tiny_data)
    used = cache.cached([tmp_path / "a"], {}, tiny_data)
    monkeypatch.setattr(cache, "MAX_BYTES", 1)  # the entry before is to go
    cache.cached([tmp_path / "b"], {}, tiny_data)
    assert len(os.listdir(tmp_path / "cache")) == 2
    again = cache.cached([tmp_path / "a"], {}, lambda: pytest.fail("it was in the cache"))
    assert (again.obs == used.obs).all()
    del used, again
    cache.cached([tmp_path / "b"], {"other": 1}, tiny_data)
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_a_step_is_exported(tmp_path: Path) -> None:
    export_pt2(tiny_model(), tmp_path / "step.pt2", METADATA)
    assert torch.export.load(tmp_path / "step.pt2")


def test_a_run_from_data_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("MINRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_BYTES", 1)
    wave = lambda obs, *_: np.sin(obs[:, :1])  # noqa: E731
    episodes = rollout("Pendulum-v1", wave, seeds=range(8), record=True).episodes
    minari.write("toy/new-v0", episodes, env="Pendulum-v1", description="ä", author="名")
    run = tmp_path / "run"
    train.main(["--preset", "smoke", "--env", "toy/new-v0", "--run-dir", str(run)])
    results = json.loads((run / "results.json").read_bytes())
    evaluate.main([str(run), "--episodes", "2"])
    report = json.loads((run / "report.json").read_bytes())
    (last, *_), (again, *_) = results["results"]["last"], report["results"]["last"]
    assert last["returns"] == again["returns"]
    assert {"last", "report.html", "figures", "curve.png"} <= {path.name for path in run.iterdir()}
