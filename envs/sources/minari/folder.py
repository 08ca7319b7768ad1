"""The folder of Minari data sets on this disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from envs.errors import UserError
from envs.files import home

OTHER_ROOT = "point MINARI_DATASETS_PATH to a folder that can be written"
_ID = re.compile(r"^([-_\w][-_\w/]*[-_\w]+/)?[-_\w]+?-v\d+$")


def root() -> Path:
    """Return Minari's folder: $MINARI_DATASETS_PATH or ~/.minari/datasets."""
    named = os.environ.get("MINARI_DATASETS_PATH")
    return Path(named or home("MINARI_DATASETS_PATH") / ".minari" / "datasets")


def hidden(kind: str, dataset_id: str) -> Path:
    """Return the path of a hidden file or folder that belongs to a data set, such as its lock."""
    return root() / f".{kind}-{dataset_id.replace('/', '.')}"


def list_ids() -> list[str]:
    """Return the ids of all data sets on the disk, sorted."""
    base, found = root(), list[str]()
    for folder, names, _ in os.walk(base):
        names[:] = [name for name in names if not name.startswith(".")]
        if "data" in names and (Path(folder) / "data" / "metadata.json").is_file():
            found.append(Path(folder).relative_to(base).as_posix())
            names.clear()
    return sorted(found)


def is_id(text: str) -> bool:
    """Return whether a text has the form of a Minari id."""
    return _ID.fullmatch(text) is not None


def exists(dataset_id: str) -> bool:
    """Return whether this data set is on the disk."""
    return is_id(dataset_id) and (root() / dataset_id / "data").is_dir()


def check_new(dataset_id: str) -> None:
    """Raise UserError where the id is malformed or taken."""
    if not is_id(dataset_id):
        raise UserError(f"{dataset_id!r} is not a Minari id; it must look like name/space-v0")
    if (root() / dataset_id).exists():
        raise UserError(
            f"{dataset_id} exists already; choose another name or version, "
            f"or delete {root() / dataset_id}"
        )
