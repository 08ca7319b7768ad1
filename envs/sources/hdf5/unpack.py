"""Unpack chunks of HDF5 files safely.

HDF5 2.0 does not check the size that a chunk unpacks to: it reads beyond the end of one that is too
short, takes any amount of memory for one that is too long, and crashes at a Fletcher-32 chunk of
less than four bytes.
"""

from __future__ import annotations

import math
import operator
import zlib
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from h5py import h5d, h5s, h5t, h5z  # type: ignore[attr-defined]  # compiled, without stubs
from numpy.typing import NDArray

KNOWN = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}
MOST_CHUNKS = 100_000  # where they have to be looked up one by one


def is_packed(data: Any) -> bool:
    """Return whether an array (h5d.DatasetID) has chunks packed by filters."""
    plist = data.get_create_plist()
    return plist.get_layout() == h5d.CHUNKED and plist.get_nfilters() > 0


def read_packed(data: Any, out: NDArray[Any], first: int = 0) -> None:
    """Read rows of a packed array (h5d.DatasetID) of numbers from `first` on.

    out: (rows, ...), of any numeric type. Raises ValueError where a chunk is damaged.
    """
    plist = data.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    chunk, dtype = plist.get_chunk(), _stored(data)
    fill = np.zeros((), data.dtype)
    if plist.fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED:
        plist.get_fill_value(fill)
    last, size = first + len(out), math.prod(chunk) * dtype.itemsize
    with np.errstate(over="ignore", invalid="ignore"):
        out[...] = fill
        for start in _stored_chunks(data, chunk):
            if start[0] >= last or start[0] + chunk[0] <= first:
                continue
            if any(map(operator.mod, start, chunk)):
                raise ValueError(f"a chunk lies at {start}, chunks are of {chunk}")
            if (found := _raw(data, start)) is not None:
                mask, raw = found
                values = np.frombuffer(_unpack(raw, mask, filters, size), dtype).reshape(chunk)
                _place(values, start, out, first)


def _stored_chunks(data: Any, chunk: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return where chunks begin: all that are in the file, and perhaps others."""
    limits = data.get_space().get_simple_extent_dims(True)
    if h5s.UNLIMITED not in limits[1:]:
        starts: list[tuple[int, ...]] = []
        data.chunk_iter(lambda info: starts.append(info.chunk_offset))
        return starts
    # If another dimension than the first may grow, HDF5 2.0 returns wrong offsets.
    grid = [range(0, side, step) for side, step in zip(data.shape, chunk, strict=True)]
    if math.prod(map(len, grid)) > MOST_CHUNKS:
        raise ValueError(f"it has more than {MOST_CHUNKS:,} chunks; repack it with larger ones")
    return list(product(*grid))


def _raw(data: Any, start: tuple[int, ...]) -> tuple[int, bytes] | None:
    """Return the filters' mask and the bytes of a chunk, None if it is not in the file."""
    try:
        return data.read_direct_chunk(start)
    except RuntimeError as error:
        if any(text in str(error) for text in ("not allocated", "address isn't defined")):
            return None
        raise


def _place(values: NDArray[Any], start: tuple[int, ...], out: NDArray[Any], first: int) -> None:
    """Copy a chunk that begins at `start` into `out`, the rows from `first` on."""
    low = max(first - start[0], 0)
    ends = (first + len(out), *out.shape[1:])
    part = values[tuple(slice(0, max(end - at, 0)) for at, end in zip(start, ends, strict=True))]
    part = part[low:]
    begin = (start[0] + low - first, *start[1:])
    out[tuple(slice(at, at + size) for at, size in zip(begin, part.shape, strict=True))] = part


def _stored(data: Any) -> np.dtype[Any]:
    """Return the type of the numbers in a chunk; ValueError where NumPy has none."""
    kind = data.get_type()
    if isinstance(kind, h5t.TypeEnumID):  # bools, among others
        kind = kind.get_super()
    dtype = kind.dtype
    if not kind.equal(_plain(dtype)):
        raise ValueError("the numbers have an unusual form; store plain ones")
    return dtype


@cache
def _plain(dtype: np.dtype[Any]) -> Any:
    return h5t.py_create(dtype)


def _unpack(raw: bytes, mask: int, filters: list[Any], size: int) -> bytes:
    """Return a chunk of `size` bytes; mask: a bit for each filter (all KNOWN) that was skipped."""
    room = size + 4 * len(filters)  # checksums on the way
    for i, (code, _, values, _) in reversed(list(enumerate(filters))):
        if mask >> i & 1:
            continue
        if code == h5z.FILTER_DEFLATE:
            raw = _inflate(raw, room)
        elif code == h5z.FILTER_SHUFFLE:
            raw = _unshuffle(raw, values[0] if values else 1)
        else:
            raw = _checked(raw)
    if len(raw) != size:
        raise ValueError(f"a chunk unpacks to {len(raw):,} bytes and not to {size:,}")
    return raw


def _inflate(raw: bytes, room: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(raw, room)
    except zlib.error as error:
        raise ValueError(f"a chunk cannot be unpacked ({error})") from error
    if not stream.eof:
        raise ValueError("a chunk is cut off, or unpacks to more than a chunk")
    return found


def _unshuffle(raw: bytes, width: int) -> bytes:
    """Put the bytes of each number together again; left-over bytes are at the end."""
    count = len(raw) // width if width else 0
    if width < 2 or count < 2:
        return raw
    whole = np.frombuffer(raw, np.uint8, count * width).reshape(width, count)
    return whole.T.tobytes() + raw[count * width :]


def _checked(raw: bytes) -> bytes:
    """Return a chunk without its Fletcher-32 checksum; ValueError where that is wrong."""
    content, stored = raw[:-4], raw[-4:]
    words = np.frombuffer(content + bytes(len(content) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)
    total = int(words.sum()) % 65535
    weighted = int((words * weights % np.uint64(65535)).sum()) % 65535
    low, high = (int.from_bytes(stored[at : at + 2], "little") % 65535 for at in (0, 2))
    # HDF5 before 1.6.3 wrote the two halves' bytes the other way round on some machines.
    swapped = tuple(int.from_bytes(stored[at : at + 2], "big") % 65535 for at in (0, 2))
    if len(stored) < 4 or (total, weighted) not in ((low, high), swapped):
        raise ValueError("a chunk's checksum is wrong")
    return content
