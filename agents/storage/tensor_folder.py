"""A folder of tensors and facts: safetensors, JSON and their checksums. Loading runs no code.

What is read was perhaps damaged, or made to harm: whatever the files hold, `load_folder` returns
what was asked for or raises UserError, and allocates no more than the files are large.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from agents.storage import tensor_file
from agents.storage.tensor_file import Damaged, Layout
from envs.errors import UserError
from envs.files import atomic_folder, old_name

SUMS = "SHA256SUMS"
"""As sha256sum writes it, so that `sha256sum -c SHA256SUMS` checks a folder without this code."""


class Kind(NamedTuple):
    """What a folder holds, and what its files are called."""

    what: str
    """In messages."""
    facts: str
    tensors: str
    format: int
    """The version that is written, and the newest that is read."""
    max_facts: int
    """Bytes of JSON; once read, they may take thirty times as much."""
    weights: tuple[str, ...]
    """What the names of the model's tensors begin with."""


AGENT = Kind("checkpoint", "agent.json", "model.safetensors", 2, 1_000_000, ("",))
STATE = Kind(
    "training state",
    "state.json",
    "state.safetensors",
    2,
    16_000_000,
    ("model.", "average.module.", "optimizer."),
)
RENAMES: dict[int, dict[str, str]] = {
    3: {
        "obs_mean": "normaliser.obs_mean",
        "obs_std": "normaliser.obs_std",
        "return_scale": "normaliser.return_scale",
        "rtg_low": "normaliser.rtg_low",
        "rtg_high": "normaliser.rtg_high",
        "action_low": "head.action_low",
        "action_high": "head.action_high",
    },
}
"""By the format that changed them: the old and the new names of the model's tensors, or the parts
of a module's name before a dot. Folders of older formats are read with the new names."""
_WITH_SUMS = 2
"""The first format whose folders have checksums."""

Expected = Layout | Callable[[dict[str, Any], Layout], Layout]
"""The tensors that there must be; or a function of the facts and of the header's layout."""


class Refused(UserError):
    """A folder that cannot be loaded: `what` says why, without the advice at the text's end."""

    def __init__(self, what: str, advice: str) -> None:
        self.what = what
        super().__init__(f"{what}: {advice}")


class Newer(Refused):
    """A folder that a newer version of this code wrote: not damaged, and not to be replaced."""


def save_folder(
    folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], kind: Kind
) -> None:
    """Write tensors, on any device but sharing no memory, and facts to `folder`, atomically.

    Raises UserError where the disk is full or not writable; an older folder then stays.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_folder(folder) as aside:
        try:
            save_file(plain, aside / kind.tensors)
        except SafetensorError as error:  # so it reports a full disk
            raise OSError(str(error)) from error
        text = json.dumps({"format": kind.format, **facts}, indent=2) + "\n"
        (aside / kind.facts).write_text(text, encoding="utf-8")
        sums = "".join(f"{_sha256(aside / n)}  {n}\n" for n in (kind.facts, kind.tensors))
        (aside / SUMS).write_text(sums, encoding="utf-8")


def load_folder(
    folder: Path, kind: Kind, expected: Expected | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the facts of `folder`, "format" among them.

    The header is compared with `expected` before anything is allocated. Raises UserError where
    there is no such folder, or one that is damaged, of another shape or newer than this code.
    """
    if not folder.exists() and old_name(folder).exists():
        folder = old_name(folder)  # killed in between the two renames of a save
    if not all((folder / name).is_file() for name in (kind.facts, kind.tensors)):
        raise Refused(f"no {kind.what} in {folder}", "give the folder of a run that train.py made")
    with refused(folder, kind):
        sums = _read_sums(folder / SUMS)
        facts = _read_facts(folder / kind.facts, sums, kind.max_facts)
        version = facts.get("format")
        if type(version) is not int or version < 1:
            raise Damaged(f"{kind.facts} has no format")
        if version > kind.format:
            raise Newer(
                f"{folder} was written by a newer minrnn (format {version}, this one reads "
                f"up to {kind.format})",
                "update minrnn",
            )
        if version >= _WITH_SUMS and not sums.keys() >= {kind.facts, kind.tensors}:
            raise Damaged(f"{SUMS} is missing or cut short")
        with _open(folder / kind.tensors) as file:
            digest = hashlib.sha256()
            entries = tensor_file.read_header(file, digest)
            entries = [e._replace(name=_renamed(e.name, kind, version)) for e in entries]
            found = {entry.name: (entry.shape, entry.dtype) for entry in entries}
            if len(found) != len(entries):
                raise Damaged("a tensor has both its old and its new name")
            if expected is not None:
                _compare(found, expected(facts, found) if callable(expected) else expected)
            tensors = tensor_file.read_tensors(file, entries, digest)
        _check(kind.tensors, digest.hexdigest(), sums)
    return tensors, facts


def read_json(path: Path, largest: int) -> dict[str, Any]:
    """Return the object in a file of JSON of at most `largest` bytes; UserError for all others."""
    try:
        return _read_facts(path, {}, largest)
    except (Damaged, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it") from None


@contextmanager
def refused(folder: Path, kind: Kind) -> Iterator[None]:
    """Context: Damaged and OSError become the UserError for a folder of this kind."""
    try:
        yield
    except (Damaged, OSError) as error:
        raise Refused(
            f"the {kind.what} in {folder} is damaged ({error})", "take another one, or train again"
        ) from None


def _renamed(name: str, kind: Kind, version: int) -> str:
    # Return the name that a tensor of a folder of format `version` has in the present format.
    for since in sorted(RENAMES):
        if version < since <= kind.format:
            for start, (old, new) in itertools.product(kind.weights, RENAMES[since].items()):
                if f"{name}.".startswith(f"{start}{old}."):
                    name = start + new + name.removeprefix(start + old)
                    break
    return name


def _compare(found: Layout, wanted: Layout) -> None:
    for name in sorted(found.keys() ^ wanted.keys()):
        raise Damaged(f"tensor {name} is {'missing' if name in wanted else 'one too many'}")
    for name, (shape, dtype) in wanted.items():
        if found[name] != (shape, dtype):
            raise Damaged(
                f"{name} is {found[name][1]} {list(found[name][0])}, not {dtype} {list(shape)}"
            )


def _read_sums(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    with _open(path) as file:
        pairs = [line.split("  ", 1) for line in file.read(10_000).decode("latin-1").splitlines()]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def _read_facts(path: Path, sums: Mapping[str, str], largest: int) -> dict[str, Any]:
    with _open(path) as file:
        text = file.read(largest + 1)
    if len(text) > largest:
        raise Damaged(f"{path.name} is larger than {largest} bytes")
    _check(path.name, hashlib.sha256(text).hexdigest(), sums)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is not JSON: {error}") from None
    if not isinstance(facts, dict):
        raise Damaged(f"{path.name} is no object")
    return facts


def _check(name: str, digest: str, sums: Mapping[str, str]) -> None:
    if sums.get(name, digest) != digest:
        raise Damaged(f"the checksum of {name} is not that of {SUMS}")


def _open(path: Path) -> io.BufferedReader:
    # A pipe would be waited for, a device never ends.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Damaged(f"{path.name} is no file")
    return io.BufferedReader(io.FileIO(handle))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
