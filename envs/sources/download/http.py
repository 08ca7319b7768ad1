"""Downloads over HTTP that appear whole or not at all, and are resumed after a kill.

Meanwhile the bytes are beside the target in .NAME.part, and .NAME.part.json has the version of the
file that they belong to. A server that supports ranges then sends only the rest (RFC 9110, 13.1.5
and 14.2); any other sends the whole file.
"""

from __future__ import annotations

import http.client
import math
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from envs.errors import UserError
from envs.files import locked
from envs.sources.download.partial import PartialFile
from envs.sources.download.redirects import AllowedRedirects, RedirectError, check_scheme

_PAUSES = (1.0, 2.0, 4.0)  # s, before the next attempt
_LONGEST_PAUSE = 60.0  # s, where the server says how long
_LATER = (408, 425, 429)  # statuses below 500 that ask to try again
_CHUNK = 1 << 20
_TRICKLE = 1024  # bytes; fewer within `stall_s` count as silence
_PROGRESS = 1 << 16  # bytes; an attempt that received so many does not count as failed

Check = Callable[[Path], None]


class DownloadError(UserError):
    """A failed download: its URL, the problem in words, and the HTTP status, if any."""

    def __init__(
        self, part: PartialFile, problem: str, fix: str = "", *, status: int | None = None
    ) -> None:
        self.url, self.problem, self.status = part.url, problem, status
        super().__init__(
            f"{part.url} {problem}; {fix}fetch it by other means and put it at {part.target}"
        )


def fetch(
    url: str,
    target: Path,
    *,
    check: Check | None = None,
    progress: bool = True,
    stall_s: float = 30.0,
) -> Path:
    """Return the target; download it first if it does not exist (in one process at a time).

    check: called with the path of the whole file before it gets its name; raises UserError where
    the file is wrong. stall_s: seconds of silence after which an attempt is given up.
    Raises UserError that names the fix; the next call resumes the download.
    """
    if not target.is_file():
        lock = target.with_name(f".{target.name}.lock")
        work, advice = f"downloads {target.name}", f"make it writable: {url} belongs there"
        with locked(lock, work=work, advice=advice, progress=progress):
            if not target.is_file():
                download(url, target, check=check, progress=progress, stall_s=stall_s)
    return target


def download(
    url: str,
    target: Path,
    *,
    check: Check | None = None,
    headers: Mapping[str, str] | None = None,
    version: str = "",
    title: str = "",
    progress: bool = True,
    stall_s: float = 30.0,
    limit: float = math.inf,
) -> None:
    """Download as `fetch` does, for a caller that holds a lock of its own.

    headers: sent to the server of the URL only, not to one that it redirects to.
    version: identifies the bytes, such as a checksum that `check` compares; a download may then be
    resumed from any URL, and redirected to another host. title: of the progress bar, by default the
    file's name. limit: the largest size of the file in bytes.
    """
    part = PartialFile(url, target, version)
    for last in (False, True):
        resumed = _complete(
            part, headers or {}, (title or target.name) if progress else None, stall_s, limit
        )
        try:
            if check is not None:
                check(part.file)
        except UserError as error:
            part.clear()
            if resumed and not last:  # the two pieces may not fit together
                continue
            reason = str(error).replace(str(part.file), str(target))
            problem = f"sends a wrong file ({reason})"
            raise DownloadError(part, problem, "try again later, or ") from error
        part.finish()
        return


def _complete(
    part: PartialFile, headers: Mapping[str, str], title: str | None, stall_s: float, limit: float
) -> bool:
    """Receive until the file is complete; return whether the download was resumed."""
    best, failures, resumed, answered = part.size, 0, part.size > 0, False
    while True:
        pause = 0.0
        try:
            _receive(part, headers, title, stall_s, limit)
            return resumed
        except RedirectError as error:
            raise DownloadError(part, str(error)) from None
        except urllib.error.HTTPError as error:
            error.close()
            answered, problem = True, f"HTTP {error.code} {error.reason}".strip()
            if error.code == 416:
                if part.size and error.headers.get("Content-Range") == f"bytes */{part.size}":
                    return resumed
                part.clear()
            elif error.code < 500 and error.code not in _LATER:
                problem = f"cannot be downloaded ({problem})"
                raise DownloadError(part, problem, status=error.code) from error
            pause = _retry_after(error.headers.get("Retry-After"))
        except urllib.error.URLError as error:
            problem = _plain(error.reason)
            if not answered:
                fix = "check the network and start again, or "
                raise DownloadError(part, f"cannot be reached ({problem})", fix) from error
        except TimeoutError:
            problem = f"silent for {stall_s:g} s"
        except (http.client.HTTPException, OSError) as error:
            problem = _plain(error)
        if part.size >= best + _PROGRESS:
            best, failures, answered = part.size, 0, True
        if failures == len(_PAUSES):
            problem = f"could not be downloaded ({problem}, with {part.size} bytes here)"
            raise DownloadError(part, problem, "start again later to resume, or ")
        time.sleep(max(pause, _PAUSES[failures]))
        failures += 1
        resumed = resumed or part.size > 0


def _receive(
    part: PartialFile, headers: Mapping[str, str], title: str | None, stall_s: float, limit: float
) -> None:
    """Request what is missing once, and append it."""
    check_scheme(part.url)
    request = urllib.request.Request(part.url, headers={"User-Agent": "minrnn"} | part.headers())
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    opener = urllib.request.build_opener(AllowedRedirects(named=part.named))
    with opener.open(request, timeout=stall_s) as response:
        total = part.accept(response.status, response.headers)
        _check_space(part, total)
        bar = tqdm(
            desc=title,
            total=total,
            initial=part.size,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=title is None,
        )
        with bar, part.writer() as write:
            since, received = time.monotonic(), 0
            while chunk := response.read1(_CHUNK):
                if part.size + len(chunk) > limit:
                    raise DownloadError(part, f"sends more than {limit:,} bytes")
                write(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                if time.monotonic() - since > stall_s:
                    if received < _TRICKLE:
                        raise TimeoutError
                    since, received = time.monotonic(), 0
    if total is not None and part.size < total:
        raise ConnectionError(f"it ended after {part.size} of {total} bytes")


def _check_space(part: PartialFile, total: int | None) -> None:
    missing = 0 if total is None else total - part.size
    free = shutil.disk_usage(part.file.parent).free
    if missing > free:
        raise UserError(
            f"{part.target} needs {missing / 1e9:.2f} GB, {part.file.parent} has {free / 1e9:.2f} "
            f"GB free; free some space and start again"
        )


def _retry_after(value: str | None) -> float:
    try:
        seconds = float(value or 0)
    except ValueError:  # a date
        return 0.0
    return min(seconds, _LONGEST_PAUSE) if math.isfinite(seconds) else 0.0


def _plain(error: object) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return " ".join(str(reason).split()) or type(error).__name__
