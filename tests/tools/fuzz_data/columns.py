"""Mutations of Arrow, Parquet and .npz by way of their libraries."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from .metadata import TRAP


def _choice(rng: Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _column(table: Any, rng: Generator) -> Any:
    """Return another column of the same number of rows, of whatever type."""
    import pyarrow as pa

    rows = table.num_rows
    numbers = np.arange(rows, dtype=np.float64)
    wide = pa.array(np.arange(3.0 * rows))
    ragged = pa.array([list(range(i % 4)) for i in range(rows)], pa.list_(pa.int8()))
    return _choice(
        rng,
        (
            pa.array(numbers.astype(_choice(rng, ("f2", "f4", "i1", "u8")))),
            pa.array(numbers > 1),
            pa.array([None] * rows, pa.float32()),
            pa.array([None if i % 2 else 1.0 for i in range(rows)]),
            pa.array([str(i) for i in range(rows)]),
            pa.array([str(i) for i in range(rows)]).dictionary_encode(),
            pa.array(numbers).dictionary_encode(),
            pa.array([b"x"] * rows),
            pa.nulls(rows),
            ragged,
            pa.array([[float("nan")] * 3] * rows),
            pa.array([[float("inf"), 1.0]] * rows),
            pa.array([None if i else [1.0, 2.0, 3.0] for i in range(rows)]),
            pa.array([[None, 1.0, 2.0]] * rows),
            pa.array([[[1.0, 2.0, 3.0]]] * rows),
            pa.FixedSizeListArray.from_arrays(wide, 3),
            pa.array([[]] * rows, pa.list_(pa.float64(), 0)),
            pa.array([{"x": [1.0], "y": [2.0]}] * rows),
            pa.array([{} for _ in range(rows)], pa.struct([])),
            pa.array([None] * rows, pa.struct([("x", pa.list_(pa.float64()))])),
            pa.array([[1e300] * 3] * rows, pa.large_list(pa.float64())),
            pa.array([0] * rows, pa.timestamp("s")),
            pa.array([1] * rows, pa.decimal128(5)),
        ),
    )


def table(table: Any, rng: Generator) -> Any:
    """Return a table with columns changed, or another number of rows."""
    import pyarrow as pa

    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(table.num_columns)) if table.num_columns else 0
        kind = int(rng.integers(8))
        if kind <= 2 and table.num_columns:
            table = table.set_column(at, table.column_names[at], _column(table, rng))
        elif kind == 3 and table.num_columns:
            table = table.remove_column(at)
        elif kind == 4:
            table = table.slice(0, int(_choice(rng, (0, 1, 2))))
        elif kind == 5:
            table = pa.concat_tables([table] * int(_choice(rng, (2, 50))))
        elif kind == 6 and table.num_columns:
            name = _choice(rng, ("", "actions", "a\nb", "observations", "é"))
            names = [name if i == at else old for i, old in enumerate(table.column_names)]
            table = table.rename_columns(names)
        elif table.num_columns:
            table = table.append_column(table.column_names[at], table.column(at))
    return table


def arrow(content: bytes, rng: Generator) -> bytes:
    import pyarrow as pa

    mutated, sink = table(pa.ipc.open_file(content).read_all(), rng), io.BytesIO()
    packing = pa.ipc.IpcWriteOptions(compression=_choice(rng, (None, "lz4", "zstd")))
    new = pa.ipc.new_stream if rng.random() < 0.1 else pa.ipc.new_file
    with new(sink, mutated.schema, options=packing) as writer:
        writer.write_table(mutated, max_chunksize=int(_choice(rng, (1, 3, 1000))))
    return sink.getvalue()


def parquet(content: bytes, rng: Generator) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    mutated, sink = table(parquet.read_table(io.BytesIO(content)), rng), io.BytesIO()
    packing = _choice(rng, ("NONE", "snappy", "gzip", "zstd", "brotli", "lz4"))
    try:
        parquet.write_table(mutated, sink, compression=packing, row_group_size=3)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # types that Parquet has not
        return content
    return sink.getvalue()


class _Trap:
    def __reduce__(self) -> Any:
        return __import__, (TRAP,)


def _npy(rng: Generator, values: Any) -> bytes:
    """Return a .npy file whose header or contents are not what they should be."""
    kind, sink = int(rng.integers(8)), io.BytesIO()
    if kind == 0:
        np.save(sink, np.array([_Trap(), 1], object), allow_pickle=True)
        return sink.getvalue()
    if kind <= 2:
        dtype = _choice(
            rng,
            (
                "f2",
                ">f8",
                "longdouble",
                "i1",
                "u8",
                "c8",
                "S3",
                "U2",
                "M8[s]",
                "V4",
                "bool",
                [("a", "f4")],
            ),
        )
        with np.errstate(all="ignore"):
            try:
                np.save(sink, np.asarray(values).astype(dtype))
            except (TypeError, ValueError):
                np.save(sink, np.zeros(np.shape(values), dtype))
        return sink.getvalue()
    if kind == 3:
        odd = _choice(rng, (np.nan, np.inf, 1e300, -1, 0, 2, 2**62))
        with np.errstate(all="ignore"):
            changed = np.array(values, _choice(rng, ("f8", "f4")))
            changed.reshape(-1)[: int(rng.integers(1, 5))] = odd
        np.save(sink, changed)
        return sink.getvalue()
    if kind == 4:
        shape = _choice(rng, ((), (0,), (1,), (7, 1), (1, 1, 1), (3, 0), (10**6,), (1,) * 32))
        np.save(sink, np.resize(values, shape))
        return sink.getvalue()
    size = int(rng.integers(5, 19))
    header = _choice(
        rng,
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1" + "0" * size + ", 3)}",
            "{'descr': '<f8', 'fortran_order': True, 'shape': (-1,)}",
            "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1,' * 2000})}}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'shape': (3,)}",
            "(" * 9000,
            "-" * 9000 + "1",
            "[" * 90 + "]" * 90,
            "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}",
            "{'descr': [('a', 'f4', (10000000000,))], 'fortran_order': False, 'shape': (2,)}",
            "{'descr': 'U999999999', 'fortran_order': False, 'shape': (1,)}",
            "__import__('fuzz_trap')",
            "\x00\n",
        ),
    )
    version = int(_choice(rng, (1, 2, 3, 9)))
    length = struct.pack("<H" if version == 1 else "<I", len(header) + 1)
    head = b"\x93NUMPY" + bytes((version, 0)) + length + header.encode() + b"\n"
    return head + np.asarray(values).tobytes()


def npz(content: bytes, rng: Generator) -> bytes:
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    members: dict[str, bytes] = {}
    for name, values in arrays.items():
        sink = io.BytesIO()
        np.save(sink, values)
        members[f"{name}.npy"] = sink.getvalue()
    if rng.random() < 0.2:
        lengths = _choice(
            rng, ([6, 4, 9, 1, 3], [23], [22.5, 0.5], [0, 23], [2**62, 5], [np.nan], [])
        )
        sink = io.BytesIO()
        np.save(sink, np.array(lengths))
        members["episode_lengths.npy"] = sink.getvalue()
    for _ in range(int(rng.integers(1, 3))):
        name = _choice(rng, list(members))
        kind = int(rng.integers(8))
        if kind == 0:
            del members[name]
        elif kind == 1:
            members[_choice(rng, ("obs.npy", "a\nb.npy", "../x.npy", "plain", ".npy"))] = (
                members.pop(name)
            )
        elif kind == 2:
            members[name] = bytes(5 * 10**6)
        else:
            members[name] = _npy(rng, arrays.get(name[:-4], np.zeros(3)))
        if not members:
            break
    sink = io.BytesIO()
    packing = _choice(
        rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    with zipfile.ZipFile(sink, "w", packing) as file:
        for name, member in members.items():
            file.writestr(zipfile.ZipInfo(name), member, packing)
    return _zip_field(sink.getvalue(), rng) if rng.random() < 0.4 else sink.getvalue()


def _zip_field(content: bytes, rng: Generator) -> bytes:
    """Change the version, flags, method, checksum or sizes of a member, in both of its headers."""
    data = bytearray(content)
    field, width = _choice(rng, ((0, 2), (2, 2), (4, 2), (10, 4), (14, 4), (18, 4)))
    value = int(
        _choice(rng, (0, 1, 9, 12, 14, 93, 95, 99, 2**16 - 1, 2**31 % 2**16, 10**9, 2**32 - 1))
    )
    stored = (value % (1 << (8 * width))).to_bytes(width, "little")
    for signature, start in ((b"PK\x03\x04", 4), (b"PK\x01\x02", 6)):
        at = data.find(signature)
        if at >= 0 and rng.random() < 0.8:
            data[at + start + field : at + start + field + width] = stored
    return bytes(data)


def npy(content: bytes, rng: Generator) -> bytes:
    return _npy(rng, np.load(io.BytesIO(content)))


def about(content: bytes, rng: Generator) -> bytes:
    """Change what a cache's entry says of itself so that it is still a table of fields."""
    found = json.loads(content)
    fields = found["fields"]
    key = _choice(rng, list(fields))
    fields[key] = _choice(
        rng, (None, 3, "x", "a\nb", [1, 2], {"a": [1]}, ["a\nb"], True, [None], f"{TRAP}:Env-v0")
    )
    return json.dumps(found).encode()


BY_SUFFIX: dict[str, tuple[str, Callable[[bytes, Generator], bytes]]] = {
    ".arrow": ("pyarrow", arrow),
    ".parquet": ("pyarrow", parquet),
    ".npz": ("numpy", npz),
    ".npy": ("numpy", npy),
}
