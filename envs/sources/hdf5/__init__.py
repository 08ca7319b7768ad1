"""Reader of untrusted HDF5 files: sizes are checked first, and each defect is a UserError."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l  # type: ignore[attr-defined]  # compiled, without stubs
from numpy.typing import NDArray

from envs.errors import UserError, remedy
from envs.sources.hdf5.probe import probe
from envs.sources.hdf5.unpack import KNOWN, is_packed, read_packed

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_AGAIN = "delete it and download or make it again"
_MAX_CHUNK = 256 * 2**20  # bytes; HDF5 unpacks a chunk as a whole
SMALL = 64 * 2**20  # bytes that may be allocated whatever the file stores
MAX_RATIO = 1100  # deflate packs at most 1032 : 1


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Context: a file opened for reading; errors of HDF5 in the block become a UserError."""
    start = check_signature(path)
    if not probe(path, start):
        raise UserError(f"{path} has an index that HDF5 cannot read safely; {_AGAIN}")
    with hdf5_errors(path), h5py.File(path, "r", locking=False) as file:
        yield file


def check_signature(path: Path, fix: str = _AGAIN) -> int:
    """Return the offset of a file's HDF5 signature; UserError that says what else the file is."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
            offset, found = 0, head.startswith(SIGNATURE)
            while not found and file.seek(2 * offset or 512) and (at := file.read(8)):
                found, offset = at == SIGNATURE, 2 * offset or 512
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be opened ({reason}); name a file to read") from error
    if found:
        return offset
    if not head:
        raise UserError(f"{path} is empty; {fix}")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise UserError(f"{path} holds a web page, perhaps a server's error message; {fix}")
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UserError(f"{path} is an archive, not an HDF5 file; unpack it and name what is in it")
    raise UserError(f"{path} is not an HDF5 file (it begins with {head[:8]!r}); {fix}")


@contextmanager
def hdf5_errors(path: Path) -> Iterator[None]:
    """Context: errors of HDF5, h5py and NumPy over a damaged file become a UserError."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is; choose a smaller set") from error
    except (
        *(OSError, RuntimeError, ArithmeticError, EOFError),
        *(ValueError, TypeError, AttributeError, LookupError),
    ) as error:
        reason = " ".join(str(error).split())
        if "truncated file" in reason:
            size = path.stat().st_size
            raise UserError(f"{path} is cut off after {size:,} bytes; {_AGAIN}") from error
        raise UserError(f"{path} cannot be read ({reason}); {remedy(error, _AGAIN)}") from error


def has(group: h5py.Group, key: str) -> bool:
    """Return whether a group has an entry of this name; links count, and are not followed."""
    return bool(group.id.links.exists(key.encode()))


def numeric(group: h5py.Group, key: str, *, ndim: int | None = None) -> h5py.Dataset:
    """Return the numeric data set `key` (a/b for one in a group), without reading its values.

    ndim: the number of dimensions; None for any but 0.
    Raises UserError where it is missing, not numeric, outside of the file, or claims a size that
    its bytes in the file cannot unpack to.
    """
    where = place(group, key)
    found = _follow(group, key, where)
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{where} is a group, not an array; {_there(found)}")
    dtype, shape = found.dtype, found.shape
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or shape is None:
        raise UserError(f"{where} is of type {dtype}; store an array of numbers")
    if (len(shape) == 0) if ndim is None else (len(shape) != ndim):
        wanted = "one dimension or more" if ndim is None else f"{ndim} dimension{'s'[: ndim - 1]}"
        raise UserError(f"{where} has shape {shape}; store an array of {wanted}")
    check_storage(found.id, dtype, found.file.id.get_filesize(), lambda: where)
    return found


def check_claim(needed: int, stored: int, where: str, fix: str = _AGAIN) -> None:
    """Raise UserError where the stored bytes cannot unpack to the bytes that are needed."""
    if needed > max(SMALL, MAX_RATIO * stored):
        raise UserError(
            f"{where} claims {needed:,} bytes of which there are {stored:,}, fewer than any "
            f"compression leaves; {fix}"
        )


def read(data: h5py.Dataset, rows: slice = slice(None)) -> NDArray[Any]:
    """Return rows of a data set of any numeric type."""
    first, last, _ = rows.indices(data.shape[0])
    if not is_packed(data.id):
        return data[first:last]
    out = np.empty((max(last - first, 0), *data.shape[1:]), data.dtype)
    read_packed(data.id, out, first)
    return out


def read_into(data: h5py.Dataset, out: NDArray[np.float32], rows: slice = slice(None)) -> None:
    """Read rows of a data set of any numeric type into a contiguous float32 array.

    out: of the rows' shape, except for dimensions of size 1. Too large numbers become infinity.
    """
    first, last, _ = rows.indices(data.shape[0])
    target = out.reshape(max(last - first, 0), *data.shape[1:])
    if not target.size:
        return
    if is_packed(data.id):
        read_packed(data.id, target, first)
    elif data.dtype.kind == "b":  # HDF5 does not convert bools to floats
        target[...] = data[rows]
    else:
        data.read_direct(target, np.s_[rows], np.s_[:])


def _follow(group: h5py.Group, key: str, where: str) -> h5py.Group | h5py.Dataset:
    """Follow a path over hard links only: other links may lead to any file of the machine."""
    found: h5py.Group | h5py.Dataset = group
    for part in key.split("/"):
        name = part.encode()
        if not isinstance(found, h5py.Group) or not found.id.links.exists(name):
            there = _there(found) if isinstance(found, h5py.Group) else "what is above is an array"
            raise UserError(f"{where} is missing; {there}")
        if found.id.links.get_info(name).type != h5l.TYPE_HARD:
            raise UserError(f"{where} is a link to elsewhere; store the array itself in the file")
        found = found[part]  # type: ignore[assignment]
    return found


def check_storage(data: Any, dtype: np.dtype[Any], there: int, where: Callable[[], str]) -> bool:
    """Return whether an array has packed chunks; UserError where it must not be read.

    That is: stored in another file, packed with unknown filters, or of an impossible size.
    data: an array of h5py's low level, in a file of `there` bytes. where: its name, for messages.
    """
    plist, codes = data.get_create_plist(), set[int]()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL or plist.get_external_count():
        raise UserError(f"{where()} lies in another file; store the array itself in this one")
    for i in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(i)
        if code in codes:  # deflated twice, zeros are a million times smaller
            raise UserError(
                f"{where()} is packed twice with one filter; repack the file (h5repack -f GZIP=4 "
                f"OLD NEW)"
            )
        codes.add(code)
        if code not in KNOWN:
            label = name.decode(errors="replace") or code
            raise UserError(
                f"{where()} is packed with the filter {label}, which is not read here; repack the "
                f"file with gzip (h5repack -f GZIP=4 OLD NEW)"
            )
    chunked = layout == h5d.CHUNKED
    if chunked:
        chunk = math.prod(plist.get_chunk()) * dtype.itemsize
        if chunk > _MAX_CHUNK:
            raise UserError(
                f"{where()} has chunks of {chunk:,} bytes, the limit is {_MAX_CHUNK:,}; repack the "
                f"file (h5repack -l CHUNK=1000x1 OLD NEW)"
            )
        if (claimed := data.get_storage_size()) > there:  # HDF5 would allocate all of it
            raise UserError(
                f"{where()} claims {claimed:,} bytes of the file, which has {there:,}; {_AGAIN}"
            )
    if (size := math.prod(data.shape) * dtype.itemsize) > SMALL:
        check_claim(size, min(data.get_storage_size(), there), where())
    return chunked and bool(codes)


def place(group: h5py.Group, key: str) -> str:
    """Return the file and the path of an entry of a group, for messages."""
    path = f"{group.name or ''}/{key}".lstrip("/")
    return f"{group.file.filename}: {path}"


def _there(group: h5py.Group) -> str:
    names = list(islice(group, 13))
    more = ", ..." if len(names) > 12 else ""
    return f"there is: {', '.join(names[:12]) or 'nothing'}{more}"
