"""Downloads that can be resumed, from servers that are not trusted."""

from envs.sources.download.http import DownloadError, download, fetch

__all__ = ["DownloadError", "download", "fetch"]
