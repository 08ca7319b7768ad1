"""Read safetensors files that nobody vouches for: everything is checked before it is allocated.

The format: 8 bytes length N of the header (little endian), N bytes JSON {name: {dtype, shape,
data_offsets}}, then the data (huggingface/safetensors, README, "Format"). Written with their
package; read here, as theirs maps or copies the whole file before anyone has seen its shapes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from io import BufferedReader
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""What is where: (shape, dtype) by name."""

MAX_HEADER = 1_000_000
"""Bytes; a thousand tensors have about 100,000."""
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


class Damaged(Exception):
    """A file that is not what it should be; the text says why."""


class Digest(Protocol):
    """What takes in the bytes as they are read: a hashlib object."""

    def update(self, data: Any, /) -> object:
        """Take in some bytes."""
        ...


class Entry(NamedTuple):
    """One tensor of the header."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    begin: int
    end: int


def layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Return names, shapes and dtypes of tensors, on whatever device (meta too)."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def read_header(file: BufferedReader, digest: Digest) -> list[Entry]:
    """Return the entries of a safetensors file in the order of their data, and stand at the data.

    Raises Damaged unless they are well-formed and their data fill the rest of the file exactly.
    """
    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        raise Damaged(f"its header of {length} bytes is not one")
    text = file.read(length)
    digest.update(first)
    digest.update(text)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise Damaged("its header is no object")
    header.pop("__metadata__", None)
    entries = sorted((_entry(name, fact) for name, fact in header.items()), key=lambda e: e[-2:])
    place = 0
    for entry in entries:
        if entry.begin != place:
            raise Damaged(f"the data of {entry.name} overlap or leave a gap")
        place = entry.end
    if 8 + length + place != size:
        raise Damaged(f"it has {size} bytes, its header speaks of {8 + length + place}")
    return entries


def _entry(name: str, fact: Any) -> Entry:
    if not isinstance(fact, dict) or fact.keys() != {"dtype", "shape", "data_offsets"}:
        raise Damaged(f"the header's entry of {name} is not one")
    dtype = DTYPES.get(fact["dtype"]) if isinstance(fact["dtype"], str) else None
    shape, offsets = fact["shape"], fact["data_offsets"]
    if dtype is None:
        raise Damaged(f"{name} has an unknown dtype")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise Damaged(f"{name} has an impossible shape or place")
    # Python's integers do not overflow.
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise Damaged(f"the data of {name} do not have the size of its shape")
    return Entry(name, tuple(shape), dtype, *offsets)


def _counts(values: Any) -> bool:
    if not isinstance(values, list) or len(values) > 8:
        return False
    return all(type(value) is int and 0 <= value < 2**48 for value in values)


def read_tensors(file: BufferedReader, entries: list[Entry], digest: Digest) -> dict[str, Tensor]:
    """Return the tensors, read in place one after the other. Raises Damaged at a short file."""
    tensors: dict[str, Tensor] = {}
    for name, shape, dtype, begin, end in entries:
        tensor = torch.empty(shape, dtype=dtype)
        if end > begin:
            memory = tensor.view(-1).view(torch.uint8).numpy().data
            if file.readinto(memory) != end - begin:
                raise Damaged(f"the data of {name} are cut short")
            digest.update(memory)
        tensors[name] = tensor
    return tensors
