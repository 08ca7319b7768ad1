"""Downloads come from the configured host over its scheme, or with a checksum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.errors import UserError
from envs.sources.download.http import DownloadError, download
from envs.sources.download.redirects import RedirectError, check_redirect
from tests.support.loopback import Fault, Server, running

BODY = b"body" * 1000


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server({"/a.bin": BODY, "/b.bin": BODY})) as server:
        yield server


def accept(_: Path) -> None:
    """Take any file for the right one."""


@pytest.mark.parametrize("version", ["", "a checksum"])
def test_another_host_needs_a_checksum(server: Server, tmp_path: Path, version: str) -> None:
    elsewhere = server.url("/b.bin").replace("127.0.0.1", "localhost")
    server.faults = [Fault(path="/a.bin", status=302, headers={"Location": elsewhere})]
    target = tmp_path / "a.bin"
    if version:
        download(server.url("/a.bin"), target, version=version, check=accept, progress=False)
        assert target.read_bytes() == BODY
    else:
        with pytest.raises(DownloadError, match="to another host, localhost, without a checksum"):
            download(server.url("/a.bin"), target, progress=False)
        assert [request.path for request in server.log] == ["/a.bin"]
        assert not target.exists()


def test_a_redirect_on_the_same_host_is_followed(server: Server, tmp_path: Path) -> None:
    server.faults = [Fault(path="/a.bin", status=307, headers={"Location": "/b.bin"})]
    download(server.url("/a.bin"), tmp_path / "a.bin", progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_to_no_server_is_refused(server: Server, tmp_path: Path, scheme: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    headers = {"Location": f"{scheme}://127.0.0.1{secret}"}
    server.faults = [Fault(path="/a.bin", status=302, headers=headers)]
    with pytest.raises(UserError):
        download(server.url("/a.bin"), tmp_path / "a.bin", version="v", progress=False)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,abc", "a.bin"])
def test_what_is_no_url_of_a_server_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="is not a URL of a server"):
        download(url, tmp_path / "a.bin", progress=False)
    assert not (tmp_path / "a.bin").exists()


def test_https_is_never_left() -> None:
    for named in (False, True):
        with pytest.raises(RedirectError, match="from https to http, which"):
            check_redirect("https://a.org/x", "http://a.org/x", named=named)
    check_redirect("http://a.org/x", "https://a.org/x", named=False)
