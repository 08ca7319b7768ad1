from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from envs.errors import UserError
from envs.sources.download import http
from envs.sources.download.http import fetch
from tests.support.loopback import Fault, Server, running

ROOT = Path(__file__).parents[3]
BODY = np.random.default_rng(0).bytes(4 << 20)
OTHER = np.random.default_rng(1).bytes(3 << 20)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server({"/a.bin": BODY})) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "sets" / "a.bin"


def get(server: Server, target: Path, **kwargs) -> Path:
    return fetch(server.url("/a.bin"), target, progress=False, **kwargs)


def child(server: Server, target: Path, head: str = "") -> subprocess.Popen[str]:
    """Download in another process."""
    code = (
        f"from pathlib import Path\nfrom envs.sources.download.http import fetch\n{head}\n"
        f"fetch({server.url('/a.bin')!r}, Path({str(target)!r}), progress=False)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def wait_for_bytes(path: Path, size: int) -> None:
    until = time.monotonic() + 300
    while not path.is_file() or path.stat().st_size < size:
        assert time.monotonic() < until, "the child downloads nothing"
        time.sleep(0.005)


def kill_in_mid_file(server: Server, target: Path) -> int:
    """Kill a process that has at least one of four MB, and return how many bytes it left."""
    server.pause = 0.03
    process = child(server, target)
    wait_for_bytes(part(target), 1 << 20)
    process.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output
    server.pause = 0.0
    left = part(target).stat().st_size
    assert 1 << 20 <= left < len(BODY)
    assert not target.exists()
    return left


def test_a_file_is_downloaded_once(server: Server, target: Path) -> None:
    assert get(server, target) == target
    assert get(server, target).read_bytes() == BODY
    assert server.sent() == [len(BODY)]
    assert sorted(path.name for path in target.parent.iterdir()) == [".a.bin.lock", "a.bin"]


def test_after_a_kill_only_the_rest_is_sent(server: Server, target: Path) -> None:
    left = kill_in_mid_file(server, target)
    assert get(server, target).read_bytes() == BODY
    last = server.log[-1]
    assert (last.headers["Range"], last.status, last.sent) == (
        f"bytes={left}-",
        206,
        len(BODY) - left,
    )
    assert not part(target).exists()


def test_a_file_that_changed_after_a_kill_is_sent_anew(server: Server, target: Path) -> None:
    kill_in_mid_file(server, target)
    server.files["/a.bin"] = OTHER
    assert get(server, target).read_bytes() == OTHER
    assert [request.status for request in server.log] == [200, 200]
    assert server.log[-1].sent == len(OTHER)


@pytest.mark.parametrize("wrong", ["version", "range"])
def test_a_range_that_does_not_fit_is_not_taken(server: Server, target: Path, wrong: str) -> None:
    kill_in_mid_file(server, target)
    if wrong == "version":
        server.files["/a.bin"], server.careless = OTHER, True
    else:
        server.shift = 1000
    assert get(server, target).read_bytes() == server.files["/a.bin"]
    assert [request.status for request in server.log] == [200, 206, 200]


@pytest.mark.parametrize("lacks", ["ranges", "tags"])
def test_a_server_that_cannot_go_on_sends_all_again(
    server: Server, target: Path, lacks: str
) -> None:
    setattr(server, lacks, False)
    kill_in_mid_file(server, target)
    assert get(server, target).read_bytes() == BODY
    assert (server.log[-1].status, server.log[-1].sent) == (200, len(BODY))


def test_another_address_does_not_go_on_with_the_part_of_the_first(
    server: Server, target: Path
) -> None:
    kill_in_mid_file(server, target)
    server.files["/b.bin"] = OTHER
    fetch(server.url("/b.bin"), target, progress=False)
    assert target.read_bytes() == OTHER
    assert "Range" not in server.log[-1].headers


def test_a_process_killed_between_the_last_byte_and_the_name_left_all_that_is_needed(
    server: Server, target: Path
) -> None:
    process = child(server, target, "import os\nos.replace = lambda *_: os.kill(os.getpid(), 9)")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output
    assert not target.exists()
    assert get(server, target).read_bytes() == BODY
    assert (server.log[-1].status, len(server.log)) == (416, 2)


def test_pieces_that_do_not_fit_together_are_fetched_anew(server: Server, target: Path) -> None:
    left = kill_in_mid_file(server, target)
    part(target).write_bytes(b"\0" * left)

    def check(path: Path) -> None:
        if path.read_bytes() != BODY:
            raise UserError("it is broken")

    assert get(server, target, check=check).read_bytes() == BODY
    assert server.sent()[-2:] == [len(BODY) - left, len(BODY)]


def test_of_two_processes_one_downloads(server: Server, target: Path) -> None:
    server.pause = 0.01
    both = [child(server, target), child(server, target)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert target.read_bytes() == BODY
    assert server.sent() == [len(BODY)]


def test_errors_of_the_server_pass(server: Server, target: Path) -> None:
    server.faults = [Fault(status=500, times=2), Fault(status=429, times=1)]
    assert get(server, target).read_bytes() == BODY
    assert [request.status for request in server.log] == [500, 500, 429, 200]


def test_errors_of_the_server_that_stay_end_it(server: Server, target: Path) -> None:
    server.faults = [Fault(status=500)]
    with pytest.raises(UserError, match=r"HTTP 500 .*start again later .*put it at .*a\.bin"):
        get(server, target)
    assert len(server.log) == 4
    server.faults = []
    assert get(server, target).read_bytes() == BODY


def test_a_pause_that_the_server_asks_for_is_kept(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.faults = [
        Fault(status=503, times=1, headers={"Retry-After": wait})
        for wait in ("7", "999999", "Fri, 31 Dec 1999 23:59:59 GMT")
    ]
    get(server, target)
    pauses = [pause for pause in pauses if pause > 0]  # the server's own are 0
    assert pauses == [7.0, 60.0, 0.01]


def test_a_dropped_connection_goes_on_from_there(server: Server, target: Path) -> None:
    server.faults = [Fault(cut=100_000, times=9)]  # more often than an idle server is asked
    assert get(server, target).read_bytes() == BODY
    assert server.sent() == [100_000] * 9 + [len(BODY) - 900_000]


def test_a_file_that_always_ends_early_is_refused_and_not_named(
    server: Server, target: Path
) -> None:
    server.faults = [Fault(cut=1_000_000)]
    server.ranges = False
    with pytest.raises(UserError, match="ended after 1000000 of 4194304 bytes, with 1000000 bytes"):
        get(server, target)
    assert not target.exists()


def test_a_server_that_goes_silent_ends_in_time(server: Server, target: Path) -> None:
    server.faults = [Fault(stall=100_000, times=1), Fault(stall=0)]
    with pytest.raises(UserError, match=r"silent for 0\.2 s, with 100000 bytes here"):
        get(server, target, stall_s=0.2)
    server.faults = []
    assert get(server, target).read_bytes() == BODY
    assert server.sent()[-1] == len(BODY) - 100_000


def test_a_server_that_trickles_is_silent_too(server: Server, target: Path) -> None:
    server.piece, server.pause = 1, 0.05
    with pytest.raises(UserError, match=r"silent for 0\.3 s"):
        get(server, target, stall_s=0.3)


def test_an_unknown_file_is_not_asked_for_again(server: Server, target: Path) -> None:
    with pytest.raises(
        UserError, match=r"b\.bin cannot be downloaded \(HTTP 404 Not Found\); fetch"
    ):
        fetch(server.url("/b.bin"), target, progress=False)
    assert len(server.log) == 1


def test_no_network_is_said_at_once(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
        with pytest.raises(UserError, match=r"cannot be reached .*check the network.*put it at"):
            fetch(url, target, progress=False)
    with pytest.raises(UserError, match=r"name-that-is-not\.invalid/a\.bin cannot be reached"):
        fetch("http://name-that-is-not.invalid/a.bin", target, progress=False)


def test_what_is_not_the_file_is_refused(server: Server, target: Path) -> None:
    def check(path: Path) -> None:
        raise UserError(f"{path} is a web page")

    with pytest.raises(UserError, match=r"sends a wrong file \(\S+/sets/a.bin is a web page\)"):
        get(server, target, check=check)
    assert (len(server.log), target.exists(), part(target).exists()) == (1, False, False)


def test_a_size_that_is_not_told_is_no_obstacle(server: Server, target: Path) -> None:
    server.sizes = False
    assert get(server, target).read_bytes() == BODY


def test_a_full_disk_keeps_what_has_come(server: Server, target: Path) -> None:
    limit = 1_500_000
    head = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "import sys\n"
        "sys.excepthook = lambda kind, error, _: print(kind.__name__, error)"
    )
    process = child(server, target, head)
    output, _ = process.communicate(timeout=300)
    assert output.startswith("UserError cannot write"), output
    assert "free some space" in output
    assert part(target).stat().st_size == limit
    assert get(server, target).read_bytes() == BODY
    assert server.sent()[-1] == len(BODY) - limit


def test_a_disk_that_is_too_small_is_seen_before_anything_is_fetched(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 9, 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 0\.00 GB, .* has 0\.00 GB free; free some space"):
        get(server, target)


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write in .*make it writable"):
        get(server, tmp_path / "file" / "a.bin")
    assert server.log == []


def test_headers_for_one_server_do_not_go_to_another(server: Server, target: Path) -> None:
    with running(Server()) as first:
        first.faults = [Fault(status=302, headers={"Location": server.url("/a.bin")})]
        target.parent.mkdir()
        http.download(
            first.url("/a.bin"), target, headers={"authorization": "secret"}, progress=False
        )
        assert {name.lower() for name in first.log[0].headers} >= {"authorization"}
    assert target.read_bytes() == BODY
    assert "authorization" not in {name.lower() for name in server.log[0].headers}
