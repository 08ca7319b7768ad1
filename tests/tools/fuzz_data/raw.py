"""Mutations of bytes, which know nothing of formats but where HDF5 keeps its integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from numpy.random import Generator

from .checksum import SUMMED, offsets, repair, spans

Bytes = bytearray
Mutation = Callable[[Bytes, Generator], Bytes]
_SIGNATURES = (*SUMMED, b"\x89HDF\r\n\x1a\n", b"TREE", b"SNOD", b"HEAP", b"GCOL")
_WORDS = (
    *(b"<", b">", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"Infinity", b"1e999"),
    *(b"-1", b"9" * 30, b"null", b"true", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"\x1b["),
    *(
        b"<html>",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"ARROW1",
        b"PAR1",
        b"\x93NUMPY",
        b"\x89HDF\r\n\x1a\n",
    ),
)


def _place(data: Bytes, rng: Generator) -> int:
    """Return a place, in the first bytes or the last ones more often than elsewhere."""
    size, draw = len(data), rng.random()
    if not size:
        return 0
    if draw < 0.25:
        return int(rng.integers(min(size, 512)))
    if draw < 0.4:
        return size - 1 - int(rng.integers(min(size, 512)))
    return int(rng.integers(size))


def _block(data: Bytes, rng: Generator) -> slice:
    first = _place(data, rng)
    return slice(first, min(len(data), first + int(2 ** rng.uniform(0, 10))))


def flip_bits(data: Bytes, rng: Generator) -> Bytes:
    for _ in range(int(2 ** rng.uniform(0, 5))):
        if data:
            data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def fill(data: Bytes, rng: Generator) -> Bytes:
    for _ in range(int(rng.integers(1, 4))):
        where = _block(data, rng)
        value = (b"\x00", b"\xff")[int(rng.integers(2))]
        data[where] = value * (where.stop - where.start)
    return data


def overwrite(data: Bytes, rng: Generator) -> Bytes:
    where = _block(data, rng)
    data[where] = rng.bytes(where.stop - where.start)
    return data


def swap(data: Bytes, rng: Generator) -> Bytes:
    one, other = _block(data, rng), _block(data, rng)
    size = min(one.stop - one.start, other.stop - other.start, abs(one.start - other.start))
    here, there = slice(one.start, one.start + size), slice(other.start, other.start + size)
    data[here], data[there] = data[there], data[here]
    return data


def duplicate(data: Bytes, rng: Generator) -> Bytes:
    where, at = _block(data, rng), _place(data, rng)
    data[at:at] = data[where]
    return data


def copy_over(data: Bytes, rng: Generator) -> Bytes:
    where, at = _block(data, rng), _place(data, rng)
    data[at : at + where.stop - where.start] = data[where]
    return data


def remove(data: Bytes, rng: Generator) -> Bytes:
    del data[_block(data, rng)]
    return data


def truncate(data: Bytes, rng: Generator) -> Bytes:
    del data[_place(data, rng) :]
    return data


def extend(data: Bytes, rng: Generator) -> Bytes:
    size = int(2 ** rng.uniform(0, 16))
    tails = (bytes(size), rng.bytes(size), bytes(data))
    return data + tails[int(rng.integers(len(tails)))]


def put_before(data: Bytes, rng: Generator) -> Bytes:
    return Bytes(rng.bytes((1, 512, 1024, 2048)[int(rng.integers(4))])) + data


def word(data: Bytes, rng: Generator) -> Bytes:
    for _ in range(int(rng.integers(1, 4))):
        new, at = _WORDS[int(rng.integers(len(_WORDS)))], _place(data, rng)
        data[at : at + (len(new) if rng.random() < 0.5 else 0)] = new
    return data


def integer(data: Bytes, rng: Generator) -> Bytes:
    """Set integers somewhere, at multiples of their width, to extremes."""
    for _ in range(int(rng.integers(1, 4))):
        width = (1, 2, 4, 8)[int(rng.integers(4))]
        at = _place(data, rng) // width * width
        _put(data, at, width, _extreme(data, at, width, (), rng))
    return data


def hdf5_integer(data: Bytes, rng: Generator) -> Bytes:
    """Set integers of HDF5's own structures to extremes, or to where another structure is."""
    starts = sorted(at for signature in _SIGNATURES for at in offsets(bytes(data), signature))
    for _ in range(int(2 ** rng.uniform(0, 2.5))):
        if not starts:
            return integer(data, rng)
        start = starts[int(rng.integers(len(starts)))]
        following = next((other for other in starts if other > start), len(data))
        length = min(following - start, 96 if rng.random() < 0.7 else 1400)
        if length < 6:
            continue
        width = (1, 2, 4, 8)[int(rng.integers(4))]
        at = start + 4 + int(rng.integers(length - 4))
        _put(data, at, width, _extreme(data, at, width, starts, rng))
    return data


def with_checksums(mutation: Mutation) -> Mutation:
    """Return the mutation that also makes HDF5's checksums right, so that it gets past them."""

    def mutate(data: Bytes, rng: Generator) -> Bytes:
        where = spans(bytes(data))
        data = mutation(data, rng)
        repair(data, where)
        return data

    return mutate


def _extreme(data: Bytes, at: int, width: int, starts: Sequence[int], rng: Generator) -> int:
    full, now = 1 << (8 * width), int.from_bytes(data[at : at + width], "little")
    values = [0, 1, 2, 3, full - 1, full - 2, full // 2, full // 2 - 1, now + 1, now - 1, 2 * now]
    values += [now ^ (1 << int(rng.integers(8 * width))), len(data), len(data) - 1, at]
    values += [1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 40, now << 8, now << 16]
    if starts:
        values += [starts[int(rng.integers(len(starts)))] for _ in range(8)]
    return int(values[int(rng.integers(len(values)))]) % full


def _put(data: Bytes, at: int, width: int, value: int) -> None:
    stored = value.to_bytes(width, "little")
    data[at : at + width] = stored[: max(0, len(data) - at)]


ANY: dict[str, Mutation] = {
    "flip bits": flip_bits,
    "0x00 / 0xff": fill,
    "overwrite": overwrite,
    "swap": swap,
    "duplicate": duplicate,
    "copy over": copy_over,
    "remove": remove,
    "truncate": truncate,
    "extend": extend,
    "put before": put_before,
    "word": word,
    "integer": integer,
}
HDF5: dict[str, Mutation] = {
    "hdf5 integer": hdf5_integer,
    "hdf5 integer, summed": with_checksums(hdf5_integer),
    "flip bits, summed": with_checksums(flip_bits),
    "0x00 / 0xff, summed": with_checksums(fill),
    "integer, summed": with_checksums(integer),
}
