"""Limits on redirects of downloads.

A redirect from https to another scheme is never followed; one to another host only for bytes with a
checksum, which the configured host itself has sent.
"""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit


class RedirectError(Exception):
    """A URL that nothing is downloaded from; the text says why."""


def check_scheme(url: str) -> None:
    """Raise RedirectError unless this is a URL of http or https (and not file:, say)."""
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise RedirectError(f"is not a URL of a server (it begins with {scheme}:)")


def check_redirect(old: str, new: str, *, named: bool) -> None:
    """Raise RedirectError where `old` may not redirect to `new`; named: by a checksum."""
    check_scheme(new)
    before, after = urlsplit(old), urlsplit(new)
    if before.scheme == "https" and after.scheme != "https":
        raise RedirectError(
            f"redirects from https to {after.scheme}, which anyone on the way can change"
        )
    if before.hostname != after.hostname and not named:
        raise RedirectError(
            f"redirects to another host, {after.hostname}, without a checksum to compare"
        )


class AllowedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows allowed redirects only; for any other, raises RedirectError."""

    def __init__(self, *, named: bool) -> None:
        self._named = named

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # noqa: D102
        try:
            check_redirect(req.full_url, newurl, named=self._named)
        except RedirectError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)
