"""HDF5's metadata checksum: where it stands in a file, and how to make it right again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUMMED = (
    *(b"OHDR", b"OCHK", b"BTHD", b"BTIN", b"BTLF", b"FRHP", b"FHDB", b"FHIB", b"FSHD", b"FSSE"),
    *(b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EASB", b"EADB", b"SMTB", b"SMLI"),
)
"""Of the structures that end in a checksum. The superblock of versions 2 and 3 does, too."""
_LONGEST = 1400  # bytes of one structure in the files that are mutated here


def spans(image: bytes) -> list[tuple[int, int]]:
    """Return (start, end) of the structures whose checksum follows at `end`."""
    starts = [0] if image[8:9] in (b"\x02", b"\x03") else []
    for signature in SUMMED:
        starts += offsets(image, signature)
    found: list[tuple[int, int]] = []
    for start in sorted(starts):
        block = np.frombuffer(image[start : start + _LONGEST], np.uint8)
        stored = np.lib.stride_tricks.sliding_window_view(block, 4)[9:].copy().view("<u4")[:, 0]
        lengths = np.arange(9, 9 + len(stored))
        if (fits := np.flatnonzero(lookup3(block, lengths) == stored)).size:
            found.append((start, start + int(lengths[fits[0]])))
    return found


def repair(image: bytearray, where: list[tuple[int, int]]) -> None:
    """Write the checksums of these structures anew."""
    for start, end in where:
        if end + 4 <= len(image):
            block = np.frombuffer(bytes(image[start:end]), np.uint8)
            value = int(lookup3(block, np.array([len(block)]))[0])
            image[end : end + 4] = value.to_bytes(4, "little")


def offsets(image: bytes, signature: bytes) -> list[int]:
    """Return where these bytes stand."""
    found, at = list[int](), image.find(signature)
    while at >= 0:
        found.append(at)
        at = image.find(signature, at + 1)
    return found


def lookup3(data: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return Bob Jenkins' lookup3 (hashlittle from 0) of the first n bytes for each n >= 1."""
    most = int(lengths.max())
    padded = np.concatenate((data[:most], np.zeros(24, np.uint8)))
    state = np.tile((0xDEADBEEF + lengths).astype(np.uint32), (3, 1))
    result = np.zeros(len(lengths), np.uint32)
    for at in range(0, most, 12):
        block = padded[at : at + 12].view("<u4")
        last = (lengths > at) & (lengths <= at + 12)
        left = np.clip(lengths[last] - at, 0, 12)
        tail = np.where(np.arange(12) < left[:, None], padded[at : at + 12], 0).astype(np.uint8)
        result[last] = _final(*(state[:, last] + tail.view("<u4").T))
        state = np.stack(_mix(*(state + block[:, None])))
    return result


def _turn(values: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
    return (values << np.uint32(by)) | (values >> np.uint32(32 - by))


def _mix(a, b, c):
    a = (a - c) ^ _turn(c, 4)
    c = c + b
    b = (b - a) ^ _turn(a, 6)
    a = a + c
    c = (c - b) ^ _turn(b, 8)
    b = b + a
    a = (a - c) ^ _turn(c, 16)
    c = c + b
    b = (b - a) ^ _turn(a, 19)
    a = a + c
    c = (c - b) ^ _turn(b, 4)
    b = b + a
    return a, b, c


def _final(a, b, c):
    c = (c ^ b) - _turn(b, 14)
    a = (a ^ c) - _turn(c, 11)
    b = (b ^ a) - _turn(a, 25)
    c = (c ^ b) - _turn(b, 16)
    a = (a ^ c) - _turn(c, 4)
    b = (b ^ a) - _turn(a, 14)
    return (c ^ b) - _turn(b, 24)
