"""A file that is being downloaded: the bytes so far, and the version of the file they are from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import cast

from envs.errors import UserError
from envs.files import replace_file

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_BINARY = getattr(os, "O_BINARY", 0)  # of Windows


class PartialFile:
    """The part of a URL's file that is on the disk, beside the target; it survives a kill.

    The version is the server's strong ETag, else Last-Modified, unless one is given. Bytes without
    a version are dropped before the next request.
    """

    def __init__(self, url: str, target: Path, version: str = "") -> None:
        self.url, self.target, self._given = url, target, version
        self.file = target.with_name(f".{target.name}.part")
        self._about = target.with_name(f".{target.name}.part.json")
        self._version = self._stored()
        if not self._version:
            self.clear()

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        try:
            return self.file.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def named(self) -> bool:
        """Whether the version was given, and so identifies the bytes of any server."""
        return bool(self._given)

    def headers(self) -> dict[str, str]:
        """Return headers that request the rest, or everything if the version has changed."""
        if not self.size or not self._version:
            return {}
        condition = {} if self._given else {"If-Range": self._version}
        return {"Range": f"bytes={self.size}-"} | condition

    def accept(self, status: int, headers: Message) -> int | None:
        """Prepare for the body of a response, and return the size of the whole file if known.

        Raises ConnectionError where the body does not continue these bytes, which are dropped.
        """
        version = self._given or _version(headers)
        if status == 206:
            found = _RANGE.fullmatch(headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self.size or version not in ("", self._version):
                self.clear()
                raise ConnectionError("the server sent another range than it was asked for")
            return None if found[2] == "*" else int(found[2])
        self.clear()
        with self._disk_errors():
            self._about.write_bytes(json.dumps({"url": self.url, "version": version}).encode())
        self._version = version
        length = headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None

    @contextmanager
    def writer(self) -> Iterator[Callable[[bytes], None]]:
        """Context: a function that appends bytes."""
        with self._disk_errors():
            file = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _BINARY, 0o666)

        def write(chunk: bytes) -> None:
            rest = memoryview(chunk)
            with self._disk_errors():
                while rest:
                    rest = rest[os.write(file, rest) :]

        try:
            yield write
        finally:
            os.close(file)

    def clear(self) -> None:
        """Delete the bytes."""
        with self._disk_errors():
            self.file.unlink(missing_ok=True)
            self._about.unlink(missing_ok=True)
        self._version = ""

    def finish(self) -> None:
        """Rename the file to the target."""
        with self._disk_errors():
            replace_file(self.file, self.target)
            self._about.unlink(missing_ok=True)

    def _stored(self) -> str:
        try:
            about = json.loads(self._about.read_bytes())
        except (OSError, ValueError, RecursionError):
            return ""
        if not isinstance(about, dict):
            return ""
        version = str(cast(dict[str, object], about).get("version", ""))
        same = version == self._given if self._given else about.get("url") == self.url
        return version if same else ""

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self.file} ({error.strerror}); free some space or make the folder "
                f"writable and start again, which resumes the download"
            ) from error


def _version(headers: Message) -> str:
    tag = headers.get("ETag", "")
    # A weak tag may stand for different bytes, and is not allowed in If-Range.
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")
