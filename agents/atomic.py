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


class atomic_folder:
    """Context: a folder to write into, which replaces `target` when the block succeeds."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.aside = Path(tempfile.mkdtemp(dir=self.target.parent, prefix=".writing-"))
        except OSError as error:
            raise _cannot_write(self.target, error) from None
        return self.aside

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                for file in self.aside.iterdir():
                    file.chmod(0o644)  # safetensors makes them readable for their owner alone
                    _sync(file)
                _sync(self.aside)
                _replace(self.aside, self.target)
        except OSError as failure:
            error = failure
        finally:
            shutil.rmtree(self.aside, ignore_errors=True)
        # safetensors reports a full disk as its own error, with the cause in the text.
        if isinstance(error, OSError | SafetensorError):
            raise _cannot_write(self.target, error) from None


def _replace(new: Path, target: Path) -> None:
    # A folder cannot be renamed over a full one: step aside first, so that a kill in between leaves
    # the old one under a name that is easy to find, and never a mixture.
    old = old_name(target)
    if old.is_symlink():
        old.unlink()  # where `target` was a link to a folder; that folder stays
    shutil.rmtree(old, ignore_errors=True)
    os.chmod(new, 0o755)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def old_name(target: Path) -> Path:
    """Return where `target` is for a moment, while a new one takes its place."""
    return target.with_name(f".old-{target.name}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(target: Path, error: Exception) -> UserError:
    return UserError(
        f"cannot write {target}: {error}; nothing was left half-written; "
        "free some space or choose another folder"
    )


def write_json(path: Path, values: object) -> None:
    """Write `values` to `path` atomically, as indented JSON."""
    write_file(path, (json.dumps(values, indent=2) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; UserError where the disk is full or not writable."""
    aside = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        _sync(aside)
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise _cannot_write(path, error) from None
