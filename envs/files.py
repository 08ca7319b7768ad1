"""Files and folders that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from envs.errors import UserError

WRITING, OLD = ".writing-", ".old-"
"""Prefixes of names: of what is being written or removed, and of what makes room for a new one."""
WINDOWS = os.name == "nt"
_ELSEWHERE = "choose another folder"
_PATIENCE = 5.0  # s that Windows' programs are given to close what is to be renamed
_CANNOT_SYNC = errno.EACCES, errno.EPERM, errno.EBADF, errno.EINVAL, errno.ENOTSUP


def home(variable: str) -> Path:
    """Return the user's home folder; UserError that names `variable` where there is none."""
    try:
        return Path.home()
    except RuntimeError:
        name = "USERPROFILE" if WINDOWS else "HOME"
        raise UserError(
            f"this user has no home folder; set {variable} to a folder, or {name} to one for all"
        ) from None


def file_name(name: str) -> str:
    """Return one name of a file, on every platform, for the id or the path of something."""
    plain = name.replace(",", "+").strip("/.").replace("/", "-")[-100:]
    return re.sub(r'[\\:*?"<>|]', "-", plain).rstrip(". ")


class CannotWrite(UserError):
    """The disk is full or fails; nothing was left half-written."""

    def __init__(self, target: Path, error: object, advice: str = _ELSEWHERE) -> None:
        self.what = f"cannot write {target}: {error}; nothing was left half-written"
        super().__init__(f"{self.what}; free some space or {advice}")


@contextmanager
def atomic_folder(
    target: Path, *, replace: bool = True, aside: Path | None = None, advice: str = _ELSEWHERE
) -> Iterator[Path]:
    """Context: an empty folder to write into, which becomes `target` when the block succeeds.

    replace: whether an existing `target` is replaced, or stays, as another process was first.
    aside: the prefix of the folder's path until then. Every OSError becomes CannotWrite.
    """
    prefix = aside or target.with_name(WRITING)
    folder, written = None, False
    try:
        for parent in (target.parent, prefix.parent):
            parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=prefix.parent, prefix=prefix.name))
        yield folder
        written = True
        for path in (*folder.rglob("*"), folder):
            # safetensors and mkdtemp make them readable for their owner alone.
            path.chmod(0o755 if path.is_dir() else 0o644)
            _sync(path)
        if replace:
            replace_folder(folder, target)
        else:
            rename(folder, target)
    except OSError as error:
        if replace or not written or not target.is_dir():
            raise CannotWrite(target, error, advice) from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder `new` to `target`, in the same folder; an existing target is replaced.

    A folder cannot be renamed over one with files. So the old one is renamed first: a kill in
    between leaves it under a name that is easy to find (old_name), and never a mixture of the two.
    """
    old = old_name(target)
    _delete(old)
    if target.exists():
        rename(target, old)
    try:
        rename(new, target)
    except OSError:
        if old.exists():
            rename(old, target)
        raise
    _delete(old)
    _sync(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it exists, so that a kill never leaves a part of it under its name."""
    aside = folder.with_name(f"{WRITING}{folder.name}")
    _delete(aside)
    with suppress(OSError):
        os.rename(folder, aside)
    _delete(aside)


def recover(folder: Path) -> None:
    """Complete or undo what killed processes left unfinished; no other may write into `folder`."""
    for path in folder.glob(f"{WRITING}*"):
        _delete(path)
    for old in folder.glob(f"{OLD}*"):
        target = folder / old.name.removeprefix(OLD)
        if target.exists():
            remove_folder(old)
        else:
            rename(old, target)


def old_name(target: Path) -> Path:
    """Return the name that the old `target` has while a new one takes its place."""
    return target.with_name(f"{OLD}{target.name}")


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:  # for a link to a folder, only the link
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Let a file's bytes, or a folder's names, reach the disk.

    Windows syncs only what is open for writing, and opens no folders; some network drives open
    them, and do not sync them.
    """
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not folder or error.errno not in _CANNOT_SYNC:
            raise


def rename(old: Path, new: Path) -> None:
    """Do as os.rename; on Windows wait for other programs that read what is renamed."""
    _patiently(os.rename, old, new)


def _patiently(do: Callable[[Path, Path], None], old: Path, new: Path) -> None:
    """Do a rename, which Windows refuses while others read: virus scanners do so with new files."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return do(old, new)
        except PermissionError:
            if not WINDOWS or time.monotonic() > until:
                raise
        time.sleep(0.02)


def write_json(path: Path, values: object) -> None:
    """Write `values` to `path` atomically, as indented JSON."""
    write_file(path, (json.dumps(values, indent=2) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; CannotWrite where the disk is full or not writable."""
    aside = path.with_name(f"{WRITING}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        replace_file(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise CannotWrite(path, error) from None


def replace_file(new: Path, target: Path) -> None:
    """Rename the file `new` to `target` after its bytes have reached the disk."""
    _sync(new)
    _patiently(os.replace, new, target)


@contextmanager
def locked(
    lock: Path, *, busy: str = "", work: str = "", advice: str = _ELSEWHERE, progress: bool = True
) -> Iterator[None]:
    """Context: hold a lock file; the system releases it when the process ends, however it ends.

    If another process holds it: a UserError with the text `busy`; without one, "waiting for another
    process that `work`". advice: for the UserError where the folder cannot be written.
    File systems without locks (some network drives) are used without.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        if busy:
            raise UserError(busy) from None
        title = f"waiting for another process that {work}"
        with tqdm(desc=title, bar_format="{desc}", leave=False, disable=not progress):
            held.acquire()
    except NotImplementedError:
        pass
    except OSError as error:
        raise UserError(
            f"cannot write in {lock.parent} ({error.strerror or error}); {advice}"
        ) from error
    try:
        yield
    finally:
        held.release()
