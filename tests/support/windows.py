"""Windows' rules for files, and macOS' lacks, on a Linux machine: code that breaks them fails here.

Python's own functions are replaced. What libraries in C do with files is not checked, but files
that they keep open or mapped count as open. Paths outside `root` are left alone.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import functools
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  # before fcntl is hidden
import pytest

from envs import files

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)
_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$')
_PATHS = "stat lstat mkdir chmod utime truncate listdir scandir"  # functions of one path
_LACKS = "fork forkpty register_at_fork sched_getaffinity killpg mkfifo"
_NO_SIGNALS = "pthread_sigmask SIGKILL SIGALRM SIGHUP SIGUSR1 alarm setitimer"
_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGFPE, signal.SIGILL


def pretend(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Apply Windows' rules to this process, and to files below `root`."""
    pretend_files(patch, root)
    for name in _LACKS.split():
        patch.delattr(os, name)
    for name in _NO_SIGNALS.split():
        patch.delattr(signal, name)
    patch.setattr(signal, "signal", _handle(signal.signal))
    patch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    patch.setattr(resource_tracker, "_HAVE_SIGMASK", False, raising=False)
    for module in ("resource", "fcntl", "termios", "pwd"):
        patch.setitem(sys.modules, module, None)


def pretend_files(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Apply Windows' rules to files below `root`."""
    rules = _Rules(root)
    patch.setattr(files, "WINDOWS", True)
    for name in _PATHS.split():
        patch.setattr(os, name, rules.one_path(getattr(os, name)))
    for name in ("unlink", "remove", "rmdir"):
        patch.setattr(os, name, rules.removal(getattr(os, name)))
    patch.setattr(os, "rename", rules.renaming(os.rename, replace=False))
    patch.setattr(os, "replace", rules.renaming(os.replace, replace=True))
    patch.setattr(os, "open", rules.low_open(os.open))
    patch.setattr(os, "fsync", _fsync(os.fsync))
    opened = rules.open(io.open)
    patch.setattr(io, "open", opened)
    patch.setattr(builtins, "open", opened)
    patch.setattr(shutil, "_use_fd_functions", False)


def pretend_macos(patch: pytest.MonkeyPatch) -> None:
    """Take away what macOS does not have: /proc, glibc's malloc tuning, CPU affinity."""

    def without_proc(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, int) and os.fsdecode(path).startswith("/proc"):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            return function(path, *args, **kwargs)

        return call

    for module, name in ((io, "open"), (builtins, "open"), (os, "stat"), (os, "open")):
        patch.setattr(module, name, without_proc(getattr(module, name)))
    patch.setattr(sys, "platform", "darwin")
    library = ctypes.CDLL
    # That of this process has no mallopt.
    patch.setattr(ctypes, "CDLL", lambda name, *rest: library(name, *rest) if name else object())
    patch.delattr(os, "sched_getaffinity")


class _Rules:
    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._listdir = os.listdir
        self._lexists = os.path.lexists
        self._lstat, self._readlink = os.lstat, os.readlink

    def below(self, path: Any) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        return f"{os.path.abspath(path)}{os.sep}".startswith(self.root + os.sep)

    def real(self, path: Any) -> Any:
        """Return a path by the names on the disk, which differ from those given in case alone."""
        if not self.below(path):
            return path
        found = self.root
        for name in filter(None, os.path.abspath(path)[len(self.root) :].split(os.sep)):
            if _FORBIDDEN.search(name) or _RESERVED.fullmatch(name):
                raise OSError(errno.EINVAL, "Invalid argument", str(path))
            try:
                names = self._listdir(found)
            except OSError:
                names = []
            if name not in names:
                same = [other for other in names if other.casefold() == name.casefold()]
                name = same[0] if same else name
            found = os.path.join(found, name)
        return found

    def in_use(self, path: str) -> bool:
        """Whether this process has a file open or mapped, which is `path` or below it."""
        held = []
        for fd in self._listdir("/proc/self/fd"):
            try:
                held.append(self._readlink(f"/proc/self/fd/{fd}"))
            except OSError:  # that of the listing
                continue
        fd = _open(b"/proc/self/maps", os.O_RDONLY)
        try:
            text = b"".join(iter(lambda: _read(fd, 1 << 16), b"")).decode()
        finally:
            os.close(fd)
        held += [line.split(maxsplit=5)[5] for line in text.splitlines() if line.count(" ") > 5]
        return any(each == path or each.startswith(path + os.sep) for each in held)

    def one_path(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            return function(self.real(path), *args, **kwargs)

        return call

    def removal(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(path: Any, **kwargs: Any) -> None:
            path = self.real(path)
            there = self.below(path) and self._lexists(path)
            if there and (self.in_use(path) or not self._lstat(path).st_mode & 0o200):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            function(path, **kwargs)

        return call

    def renaming(self, function: Callable[..., Any], *, replace: bool) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(old: Any, new: Any) -> None:
            old, given = self.real(old), new
            new = self.real(new)
            there = self._lexists(new) and new != old
            if not replace and there:
                raise FileExistsError(errno.EEXIST, "File exists", str(old), None, str(new))
            for path in (old, new):
                folder = there and (os.path.isdir(old) or os.path.isdir(new))
                if self.below(path) and (folder or self.in_use(path)):
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
            function(old, given if new == old else new)

        return call

    def low_open(self, function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            path = self.real(path)
            if self.below(path) and os.path.isdir(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, flags, *args, **kwargs)

        return call

    def open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        r"""Text is in cp1252 where no encoding is named, and \n is written as \r\n."""

        @functools.wraps(function)
        def call(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            file = self.real(file)
            if self.below(file) and os.path.isdir(file):
                raise PermissionError(errno.EACCES, "Permission denied", str(file))
            if "b" not in mode:
                encoding = "cp1252" if encoding in (None, "locale") else encoding
                if newline is None and set(mode) & set("wax+"):
                    newline = "\r\n" if "+" not in mode else newline
            return function(file, mode, buffering, encoding, errors, newline, *args, **kwargs)

        return call


_open, _read = os.open, os.read


def _fsync(function: Callable[[int], None]) -> Callable[[Any], None]:
    def call(file: Any) -> None:
        handle = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        function(handle)

    return call


def _handle(function: Callable[..., Any]) -> Callable[..., Any]:
    """Signals that Windows does not have are refused; SIGTERM ends a process unseen."""

    def call(number: int, handler: Any) -> Any:
        if number not in _SIGNALS:
            raise ValueError("signal number out of range")
        if number == signal.SIGTERM:
            return signal.SIG_DFL
        return function(number, handler)

    return call
