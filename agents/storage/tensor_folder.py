"""A folder of tensors and metadata: safetensors, JSON and their checksums. Loading runs no code.

The files may be damaged or malicious. Whatever they hold, `load_folder` returns what was expected
or raises UserError, and allocates no more than the files are large.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agents.storage.folder_formats import FolderFormat
from envs.errors import UserError, remedy
from envs.files import atomic_folder, old_name

SUMS = "SHA256SUMS"
"""Written as sha256sum does: `sha256sum -c SHA256SUMS` checks a folder without this code."""
_WITH_SUMS = 2  # the first version whose folders have checksums
LARGEST_HEADER = 1_000_000
"""Bytes of a safetensors header, for a thousand tensors about 100,000; safetensors takes 100 MB."""
LARGEST_SHAPE = 2**48  # numbers in a tensor; its sizes are multiplied, an empty one's too
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By their names in a safetensors header."""
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""The shapes and dtypes of tensors by their names."""
Expected = Callable[[dict[str, Any], Layout], Layout]
"""A function of the metadata and the layout of the file that returns the right layout."""


class CannotLoad(UserError):
    """A folder that cannot be loaded: `what` says why, without the advice at the text's end."""

    def __init__(self, what: str, advice: str) -> None:
        self.what = what
        super().__init__(f"{what}: {advice}")


class NewerVersion(CannotLoad):
    """A folder that a newer version of this code wrote: not damaged, and not to be replaced."""


def layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Return the layout of tensors, on whatever device (meta too)."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def save_folder(
    folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], kind: FolderFormat
) -> None:
    """Write tensors, on any device but sharing no memory, and metadata to `folder`, atomically.

    Raises UserError where the disk is full or not writable; an older folder then stays.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_folder(folder) as aside:
        try:
            save_file(plain, aside / kind.tensors)
        except SafetensorError as error:  # so it reports a full disk
            raise OSError(str(error)) from error
        text = json.dumps({"format": kind.version, **metadata}, indent=2) + "\n"
        (aside / kind.metadata).write_bytes(text.encode())
        sums = "".join(f"{_sha256(aside / n)}  {n}\n" for n in (kind.metadata, kind.tensors))
        (aside / SUMS).write_bytes(sums.encode())


def load_folder(
    folder: Path, kind: FolderFormat, expected: Expected
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the metadata of `folder`, "format" among them.

    The tensors' layout is compared with the expected one before any is read. Raises UserError where
    there is no such folder, or one that is damaged, of another layout or newer than this code.
    """
    if not folder.exists() and old_name(folder).exists():
        folder = old_name(folder)  # killed in between the two renames of a save
    if not all((folder / name).is_file() for name in (kind.metadata, kind.tensors)):
        raise CannotLoad(
            f"no {kind.what} in {folder}", "give the folder of a run that train.py made"
        )
    with refused(folder, kind):
        sums = _read_sums(folder / SUMS)
        metadata = _read_json(folder / kind.metadata, sums, kind.largest)
        version = metadata.get("format")
        if type(version) is not int or version < 1:
            raise ValueError(f"{kind.metadata} has no format")
        if version > kind.version:
            raise NewerVersion(
                f"{folder} was written by a newer minrnn (format {version}, this one reads "
                f"up to {kind.version})",
                "update minrnn",
            )
        if version >= _WITH_SUMS and not sums.keys() >= {kind.metadata, kind.tensors}:
            raise ValueError(f"{SUMS} is missing or cut short")
        path = folder / kind.tensors
        with _open(path) as file:
            parts = _read_header(file, path)
            names = {kind.renamed(name, version): name for name in parts}
            if len(names) != len(parts):
                raise ValueError("a tensor has both its old and its new name")
            found = {new: parts[name] for new, name in names.items()}
            _compare(found, expected(metadata, found))
            file.seek(0)
            _check(kind.tensors, hashlib.file_digest(file, "sha256").hexdigest(), sums)
        with safe_open(path, framework="pt") as stored:  # tensors are in the mapped file: copied
            tensors = {new: stored.get_tensor(name).clone() for new, name in names.items()}
    return tensors, metadata


def read_json(path: Path, largest: int) -> dict[str, Any]:
    """Return the object in a file of JSON of at most `largest` bytes; UserError for all others."""
    try:
        return _read_json(path, {}, largest)
    except (ValueError, OSError) as error:
        what = "cannot be read" if isinstance(error, OSError) else "is damaged"
        raise UserError(f"{path} {what} ({error}): {remedy(error, 'remove it')}") from None


@contextmanager
def refused(folder: Path, kind: FolderFormat) -> Iterator[None]:
    """Context: errors that a folder's contents cause become the UserError for a damaged one."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # any: nobody looks for all that can be wrong before reading it
        text = (str(error).splitlines() or [""])[0]
        if not isinstance(error, (OSError, SafetensorError, ValueError)):
            text = f"{type(error).__name__}: {text}"
        raise CannotLoad(
            f"the {kind.what} in {folder} is damaged ({text})", "take another one, or train again"
        ) from error


def _read_header(file: io.BufferedReader, path: Path) -> Layout:
    # safetensors checks that the data fill the file, without gaps and overlaps. For NumPy it maps
    # the file alone; for PyTorch it would also reserve memory of the file's size.
    if (length := int.from_bytes(file.read(8), "little")) > LARGEST_HEADER:
        raise ValueError(f"{path.name} has a header of {length} bytes")
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    with safe_open(path, framework="np") as header:
        for name in header.keys():  # noqa: SIM118
            part = header.get_slice(name)
            shape, dtype = tuple(part.get_shape()), part.get_dtype()
            if dtype not in DTYPES:
                raise ValueError(f"{name} is of an unknown dtype, {dtype}")
            if len(shape) > 8 or math.prod(size or 1 for size in shape) > LARGEST_SHAPE:
                raise ValueError(f"{name} has an impossible shape")
            found[name] = shape, DTYPES[dtype]
    return found


def _compare(found: Layout, wanted: Layout) -> None:
    for name in sorted(found.keys() ^ wanted.keys()):
        raise ValueError(f"tensor {name} is {'missing' if name in wanted else 'unexpected'}")
    for name, (shape, dtype) in wanted.items():
        if found[name] != (shape, dtype):
            raise ValueError(
                f"{name} is {found[name][1]} {list(found[name][0])}, not {dtype} {list(shape)}"
            )


def _read_sums(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    with _open(path) as file:
        pairs = [line.split("  ", 1) for line in file.read(10_000).decode("latin-1").splitlines()]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def _read_json(path: Path, sums: Mapping[str, str], largest: int) -> dict[str, Any]:
    with _open(path) as file:
        text = file.read(largest + 1)
    if len(text) > largest:
        raise ValueError(f"{path.name} is larger than {largest} bytes")
    _check(path.name, hashlib.sha256(text).hexdigest(), sums)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return values


def _check(name: str, digest: str, sums: Mapping[str, str]) -> None:
    if sums.get(name, digest) != digest:
        raise ValueError(f"the checksum of {name} is not that of {SUMS}")


def _open(path: Path) -> io.BufferedReader:
    # A pipe would be waited for, a device never ends.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path.name} is not a file")
    return io.BufferedReader(io.FileIO(handle))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
