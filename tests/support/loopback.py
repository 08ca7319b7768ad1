"""An HTTP server on loopback whose faults can be switched on, and which says what it has sent."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong with the next answers.

    path: only where the path contains this. times: so often, then all is well again.
    status: this status instead of the file. cut, stall: close the connection, or go silent, after
    so many bytes of the body.
    """

    path: str = ""
    times: int = 10**9
    status: int = 0
    cut: int | None = None
    stall: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request, and how many bytes of a body it was sent."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Answer:
    """What a path gives."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """Serves `files`, by path, in pieces of so many bytes with a pause in seconds between them.

    ranges, tags, sizes: whether it knows Range, sends an ETag, tells Content-Length. careless: it
    does not heed If-Range. shift: its ranges begin so many bytes too early.
    `log` holds the requests.
    """

    daemon_threads, block_on_close = True, False

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files or {})
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.ranges, self.tags, self.sizes = True, True, True
        self.careless, self.shift = False, 0
        self.piece, self.pause = 1 << 16, 0.0
        self.closing = threading.Event()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def answer(self, request: Request) -> Answer:
        body = self.files.get(request.path)
        return Answer(b"not here", 404) if body is None else Answer(body)

    def fault(self, path: str) -> Fault:
        for fault in self.faults:
            if fault.path in path and fault.times > 0:
                fault.times -= 1
                return fault
        return Fault()

    def sent(self, path: str = "") -> list[int]:
        """Bytes of the bodies sent for files whose path contains this, request by request."""
        return [r.sent for r in self.log if r.method == "GET" and path in r.path]


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        request = Request(self.command, self.path, dict(self.headers))
        self.server.log.append(request)
        fault = self.server.fault(self.path)
        answer = self.server.answer(request)
        if fault.status:
            answer = Answer(b"fault", fault.status, fault.headers)
        body, headers = answer.body, dict(answer.headers)
        tag = f'"{hashlib.sha1(body).hexdigest()}"'
        if answer.status == 200 and self.server.tags:
            headers.setdefault("ETag", tag)
        request.status, first = answer.status, 0
        if answer.status == 200 and self.server.ranges and "Range" in request.headers:
            found = re.fullmatch(r"bytes=(\d+)-", request.headers["Range"])
            assert found is not None
            asked = request.headers.get("If-Range")
            if self.server.careless or asked in (None, headers.get("ETag")):
                first = int(found[1]) - self.server.shift
                request.status = 206 if first < len(body) else 416
                last = f"{first}-{len(body) - 1}" if first < len(body) else "*"
                headers["Content-Range"] = f"bytes {last}/{len(body)}"
        self._send(request, body[first:], headers, fault)

    def _send(self, request: Request, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        self.send_response(request.status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.sizes:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if request.method == "HEAD":
            return
        ends = [end for end in (fault.cut, fault.stall) if end is not None]
        rest = memoryview(body)[: min(ends, default=len(body))]
        try:
            while rest:
                piece, rest = rest[: self.server.piece], rest[self.server.piece :]
                self.wfile.write(piece)
                request.sent += len(piece)
                time.sleep(self.server.pause)
        except OSError:  # the other side was killed
            self.close_connection = True
        if ends:
            self.close_connection = True
            if fault.stall is not None:
                self.server.closing.wait()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `log` has it."""
