"""Folders and files that appear whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from envs.errors import UserError

WRITING, OLD = ".writing-", ".old-"
"""How names begin of what is written or removed, and of what makes room for a new one."""


class CannotWrite(UserError):
    """A full or failing disk: nothing was left half-written."""

    def __init__(self, target: Path, error: object) -> None:
        self.what = f"cannot write {target}: {error}; nothing was left half-written"
        super().__init__(f"{self.what}; free some space or choose another folder")


class atomic_folder:
    """Context: a folder to write into, which replaces `target` when the block succeeds."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.aside = Path(tempfile.mkdtemp(dir=self.target.parent, prefix=WRITING))
        except OSError as error:
            raise CannotWrite(self.target, error) from None
        return self.aside

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                for file in self.aside.iterdir():
                    file.chmod(0o644)  # safetensors makes them readable for their owner alone
                    _sync(file)
                _sync(self.aside)
                os.chmod(self.aside, 0o755)
                replace_folder(self.aside, self.target)
        except OSError as failure:
            error = failure
        finally:
            shutil.rmtree(self.aside, ignore_errors=True)
        # safetensors reports a full disk as its own error, with the cause in the text.
        if isinstance(error, OSError | SafetensorError):
            raise CannotWrite(self.target, error) from None


def replace_folder(new: Path, target: Path) -> None:
    """Rename `new` to `target`, in the same folder, in whose place something may be.

    A folder cannot be renamed over a full one: it steps aside first, so that a kill in between
    leaves the old one under a name that is easy to find (old_name), and never a mixture.
    """
    old = old_name(target)
    _delete(old)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    _delete(old)
    _sync(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder that may be missing, so that a kill in between leaves none that is half."""
    aside = folder.with_name(f"{WRITING}{folder.name}")
    _delete(aside)
    with contextlib.suppress(OSError):
        os.rename(folder, aside)
    _delete(aside)


def recover(folder: Path) -> None:
    """Undo or end what kills left in the middle of in a folder, which nobody else writes into."""
    for path in folder.glob(f"{WRITING}*"):
        _delete(path)
    for old in folder.glob(f"{OLD}*"):
        target = folder / old.name.removeprefix(OLD)
        if target.exists():
            remove_folder(old)
        else:
            os.rename(old, target)


def old_name(target: Path) -> Path:
    """Return where `target` is for a moment, while a new one takes its place."""
    return target.with_name(f"{OLD}{target.name}")


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:  # of a link to a folder, that folder stays
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, values: object) -> None:
    """Write `values` to `path` atomically, as indented JSON."""
    write_file(path, (json.dumps(values, indent=2) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; UserError where the disk is full or not writable."""
    aside = path.with_name(f"{WRITING}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        _sync(aside)
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise CannotWrite(path, error) from None
