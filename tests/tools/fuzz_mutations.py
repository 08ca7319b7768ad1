"""Checkpoints and states with something wrong in them, each the same for its seed and number."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

JSON, TENSORS, SUMS = "agent.json", "model.safetensors", "SHA256SUMS"
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    2**16,
    10**6,
    10**9,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
]
VALUES: list[Any] = [
    *(*NUMBERS, float("inf"), float("nan"), None, True, False, [], {}, [[]], {"a": 1}, [1, 2, 3]),
    *(
        "",
        "x",
        "../../x",
        "/etc/passwd",
        "mingru",
        "attention",
        "mingru,attention",
        "linear",
        "F64",
    ),
    *(
        "\0",
        "\ud800",
        "a" * 10_000,
        ",".join(["gru"] * 1000),
        "os:Evil-v0",
        "s4d",
        "mamba",
        "🙂",
        "1e5",
        "None",
    ),
]
OPTIONS = [
    "window",
    "num_heads",
    "num_kv_heads",
    "positions",
    "d_state",
    "expand",
    "pairs",
    "states",
]
"""Of cells; some have none of these."""


class Canary:
    """What would run if anybody unpickled it: makes the file of this name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Run os.mkdir when unpickled."""
        return os.mkdir, (str(self.path),)


def mutate(base: Path, case: Path, rng: random.Random, canary: Path) -> str:
    """Write a broken copy of the folder `base` to `case`; return what was done to it."""
    shutil.copytree(base, case)
    json_name, tensors = (next(base.glob(f"*.{end}")).name for end in ("json", "safetensors"))
    name = rng.choice([*[json_name] * 5, *[tensors] * 4, SUMS])
    kinds = {
        json_name: [*[metadata] * 8, octets, whole],
        tensors: [*[header] * 6, octets, octets, whole],
    }
    ways = kinds.get(name, [octets, whole])
    done: list[str] = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        way = rng.choice(ways)
        way(case / name, rng, canary)
        done.append(way.__name__)
        if way is whole:
            break
    # Sums of the file as it was are caught at once: most of those who mean harm write their own.
    sums = rng.choice(["kept", "new", "new", "new", "none"])
    if name != SUMS and sums == "new":
        write_sums(case)
    elif name != SUMS and sums == "none":
        (case / SUMS).unlink()
        old_format(case / json_name)
    return f"{base.name} {name} {'+'.join(done)}, sums {sums}"


def write_sums(case: Path) -> None:
    """Write the checksums that these files have."""
    files = sorted(path for path in case.iterdir() if path.is_file() and path.name != SUMS)
    files = [file for file in files if not file.is_symlink()]
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
    (case / SUMS).write_text("".join(lines))


def old_format(path: Path) -> None:
    """Say that a checkpoint is of format 1, where that can be said."""
    if path.is_file() and not path.is_symlink():
        path.write_bytes(re.sub(rb'"format": \d+', b'"format": 1', path.read_bytes()))


def octets(path: Path, rng: random.Random, canary: Path) -> None:
    """Change, remove, repeat or add some bytes."""
    del canary
    data = bytearray(path.read_bytes())
    # Most of the bytes are weights: look more often at the beginning.
    at = rng.randrange(max(1, min(len(data), rng.choice([16, 2000, len(data)]))))
    size = rng.choice([1, 1, 2, 8, 100])
    match rng.randrange(6):
        case 0 if data:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + size] = rng.randbytes(size)
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = data[at : at + size]
        case 4:
            del data[at:]
        case _:
            data += rng.randbytes(size)
    path.write_bytes(bytes(data))


def header(path: Path, rng: random.Random, canary: Path) -> None:
    """Change the header of a safetensors file, and nothing of its data."""
    del canary
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        table = json.loads(data[8 : 8 + length])
    except ValueError:
        return
    if not isinstance(table, dict) or not table:
        return
    if rng.random() < 0.1:
        claimed = rng.choice([0, 1, 2**20, 2**31, 2**40, 2**64 - 1, length + 1, length - 1])
        path.write_bytes(claimed.to_bytes(8, "little") + data[8:])
        return
    name = rng.choice(list(table))
    match rng.randrange(7):
        case 0:
            table[rng.choice(["x", "__metadata__", "../x", name + "."])] = table.pop(name)
        case 1:
            table["extra"] = rng.choice([table[name], {"dtype": "F32", "shape": [10**9]}])
        case 2:
            table[name] = rng.choice(VALUES)
        case 3 if isinstance(table[name], dict):
            shape = list(table[name].get("shape") or [])
            table[name]["shape"] = rng.choice([shape[::-1], [10**9, *shape], [*shape, 1], [-1], []])
        case 4:
            grow(table, 10 ** rng.randrange(3, 14), name)
        case _:
            change(table, rng)
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def grow(table: dict[str, Any], size: int, name: str) -> None:
    """Let a tensor claim `size` numbers, with offsets that fit."""
    entry = table[name]
    if isinstance(entry, dict) and isinstance(entry.get("data_offsets"), list):
        begin = entry["data_offsets"][0]
        table[name] = {"dtype": "F32", "shape": [size], "data_offsets": [begin, begin + 4 * size]}


def metadata(path: Path, rng: random.Random, canary: Path) -> None:
    """Change something that agent.json says."""
    del canary
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if not isinstance(table, dict) or not table:
        return
    model = table.get("model")
    if isinstance(model, dict) and model and rng.random() < 0.7:
        cell = model.get("cell")
        if isinstance(cell, dict) and rng.random() < 0.3:
            model, name = cell, rng.choice(OPTIONS)
        else:
            name = rng.choice(list(model))
        model[name] = rng.choice(alike(model.get(name, 1)))
    elif rng.random() < 0.1:
        depth = rng.choice([100, 900, 3000, 100_000])
        path.write_bytes(
            path.read_bytes()[:-2] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"
        )
        return
    else:
        change(table, rng)
    path.write_text(json.dumps(table))


def alike(value: Any) -> list[Any]:
    """Return values to put in the place of one: mostly of its type, as others are soon refused."""
    of_type = [other for other in VALUES if type(other) is type(value)]
    if isinstance(value, int) and not isinstance(value, bool):
        of_type += [value + 1, 2 * value, 3 * value, 20, 100]
    return [*of_type * (1 + 2 * len(VALUES) // max(1, len(of_type))), *VALUES]


def change(table: Any, rng: random.Random) -> None:
    """Replace, drop or add something, anywhere in what JSON holds."""
    while True:
        keys = list(table) if isinstance(table, dict) else list(range(len(table)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(table[key], dict | list) or not table[key] or rng.random() < 0.3:
            break
        table = table[key]
    match rng.randrange(5):
        case 0:
            del table[key]
        case 1 if isinstance(table, dict):
            table[str(rng.choice(VALUES))] = table[key]
        case 2 if isinstance(table[key], int | float) and not isinstance(table[key], bool):
            table[key] = rng.choice(
                [table[key] + 1, -table[key], table[key] * 2, float(table[key])]
            )
        case _:
            table[key] = rng.choice(alike(table[key]))


def whole(path: Path, rng: random.Random, canary: Path) -> None:
    """Put something else in the place of the file."""
    path.unlink()
    rng.choice(WHOLES)(path, canary)


def _zip(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../escaped", "x")
        file.writestr("archive/data.pkl", pickle.dumps(Canary(canary)))


def _objects(path: Path, canary: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, obs_mean=np.array([Canary(canary)], dtype=object))
    path.write_bytes(buffer.getvalue())


WHOLES: list[Callable[[Path, Path], Any]] = [
    lambda path, canary: path.write_bytes(pickle.dumps({"obs_mean": Canary(canary)})),
    _zip,
    _objects,
    lambda path, _: path.write_bytes(b""),
    lambda path, _: path.write_bytes(bytes(100_000)),
    lambda path, _: path.write_bytes(b"[" * 500_000),
    lambda path, _: path.write_bytes(b'{"a":' * 100_000),
    lambda path, _: path.write_bytes(b"9" * 100_000),
    lambda path, _: path.write_bytes(b"[" + b"[]," * 2_000_000 + b"[]]"),
    lambda path, _: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000)),
    lambda path, _: path.mkdir(),
    lambda path, _: path.symlink_to("/dev/zero"),
    lambda path, _: path.symlink_to(path.name),
    lambda path, _: path.symlink_to("/etc/passwd"),
    lambda path, _: os.mkfifo(path),
    lambda path, _: None,
]
