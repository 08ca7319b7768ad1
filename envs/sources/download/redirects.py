"""Where a download may come from: the host that is configured, over the scheme of its URL.

A server may send elsewhere. That is followed never from https to another scheme; and to another
host only for bytes that a checksum names, which the configured host itself has told.
"""

from __future__ import annotations

import urllib.request
from http.client import HTTPMessage
from typing import IO
from urllib.parse import urlsplit


class Refused(Exception):
    """A place that nothing is downloaded from; the text says why."""


def check_scheme(url: str) -> None:
    """Raise Refused unless this is a URL of http or https: file: and data: are none of a server."""
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise Refused(f"is no URL of a server (it begins with {scheme}:)")


def check_redirect(old: str, new: str, *, named: bool) -> None:
    """Raise Refused where a server of `old` may not send to `new`; named: by a checksum.

    Example:
        >>> check_redirect("https://a.org/x", "https://cdn.b.org/y", named=True)
    """
    check_scheme(new)
    before, after = urlsplit(old), urlsplit(new)
    if before.scheme == "https" and after.scheme != "https":
        raise Refused(f"redirects from https to {after.scheme}, which anyone on the way can change")
    if before.hostname != after.hostname and not named:
        raise Refused(f"redirects to another host, {after.hostname}, with no checksum to go by")


def opener(*, named: bool) -> urllib.request.OpenerDirector:
    """Return what opens URLs and follows no other redirects than these."""
    return urllib.request.build_opener(_Redirects(named))


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, named: bool) -> None:
        self._named = named

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow, or raise Refused."""
        try:
            check_redirect(req.full_url, newurl, named=self._named)
        except Refused:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)
