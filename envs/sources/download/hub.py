"""The files of a Hugging Face Hub: what is in a repository, and the URL of each file.

Only its public HTTP interface is used, through envs.sources.download.http. The Hub's own library
(1.18 to at least 2.4) restarts every file after a kill, and waits for a silent hub for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlencode

from envs.errors import UserError
from envs.sources.download.http import download

STALL_S = 30.0  # seconds of silence after which the hub is given up
LARGEST_ANSWER = 64 * 2**20  # bytes of JSON


@dataclass(frozen=True)
class HubFile:
    """A file of one commit. Large files have sha256, all others blob (git's SHA-1)."""

    url: str
    path: str
    sha256: str = ""
    blob: str = ""

    @property
    def version(self) -> str:
        """The checksum that identifies the bytes, whatever the URL; "" if the hub has none."""
        return self.sha256 or self.blob

    def check(self, path: Path) -> None:
        """Raise UserError where the file does not have the checksum."""
        with path.open("rb") as file:
            head = b"blob %d\0" % path.stat().st_size
            start = hashlib.sha256 if self.sha256 else lambda: hashlib.sha1(head)
            if self.version and hashlib.file_digest(file, start).hexdigest() != self.version:
                raise UserError(f"{path} does not have the checksum {self.version[:12]} of the hub")


@dataclass(frozen=True)
class Hub:
    """The data sets of one organisation on a hub."""

    endpoint: str
    organisation: str

    @classmethod
    def of_minari(cls) -> Hub:
        """Return the hub of $MINARI_REMOTE and $HF_ENDPOINT; UserError for other kinds of store."""
        remote = os.environ.get("MINARI_REMOTE") or "hf://farama-minari"
        kind, _, name = remote.partition("://")
        if kind != "hf" or not name.strip("/"):
            raise UserError(
                f"MINARI_REMOTE={remote} is not a Hugging Face hub; set it to hf://ORGANISATION, "
                f"or download data sets with `minari download ID`, which are found on the disk"
            )
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return cls(endpoint.rstrip("/"), name.strip("/"))

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.organisation}"

    def repositories(self) -> list[str]:
        """Return the names of the repositories of data sets."""
        query = urlencode({"author": self.organisation, "limit": 1000})
        found = self.read_json(f"/api/datasets?{query}")
        ids = [str(each["id"]) for each in found if isinstance(each, dict) and "id" in each]
        return sorted(each.split("/", 1)[1] for each in ids if "/" in each)

    def files(self, repository: str, folder: str) -> Iterator[HubFile]:
        """Yield the files in a folder of a repository ("" for all) at its newest commit."""
        about = self.read_json(f"/api/datasets/{self._id(repository)}?blobs=true")
        siblings = about.get("siblings") if isinstance(about, dict) else None
        if not isinstance(siblings, list) or not all(isinstance(each, dict) for each in siblings):
            raise UserError(f"{self} does not say what is in {repository}; try again later")
        for each in siblings:
            path = PurePosixPath(str(each.get("rfilename")))
            if not path.is_relative_to(folder):
                continue
            if path.is_absolute() or ".." in path.parts or "\\" in str(path):
                raise UserError(f"{self}/{repository} has a file named {path}; do not use it")
            yield HubFile(
                self.endpoint
                + self.file_path(repository, str(path), str(about.get("sha") or "main")),
                str(path),
                str((each.get("lfs") or {}).get("sha256") or ""),
                str(each.get("blobId") or ""),
            )

    def file_path(self, repository: str, path: str, revision: str = "main") -> str:
        """Return the path of a file's URL."""
        return f"/datasets/{self._id(repository)}/resolve/{quote(revision)}/{quote(path)}"

    def read_json(self, path: str) -> Any:
        """Return the JSON at a path of the hub; DownloadError or UserError where there is none."""
        with TemporaryDirectory(prefix="minrnn-") as folder:
            target = Path(folder) / "answer.json"
            download(
                self.endpoint + path,
                target,
                headers=self.headers(),
                progress=False,
                stall_s=STALL_S,
                limit=LARGEST_ANSWER,
            )
            try:
                return json.loads(target.read_bytes())
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{self.endpoint}{path} answers with something other than JSON; check that the "
                    f"network needs no login, and HF_ENDPOINT"
                ) from error

    def headers(self) -> dict[str, str]:
        """Return the headers that identify the user, if there is a token."""
        token = os.environ.get("HF_TOKEN") or _stored_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _id(self, repository: str) -> str:
        return f"{quote(self.organisation)}/{quote(repository)}"


def _stored_token() -> str:
    """Return the token that `hf auth login` stored, "" if there is none."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        home = Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface")
        path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home folder
        return ""
