"""Lists and downloads the Minari data sets of a remote hub; a kill only interrupts a download."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from envs.errors import UserError
from envs.files import locked, rename
from envs.sources.download import http
from envs.sources.download import hub as hub_api
from envs.sources.download.hub import Hub, HubFile
from envs.sources.hdf5 import open_hdf5
from envs.sources.minari.folder import OTHER_ROOT, check_new, exists, hidden, root
from envs.sources.minari.writer import DATA_FILE, write_namespaces
from envs.sources.names import closest

_VERSION = re.compile(r"-v\d+$")
_FEW = 8  # up to so many files are downloaded one by one; of more, so many at once


def download(dataset_id: str, *, progress: bool = True) -> None:
    """Download a data set into the Minari folder, unless it is there.

    One process downloads at a time. Before the data set gets its name, all files are compared with
    the hub's checksums, and it is opened. Raises UserError where the hub does not know the id (with
    near matches), or fails, or the disk is full; the next call resumes the download.
    """
    if exists(dataset_id):
        return
    check_new(dataset_id)
    hub = Hub.of_minari()
    with _explained(dataset_id):
        files = _files(hub, dataset_id)
    lock, staging = hidden("lock", dataset_id), hidden("download", dataset_id)
    work = f"downloads {dataset_id}"
    with locked(lock, work=work, advice=OTHER_ROOT, progress=progress):
        if not exists(dataset_id):
            with _explained(dataset_id):
                _fill(staging, files, dataset_id, hub.headers(), progress)
            _check(staging, dataset_id, hub)
            _name(staging, dataset_id)


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and not path.name.endswith(".part.json")


def list_remote() -> list[str]:
    """Return the ids of all data sets on the hub, sorted; UserError where it cannot be reached."""
    hub = Hub.of_minari()
    with _explained("the list of data sets"), ThreadPoolExecutor(8) as pool:
        return sorted(set().union(*pool.map(lambda each: _ids(hub, each), hub.repositories())))


def _ids(hub: Hub, repository: str) -> list[str]:
    """Return the data sets of a repository: itself, or those in its namespace."""
    try:
        about = hub.read_json(hub.file_path(repository, "namespace_metadata.json"))
    except http.DownloadError as error:
        if error.status != 404:
            raise
        return [repository] if _VERSION.search(repository) else []
    found = about.get("datasets") if isinstance(about, dict) else None
    return [str(each) for each in found] if isinstance(found, list) else []


def _files(hub: Hub, dataset_id: str) -> list[HubFile]:
    """Return the files of a data set; UserError where the hub does not have it."""
    repository, _, folder = dataset_id.partition("/")
    data = f"{folder}/data" if folder else "data"
    try:
        files = list(hub.files(repository, data))
    except http.DownloadError as error:
        if error.status not in (401, 403, 404):  # the hub answers 401 if there is no such thing
            raise
        files = []
    if files:
        return files
    near = list[str]()
    with suppress(UserError):
        near = closest(dataset_id, list_remote())
    hint = f"did you mean {' or '.join(near)}?" if near else "`minari list remote` shows all"
    raise UserError(f"{dataset_id} is neither on this disk nor on {hub}; {hint}")


def _fill(
    staging: Path,
    files: Sequence[HubFile],
    dataset_id: str,
    headers: Mapping[str, str],
    progress: bool,
) -> None:
    """Download into the folder until it has exactly these files."""
    folder = dataset_id.partition("/")[2]
    targets = {staging / Path(each.path).relative_to(folder): each for each in files}
    few = len(files) <= _FEW

    def get(target: Path) -> None:
        file = targets[target]
        try:
            file.check(target)
        except (FileNotFoundError, UserError):  # missing, or of an older version
            target.unlink(missing_ok=True)
            http.download(
                file.url,
                target,
                check=file.check,
                version=file.version,
                headers=headers,
                title=dataset_id,
                progress=progress and few,
                stall_s=hub_api.STALL_S,
            )

    try:
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {staging} ({error.strerror}); free some space") from error
    if few:
        for target in targets:
            get(target)
    else:
        with ThreadPoolExecutor(_FEW) as pool:
            done = pool.map(get, targets)
            for _ in tqdm(done, dataset_id, len(files), leave=False, disable=not progress):
                pass
    for path in sorted(staging.rglob("*"), reverse=True):  # left from older versions
        if path.is_file() and path not in targets:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _check(staging: Path, dataset_id: str, hub: Hub) -> None:
    """Raise UserError, and remove the folder, where it is not a valid data set."""
    data = staging / "data"
    try:
        about = json.loads((data / "metadata.json").read_bytes().decode(errors="replace"))
        total = int(about["total_episodes"])
        if about.get("data_format", "hdf5") == "hdf5":
            with open_hdf5(data / DATA_FILE) as file:
                found = len(file)
        else:
            found = sum(path.is_dir() for path in data.iterdir())
        if found < total:
            raise ValueError(f"{found} episodes of {total}")
    except (
        *(OSError, ValueError, TypeError, AttributeError, LookupError),
        *(RecursionError, UserError),
    ) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"{dataset_id} on {hub} cannot be read as a data set "
            f"({type(error).__name__}: {error}); choose another version"
        ) from error


def _name(staging: Path, dataset_id: str) -> None:
    target = root() / dataset_id
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_namespaces(target.parent)
        rename(staging, target)
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}); delete what is there or free some space, "
            f"and start again"
        ) from error


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Context: a DownloadError becomes a UserError that says what failed and what to do."""
    try:
        yield
    except http.DownloadError as error:
        fix = "start again when the network and the hub are well"
        if _VERSION.search(what):
            if any(_has_bytes(path) for path in hidden("download", what).rglob("*")):
                fix += " (the download will be resumed)"
            fix += (
                f", or run `minari download {what}` on another machine and copy the folder that it "
                f"makes to {root() / what}"
            )
        raise UserError(
            f"{what} cannot be downloaded: {error.url} {error.problem}; {fix}"
        ) from error
