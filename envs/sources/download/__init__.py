"""Downloads that resume, from servers that nobody vouches for."""

from envs.sources.download.http import DownloadError, download, fetch

__all__ = ["DownloadError", "download", "fetch"]
