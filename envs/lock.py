"""One process at a time: the others wait, and find what the first one has made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from envs.errors import UserError


@contextmanager
def one_at_a_time(lock: Path, work: str, *, fix: str, progress: bool = True) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process ends, however it ends.

    lock: its folder is made; the empty file stays. work: completes "a process that ...".
    fix: completes the message where the folder cannot be written, a UserError.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            title = f"waiting for another process that {work}"
            with tqdm(desc=title, bar_format="{desc}", leave=False, disable=not progress):
                held.acquire()
    except OSError as error:
        raise UserError(f"cannot write in {lock.parent} ({error.strerror}); {fix}") from error
    try:
        yield
    finally:
        held.release()
