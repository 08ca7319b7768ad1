"""A Hugging Face Hub on loopback that serves a folder of Minari data sets."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from pathlib import Path
from typing import Any

from tests.support.loopback import Answer, Request, Server

ORGANISATION, COMMIT = "farama-minari", "a" * 40


class Hub(Server):
    """Serves ROOT/REPOSITORY/..., as hf://farama-minari has it.

    Files named *.hdf5 and *.arrow are large ones: they have a SHA-256, and their URL redirects to
    another, /cdn/REPOSITORY/PATH. checksums: whether the hub tells any.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.checksums = root, True

    def answer(self, request: Request) -> Answer:
        url = urllib.parse.urlsplit(request.path)
        path = urllib.parse.unquote(url.path).strip("/")
        if path == "api/datasets":
            return _json([_about(each.name) for each in sorted(self.root.iterdir())])
        api, files = f"api/datasets/{ORGANISATION}/", f"datasets/{ORGANISATION}/"
        if path.startswith(api):
            return self._api(*path.removeprefix(api).split("/", 3))
        if path.startswith(files):
            repository, _, _, file = path.removeprefix(files).split("/", 3)
            return self._resolve(repository, file, request.method)
        if not path.startswith("cdn/"):
            return _missing("Entry")
        body = (self.root / path.removeprefix("cdn/")).read_bytes()
        # On the same host, so that the Hub's library looks for this here too.
        return Answer(body, headers={"X-Repo-Commit": COMMIT})

    def _api(self, repository: str, part: str = "", _: str = "", folder: str = "") -> Answer:
        if not (self.root / repository).is_dir():
            # As the hub answers those who are not logged in.
            return _missing("Repo", 401)
        if part == "tree":
            files = self._files(repository, folder)
            return _json([self._entry(repository, each) for each in files])
        siblings = [self._sibling(repository, each) for each in self._files(repository)]
        return _json(_about(repository) | {"siblings": siblings})

    def _resolve(self, repository: str, file: str, method: str) -> Answer:
        headers = {"X-Repo-Commit": COMMIT}
        path = self.root / repository / file
        if not (self.root / repository).is_dir():
            return _missing("Repo", 401)
        if file == "namespace_metadata.json" and not (path.parent / "data").is_dir():
            ids = [
                f"{repository}/{each.removesuffix('/data/metadata.json')}"
                for each in self._files(repository)
                if each.endswith("/data/metadata.json")
            ]
            namespaces = sorted({each.rsplit("/", 1)[0] for each in ids} - {repository})
            about = {"datasets": ids, "namespaces": namespaces}
            return Answer(json.dumps(about).encode(), headers=headers)
        if not path.is_file():
            return _missing("Entry")
        body = path.read_bytes()
        if not _large(file):
            return Answer(body, headers=headers | {"ETag": f'"{_blob(body)}"'})
        headers |= {
            "Location": f"/cdn/{repository}/{file}",
            "X-Linked-Size": str(len(body)),
            "X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"',
        }
        return Answer(b"", 302, headers)

    def _files(self, repository: str, folder: str = "") -> list[str]:
        base = self.root / repository
        found = (path for path in (base / folder).rglob("*") if path.is_file())
        return sorted(path.relative_to(base).as_posix() for path in found)

    def _entry(self, repository: str, file: str) -> dict[str, Any]:
        body = (self.root / repository / file).read_bytes()
        entry = {"type": "file", "path": file, "size": len(body), "oid": _blob(body)}
        large = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return entry | ({"lfs": large} if _large(file) else {})

    def _sibling(self, repository: str, file: str) -> dict[str, Any]:
        body = (self.root / repository / file).read_bytes()
        if not self.checksums:
            return {"rfilename": file}
        large = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        about = {"rfilename": file, "size": len(body), "blobId": _blob(body)}
        return about | ({"lfs": large} if _large(file) else {})


def _about(repository: str) -> dict[str, Any]:
    return {
        "_id": repository,
        "id": f"{ORGANISATION}/{repository}",
        "sha": COMMIT,
        "private": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }


def _large(file: str) -> bool:
    return file.endswith((".hdf5", ".arrow"))


def _blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _json(value: object) -> Answer:
    return Answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def _missing(what: str, status: int = 404) -> Answer:
    return Answer(b'{"error": "not found"}', status, {"X-Error-Code": f"{what}NotFound"})
