"""Atomic files and folders, and locks. Kills in between are in tests/agents/storage."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import filelock
import pytest

from envs import files, sources
from envs.data import cache
from envs.errors import UserError
from envs.files import CannotWrite, atomic_folder, locked, replace_file
from envs.inspect import __main__ as inspect
from envs.sources.download import hub
from tests.support.toys import data


def below(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def fill(target: Path, text: str, **options: object) -> None:
    with atomic_folder(target, **options) as folder:  # type: ignore[arg-type]
        (folder / "data").mkdir()
        (folder / "data" / "file").write_text(text)


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_takes_the_place_of_another_only_where_asked(tmp_path: Path, replace: bool):
    fill(tmp_path / "below" / "target", "old")
    fill(tmp_path / "below" / "target", "new", replace=replace)
    assert below(tmp_path) == {"below/target/data/file": "new" if replace else "old"}


def test_others_may_read_all_of_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "target", "text", aside=tmp_path / ".aside-")
    paths = (tmp_path / "target", *(tmp_path / "target").rglob("*"))
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o755, 0o755, 0o644]


def test_every_file_and_folder_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def sync(path: Path) -> None:
        assert path == tmp_path or not (tmp_path / "target").exists()
        synced.append(path.name)

    monkeypatch.setattr(files, "_sync", sync)
    fill(tmp_path / "target", "text")
    assert sorted(synced[:2]) == ["data", "file"]
    assert synced[3:] == [tmp_path.name]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyError("other")])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    expected = CannotWrite if isinstance(error, OSError) else KeyError
    base = tmp_path / "base"

    def fail() -> None:
        with atomic_folder(base / "target", advice="go") as folder:
            (folder / "file").touch()
            raise error

    with pytest.raises(expected) as caught:
        fail()
    assert list(base.iterdir()) == []
    if expected is CannotWrite:
        assert str(caught.value).endswith(
            "No space left; nothing was left half-written; free some space or go"
        )


@pytest.mark.parametrize(("fails", "code"), [("open", errno.EACCES), ("fsync", errno.EINVAL)])
def test_folders_that_cannot_be_synced_hold_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, code: int
) -> None:
    real = getattr(os, fails)

    def refuse(what: Path | int, *rest: int) -> object:
        folder = os.path.isdir(what) if fails == "open" else stat.S_ISDIR(os.fstat(what).st_mode)
        if folder:
            raise OSError(code, "refused")
        return real(what, *rest)

    monkeypatch.setattr(os, fails, refuse)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    fill(tmp_path / "target", "old")
    fill(tmp_path / "target", "new")
    assert below(tmp_path) == {"target/data/file": "new"}


def test_a_file_has_its_name_after_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    new.write_text("text")
    monkeypatch.setattr(files, "_sync", lambda path: target.unlink())  # fails: it is not there
    with pytest.raises(FileNotFoundError):
        replace_file(new, target)
    monkeypatch.undo()
    replace_file(new, target)
    assert below(tmp_path) == {"target": "text"}


def test_a_lock_that_another_holds_is_an_error_or_is_waited_for(tmp_path: Path) -> None:
    path, order = tmp_path / "below" / "lock", list[str]()

    def wait() -> None:
        with locked(path, work="tests", progress=False):
            order.append("second")

    with locked(path):
        with pytest.raises(UserError, match=r"^busy now$"), locked(path, busy="busy now"):
            pass
        other = threading.Thread(target=wait)
        other.start()
        other.join(0.2)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with locked(tmp_path / "lock"):
        os.listdir(tmp_path)


def test_a_folder_that_cannot_be_written_is_named_with_the_advice(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = locked(tmp_path / "file" / "lock", advice="move")
    with pytest.raises(UserError, match=r"cannot write in .*file \(.*\); move"), lock:
        pass


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder, as in many containers."""

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "MINRNN_CACHE", "MINARI_DATASETS_PATH", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        ("toy/none-v0", "MINARI_DATASETS_PATH"),
        ("minrnn/hopper/medium-v0", "MINARI_DATASETS_PATH"),
        ("none", "MINARI_DATASETS_PATH"),
        ("hopper-medium-v2", "D4RL_DATASET_DIR"),
    ],
)
def test_without_a_home_the_variable_to_set_is_named(
    monkeypatch: pytest.MonkeyPatch, homeless: None, command: str, variable: str, capsys
) -> None:
    monkeypatch.setattr(files, "WINDOWS", False)
    if variable != "MINARI_DATASETS_PATH":
        monkeypatch.setenv("MINARI_DATASETS_PATH", "sets")
    assert inspect.main([command]) == 2
    told = f"this user has no home folder; set {variable} to a folder, or HOME to one for all"
    assert capsys.readouterr().err == f"\nerror: {told}\n"
    monkeypatch.setattr(files, "WINDOWS", True)
    with pytest.raises(UserError, match=f"set {variable} .* USERPROFILE"):
        files.home(variable)


def test_without_a_home_a_path_in_it_is_refused(homeless: None) -> None:
    with pytest.raises(UserError, match=r"^~/own.hdf5: there is no such home folder"):
        sources.load("~/own.hdf5")
    assert hub.Hub("https://hub", "toy").headers() == {}


def test_without_a_home_large_sets_are_read_without_a_cache(
    monkeypatch: pytest.MonkeyPatch, homeless: None, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    (tmp_path / "source").touch()
    with pytest.warns(UserWarning, match="the cache cannot be read .*no home folder; set MINRNN_"):
        made = cache.cached([tmp_path / "source"], {}, lambda: data([5]))
    assert made.num_steps == 5
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache.root() == tmp_path / "cache" / "minrnn"
