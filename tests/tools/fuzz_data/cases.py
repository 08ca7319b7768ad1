"""One case: a base, and what is done to it. (seed, index) decides all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from . import bases, columns, hdf5, metadata, raw
from .bases import Tree


@dataclass
class Case:
    """A mutated data set."""

    base: str
    way: str
    tree: Tree


_SHARES = {"minari-flat": 3, "minari-dict": 2, "d4rl": 4, "arrow": 2, "parquet": 2}


def make(seed: int, index: int, folder: Path, scratch: Path) -> Case:
    """Return a case; `folder` holds the bases, `scratch` is a file that may be written."""
    rng = np.random.default_rng([seed, index])
    names = bases.names()
    kinds = sorted({name.split("/")[0] for name in names})
    shares = np.array([_SHARES.get(kind, 1) for kind in kinds], np.float64)
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    variants = [name for name in names if name.startswith(f"{kind}/")]
    base = variants[int(rng.integers(len(variants)))]
    case = Case(base, "", bases.load(folder, base))
    _mutate(case, rng, folder, scratch)
    return case


def _mutate(case: Case, rng: Generator, folder: Path, scratch: Path) -> None:
    tree, draw = case.tree, rng.random()
    paths = sorted(tree)
    if draw < 0.02:  # a file is missing, or another one's
        path = paths[int(rng.integers(len(paths)))]
        if rng.random() < 0.5:
            case.way = "file missing"
            del tree[path]
        else:
            case.way = "file of another"
            names = bases.names()
            other = bases.load(folder, names[int(rng.integers(len(names)))])
            tree[path] = other[sorted(other)[int(rng.integers(len(other)))]]
        return
    texts = [path for path in paths if path.endswith(".json")]
    others = [path for path in paths if path not in texts] or texts
    chosen = texts if texts and rng.random() < 0.3 else others
    path = chosen[int(rng.integers(len(chosen)))]
    content, suffix = tree[path], path[path.rfind(".") :]
    if draw < 0.55 or (suffix == ".json" and draw < 0.8):
        try:
            if _structured(case, path, content, suffix, rng, scratch):
                return
        except Exception:
            pass  # the library does not let itself be misused like that
    case.tree[path] = content
    _bytes(case, path, rng)


def _structured(
    case: Case, path: str, content: bytes, suffix: str, rng: Generator, scratch: Path
) -> bool:
    """Mutate by way of a file's library; return whether there is one."""
    if suffix == ".json":
        names = metadata.NAMES if path == "data/metadata.json" else metadata.NAMES_ANYWHERE
        case.way = names[int(rng.integers(len(names)))]
        if path == "about.json" and rng.random() < 0.5:
            case.way, case.tree[path] = "json field", columns.about(content, rng)
        else:
            case.tree[path] = metadata.mutate(content, case.way, rng)
    elif suffix == ".hdf5" and content.startswith(b"\x89HDF"):
        names = list(hdf5.OPERATIONS)
        case.way = names[int(rng.integers(len(names)))]
        case.tree[path] = hdf5.mutate(content, case.way, rng, scratch)
    elif suffix in columns.BY_SUFFIX and case.base != "html/page":
        case.way, mutate = columns.BY_SUFFIX[suffix]
        case.tree[path] = mutate(content, rng)
    else:
        return False
    return True


def _bytes(case: Case, path: str, rng: Generator) -> None:
    is_hdf5 = case.tree[path].startswith(b"\x89HDF")
    ways = raw.HDF5 if is_hdf5 and rng.random() < 0.6 else raw.ANY
    names = list(ways)
    case.way = names[int(rng.integers(len(names)))]
    data = bytearray(case.tree[path])
    for _ in range(1 if rng.random() < 0.8 else 3):
        data = ways[case.way](data, rng)
    case.tree[path] = bytes(data)
