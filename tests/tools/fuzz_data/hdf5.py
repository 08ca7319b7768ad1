"""Mutations of HDF5 files by way of h5py: what is well-formed and still not what it should be."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5o, h5p, h5s, h5t, h5z  # type: ignore[attr-defined]
from numpy.random import Generator

_NAMES = (
    *("observations", "actions", "rewards", "terminals", "timeouts", "next_observations"),
    *("terminations", "truncations", "goal", "x", "_index_0", "episode_0", "episode_1", "new"),
)


def _choice(rng: Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _objects(file: h5py.File, kind: Any) -> list[Any]:
    found: list[Any] = []

    def visit(group: Any, depth: int) -> None:
        for name in list(group)[:50]:
            if group.get(name, getclass=True, getlink=True) is h5py.HardLink and depth < 4:
                there = group[name]
                found.append(there)
                if isinstance(there, h5py.Group):
                    visit(there, depth + 1)

    visit(file, 0)
    return [there for there in found if isinstance(there, kind)]


def _array(file: h5py.File, rng: Generator) -> Any:
    return _choice(rng, _objects(file, h5py.Dataset))


def _parent(found: Any) -> tuple[Any, str]:
    return found.parent, found.name.rsplit("/", 1)[1]


def _replace(found: Any, **options: Any) -> None:
    """Store something else in an array's place."""
    parent, name = _parent(found)
    del parent[name]
    parent.create_dataset(name, **options)


def delete(file: h5py.File, rng: Generator) -> None:
    found = _choice(rng, _objects(file, (h5py.Dataset, h5py.Group)))
    parent, name = _parent(found)
    del parent[name]


def other_dtype(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    plain = [
        *("bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i8"),
        *(">u2", "longdouble", "c8", "c16", "S1", "S5", "O", "V3"),
    ]
    with np.errstate(all="ignore"):
        values = np.asarray(found[()])
        dtype = _choice(
            rng,
            (
                *plain,
                *plain,
                [("a", "f4"), ("b", "i4")],
                h5py.string_dtype(),
                h5py.vlen_dtype(np.float32),
                h5py.enum_dtype({"no": 0, "yes": 1}, "i1"),
                h5py.enum_dtype({"a": 3, "b": -7}, "i8"),
                h5py.ref_dtype,
                h5py.regionref_dtype,
                h5py.opaque_dtype(np.dtype("datetime64[s]")),
                np.dtype(("f4", (2,))),
                np.dtype(("f4", (3, 1))),
            ),
        )
        try:
            if isinstance(dtype, str) and dtype in plain and dtype not in ("O", "V3"):
                return _replace(found, data=values.astype(dtype))
            dtype = h5py.string_dtype() if dtype == "O" else dtype
            return _replace(found, shape=found.shape, dtype=dtype)
        except (TypeError, ValueError):
            return _replace(found, shape=(0,), dtype="f4")


def odd_number(file: h5py.File, rng: Generator) -> None:
    """Store numbers in a form that no processor has."""
    parent, name = _parent(found := _array(file, rng))
    shape = found.shape
    if rng.random() < 0.5:
        kind = h5t.IEEE_F32LE.copy()
        fields = _choice(rng, ((31, 23, 8, 0, 23), (15, 7, 8, 0, 7), (23, 15, 8, 0, 15)))
        kind.set_fields(*fields)
        kind.set_ebias(int(_choice(rng, (127, 0, 1, 2**31 - 1))))
        if rng.random() < 0.5:
            kind.set_size(int(_choice(rng, (3, 4))) if fields[0] < 24 else 4)
    else:
        kind = h5t.STD_I32LE.copy()
        kind.set_precision(int(_choice(rng, (1, 7, 17, 24, 31))))
        kind.set_offset(0 if rng.random() < 0.5 else 1)
        kind.set_size(int(_choice(rng, (4, 5, 7, 8, 16))))
    del parent[name]
    h5d.create(
        parent.id,
        name.encode(),
        kind,
        h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR),
    )


def other_type_class(file: h5py.File, rng: Generator) -> None:
    """Store bit fields, times, opaque bytes."""
    parent, name = _parent(found := _array(file, rng))
    kind = _choice(rng, (h5t.STD_B8LE, h5t.STD_B64BE, h5t.UNIX_D32LE, h5t.create(h5t.OPAQUE, 4)))
    del parent[name]
    h5d.create(parent.id, name.encode(), kind, h5s.create_simple(found.shape or (3,)))


def other_shape(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    values = np.asarray(found[()])
    shapes = ((), (0,), (1,), (*values.shape, 1), (1, *values.shape), values.shape[::-1])
    shapes += (
        (0, *values.shape[1:]),
        (*values.shape, 0),
        values.shape[:1],
        (values.size,),
        (2,) * 9,
    )
    shapes += ((1,) * 32, (*values.shape[:1], 2), tuple(n + 1 for n in values.shape), (3, 0, 3))
    _replace(found, data=np.resize(values, _choice(rng, shapes)))


def empty_space(file: h5py.File, rng: Generator) -> None:
    parent, name = _parent(_array(file, rng))
    del parent[name]
    parent[name] = h5py.Empty(_choice(rng, ("f4", "i8", "S3", "bool")))


def other_rows(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    values = np.asarray(found[()])
    if values.ndim:
        rows = int(_choice(rng, (1, 2, len(values) - 1, len(values) + 1, 2 * len(values), 5000)))
        _replace(found, data=np.resize(values, (max(rows, 0), *values.shape[1:])))


def odd_values(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    values = np.array(found[()])
    if not values.size or values.dtype.kind not in "biuf":
        return
    if values.dtype.kind != "f" and rng.random() < 0.5:
        values = values.astype("f8")
    kind = values.dtype.kind
    odd: tuple[Any, ...] = (0, 1) if kind == "b" else (0, 1, 2, 127)
    if kind == "f":
        odd = (np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-40, 2.0, 0.0)
        odd += (1e300, -1e300) if values.dtype.itemsize == 8 else ()
    with np.errstate(all="ignore"):
        if rng.random() < 0.3:
            values[...] = _choice(rng, odd)
        else:
            for _ in range(int(rng.integers(1, 6))):
                values.reshape(-1)[int(rng.integers(values.size))] = _choice(rng, odd)
    _replace(found, data=values)


def enormous(file: h5py.File, rng: Generator) -> None:
    """Claim a size of which next to nothing is stored."""
    for _ in range(int(_choice(rng, (1, 1, 2, 5)))):
        found = _array(file, rng)
        width = found.shape[1:]
        rows = int(_choice(rng, (10**5, 10**6, 5 * 10**6, 2**25, 6 * 10**7, 2**31, 10**12, 2**62)))
        dtype = _choice(rng, (found.dtype, "i1", "f8", "bool"))
        shape = _choice(
            rng, ((rows, *width), (rows,), (len(found) if found.shape else 1, rows), (rows, 1))
        )
        fill = _choice(rng, (None, 0, 1))
        try:
            _replace(found, shape=shape, dtype=dtype, chunks=True, fillvalue=fill)
        except (ValueError, OverflowError, TypeError, OSError):
            _replace(found, shape=(1000, 1000), dtype="i1", chunks=True)


def enormous_together(file: h5py.File, rng: Generator) -> None:
    """Claim the same number of rows everywhere, so that nothing is wrong but the size."""
    rows = int(_choice(rng, (10**6, 4 * 10**6, 10**7, 3 * 10**7, 6 * 10**7)))
    wide = bool(rng.integers(2))
    fill = int(rng.integers(2))
    for found in _objects(file, h5py.Dataset):
        if found.shape:
            shape = (rows, *(found.shape[1:] if wide else [1] * (len(found.shape) - 1)))
            _replace(found, shape=shape, dtype="i1", chunks=True, fillvalue=fill)


def huge_chunks(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    if not found.shape or found.dtype.kind not in "biuf":
        return
    rows = int(_choice(rng, (2**20, 2**24, 2**26, 2**28, 2**31, 2**32 - 1)))
    chunk = (rows, *(max(n, 1) for n in found.shape[1:]))
    values, free = found[()], (None,) * len(found.shape)
    packed = _choice(
        rng, ({}, {"compression": "gzip"}, {"compression": "lzf"}, {"fletcher32": True})
    )
    size = int(np.prod(chunk, dtype=object)) * found.dtype.itemsize
    try:
        if size < 2**24:
            _replace(found, data=values, chunks=chunk, maxshape=free, **packed)
        else:  # nothing is written: that would take the memory here
            _replace(
                found, shape=found.shape, dtype=found.dtype, chunks=chunk, maxshape=free, **packed
            )
    except (ValueError, OSError):
        _replace(found, data=values)


def bomb(file: h5py.File, rng: Generator) -> None:
    """Store a chunk that unpacks to far more than a chunk, once or twice packed."""
    parent, name = _parent(found := _array(file, rng))
    if not found.shape:
        return
    times, size = int(_choice(rng, (1, 2))), int(_choice(rng, (10**6, 10**7, 10**8)))
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(tuple(max(n, 1) for n in found.shape))
    for _ in range(times):
        plist.set_deflate(9)
    packed = zlib.compress(bytes(size), 9)
    if times == 2:
        packed = zlib.compress(packed if size < 10**8 else packed * 20, 9)
    kind, space = h5t.IEEE_F64LE, h5s.create_simple(found.shape)
    del parent[name]
    data = h5d.create(parent.id, name.encode(), kind, space, plist)
    if 0 not in found.shape:
        data.write_direct_chunk((0,) * len(found.shape), packed)


def other_filter(file: h5py.File, rng: Generator) -> None:
    """Pack with filters that are rare, and with parameters that do not fit."""
    parent, name = _parent(found := _array(file, rng))
    if not found.shape or 0 in found.shape or found.dtype.kind not in "biuf":
        return
    shape, values = found.shape, rng.bytes(int(rng.integers(1, 3000)))
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(shape)
    for _ in range(int(_choice(rng, (1, 1, 2, 5)))):
        code = int(_choice(rng, (1, 2, 3, 4, 5, 6, 32000, 32001, 32015, 65535)))
        given = tuple(int(rng.integers(2**32)) for _ in range(int(rng.integers(0, 21))))
        if rng.random() < 0.5:
            given = tuple(int(_choice(rng, (0, 1, 2, 4, 8, 2**31, 2**32 - 1))) for _ in given)
        try:
            plist.set_filter(code, h5z.FLAG_OPTIONAL, given)
        except (ValueError, RuntimeError, OSError):
            continue
    del parent[name]
    kind = h5t.py_create(np.dtype("f8"))
    try:
        data = h5d.create(parent.id, name.encode(), kind, h5s.create_simple(shape), plist)
        data.write_direct_chunk((0,) * len(shape), values, 0)
    except (ValueError, RuntimeError, OSError, TypeError):
        if name not in parent:
            parent.create_dataset(name, shape, "f4")


def link(file: h5py.File, rng: Generator) -> None:
    """Put a link in an object's place: to elsewhere, to itself, to what is above it."""
    found = _choice(rng, _objects(file, (h5py.Dataset, h5py.Group)))
    parent, name = _parent(found)
    del parent[name]
    target = _choice(rng, [file, *_objects(file, (h5py.Dataset, h5py.Group))])
    kind = int(rng.integers(4))
    if kind == 0:
        path = _choice(rng, (target.name, found.name, "/", "/nothing", "."))
        parent[name] = h5py.SoftLink(path)
    elif kind == 1:
        where = _choice(
            rng, ("/etc/passwd", "data.hdf5", "main_data.hdf5", "../x.h5", "/dev/zero", "")
        )
        parent[name] = h5py.ExternalLink(where or "x", target.name)
    elif kind == 2:
        parent[name] = target
    else:  # a cycle of groups
        parent[name] = parent


def linked_often(file: h5py.File, rng: Generator) -> None:
    """Give one object thousands of names."""
    parent, name = _parent(_choice(rng, _objects(file, (h5py.Dataset, h5py.Group))))
    for i in range(int(_choice(rng, (10, 3000)))):
        if f"episode_{i}" not in parent:
            parent[f"episode_{i}"] = parent[name]


def named_type(file: h5py.File, rng: Generator) -> None:
    parent, name = _parent(_array(file, rng))
    del parent[name]
    parent[name] = np.dtype(_choice(rng, ("f4", "i8", "S3")))


def group_or_array(file: h5py.File, rng: Generator) -> None:
    """Put a group in an array's place, or an array in a group's."""
    found = _choice(rng, _objects(file, (h5py.Dataset, h5py.Group)))
    parent, name = _parent(found)
    del parent[name]
    if isinstance(found, h5py.Dataset):
        parent.create_group(name)
    else:
        parent[name] = np.arange(3.0)


def virtual(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    parent, name = _parent(found)
    if not found.shape or 0 in found.shape or found.dtype.kind not in "biuf":
        return
    layout = h5py.VirtualLayout(shape=found.shape, dtype=found.dtype)
    where = _choice(rng, (".", "/etc/passwd", "data.hdf5", "%b", "x" * 300))
    layout[...] = h5py.VirtualSource(where, _choice(rng, (found.name, "/a")), shape=found.shape)
    del parent[name]
    parent.create_virtual_dataset(name, layout, fillvalue=1)


def external(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    if found.shape and 0 not in found.shape and found.dtype.kind in "biuf":
        where = _choice(rng, ("/etc/passwd", "/dev/zero", "/proc/self/mem", "x.bin"))
        _replace(
            found, shape=found.shape, dtype=found.dtype, external=[(where, 0, h5py.h5f.UNLIMITED)]
        )


def not_written(file: h5py.File, rng: Generator) -> None:
    """Claim values that are only the fill value, or none at all."""
    parent, name = _parent(found := _array(file, rng))
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_alloc_time(int(_choice(rng, (h5d.ALLOC_TIME_LATE, h5d.ALLOC_TIME_EARLY))))
    plist.set_fill_time(int(_choice(rng, (h5d.FILL_TIME_NEVER, h5d.FILL_TIME_ALLOC))))
    if rng.random() < 0.5:
        plist.set_fill_value(np.array(_choice(rng, (np.nan, np.inf, 1.0, 1e300))))
    del parent[name]
    shape = found.shape or (3,)
    h5d.create(parent.id, name.encode(), h5t.IEEE_F64LE, h5s.create_simple(shape), plist)


def compact(file: h5py.File, rng: Generator) -> None:
    parent, name = _parent(found := _array(file, rng))
    values = np.asarray(found[()])
    if not values.size or values.nbytes > 60000 or values.dtype.kind not in "biuf":
        return
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_layout(h5d.COMPACT)
    del parent[name]
    kind, space = h5t.py_create(values.dtype, logical=True), h5s.create_simple(values.shape or (1,))
    data = h5d.create(parent.id, name.encode(), kind, space, plist)
    data.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(values.reshape(values.shape or (1,))))


def rename(file: h5py.File, rng: Generator) -> None:
    parent, name = _parent(_choice(rng, _objects(file, (h5py.Dataset, h5py.Group))))
    odd = (*_NAMES, "\n", "a\nb", "é", "\x1b[2J", "x" * 60000, " ", "..")
    new = _choice(rng, odd)
    if new not in parent:
        parent.move(name, new)


def attributes(file: h5py.File, rng: Generator) -> None:
    found = _choice(rng, _objects(file, (h5py.Dataset, h5py.Group)))
    for key in ("id", "total_steps", "seed"):
        found.attrs[key] = _choice(rng, (1, -1, "x", [1.0] * 100, np.nan, b"\xff"))


def comment(file: h5py.File, rng: Generator) -> None:
    found = _array(file, rng)
    h5o.set_comment(found.id, b"x" * int(_choice(rng, (1, 60000))))


OPERATIONS: dict[str, Callable[[h5py.File, Generator], None]] = {
    f"h5py {made.__name__}": made
    for made in (
        *(delete, other_dtype, odd_number, other_type_class, other_shape, empty_space, other_rows),
        *(odd_values, enormous, enormous_together, huge_chunks, bomb, other_filter, link),
        *(linked_often, named_type, group_or_array, virtual, external, not_written, compact),
        *(rename, attributes, comment),
    )
}


def mutate(content: bytes, name: str, rng: Generator, scratch: Path) -> bytes:
    """Return an HDF5 file after one operation, or a few of the same kind."""
    scratch.write_bytes(content)
    with h5py.File(scratch, "r+", libver=_choice(rng, ("earliest", "latest"))) as file:
        for _ in range(int(_choice(rng, (1, 1, 1, 2, 4)))):
            if len(_objects(file, h5py.Dataset)):
                OPERATIONS[name](file, rng)
    mutated = scratch.read_bytes()
    scratch.unlink()
    return mutated
