"""The data sets that are mutated: small ones of each kind, so that a mutation hits what matters.

Each is a folder of files; `build` makes them all, the same ones every time.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ID = "fuzz/data-v0"
WALK, GOALS = "ToyWalk-v0", "ToyGoals-v0"
LENGTHS = (5, 3, 8, 1)
NAMED = ("hopper-medium-v2", "antmaze-umaze-v2", "ant-medium-v2")
"""Of D4RL: a plain set, one whose steps at the goal are many ends, one with columns left out."""
Tree = dict[str, bytes]


def build(folder: Path) -> None:
    """Write every base to folder/NAME/..., with toys.register() and register_goals() done."""
    for name, make in _BASES.items():
        for path, content in make(folder / ".scratch" / name).items():
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def names() -> list[str]:
    """Return the names of the bases: KIND/VARIANT."""
    return list(_BASES)


def load(folder: Path, name: str) -> Tree:
    """Return the files of a base by their paths."""
    base = folder / name
    files = sorted(path for path in base.rglob("*") if path.is_file())
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in files}


def _goals(lengths: tuple[int, ...] = LENGTHS) -> list[Any]:
    """Return random episodes of Goals, flat."""
    from envs.data.trajectories import Episode
    from envs.worlds.make import make_env
    from tests.support.toys import ACTION

    env, rng, made = make_env(GOALS), np.random.default_rng(1), list[Episode]()
    for seed, length in enumerate(lengths):
        obs, actions = [env.reset(seed=seed)[0]], rng.uniform(-1, 1, (length, ACTION))
        obs += [env.step(action)[0] for action in actions]
        made.append(Episode(np.array(obs), actions, rng.normal(size=length), seed % 2 == 1, seed))
    return made


def _minari(env_id: str, libver: str | None = None, **storage: Any) -> Callable[[Path], Tree]:
    def make(scratch: Path) -> Tree:
        from envs.sources import minari
        from tests.support.toys import episodes

        os.environ["MINARI_DATASETS_PATH"] = str(scratch)
        given = episodes(LENGTHS) if env_id == WALK else _goals()
        minari.write(ID, given, env=env_id, description="base")
        tree = load(scratch, f"{ID}/data")
        if libver or storage:
            image = tree["main_data.hdf5"]
            tree["main_data.hdf5"] = _stored_anew(image, libver or "earliest", storage)
        return {f"data/{path}": content for path, content in tree.items()}

    return make


def _stored_anew(image: bytes, libver: str, storage: dict[str, Any]) -> bytes:
    """Return an HDF5 file with the same content, stored in another way."""
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(image), "r") as old, h5py.File(buffer, "w", libver=libver) as new:

        def copy(name: str, found: Any) -> None:
            if isinstance(found, h5py.Group):
                made: Any = new.require_group(name)
            else:
                made = new.create_dataset(name, data=found[()], **_options(found, storage))
            for key, value in found.attrs.items():
                made.attrs[key] = value

        old.visititems(copy)
    return buffer.getvalue()


def _options(values: Any, storage: dict[str, Any]) -> dict[str, Any]:
    if not values.shape:
        return {}
    free = {"maxshape": (None,) * len(values.shape)} if storage.get("chunks") else {}
    return {**storage, **free}


def _columns(env_id: str, data_format: str) -> Callable[[Path], Tree]:
    def make(scratch: Path) -> Tree:
        import minari
        from minari.data_collector import EpisodeBuffer

        from envs.worlds.flat import parts
        from envs.worlds.make import make_raw
        from tests.support.toys import episodes

        os.environ["MINARI_DATASETS_PATH"] = str(scratch)
        space = make_raw(env_id).observation_space
        layout = parts(space, where=env_id)
        ends = np.cumsum([part.width for part in layout])[:-1]
        buffers: list[EpisodeBuffer] = []
        for episode in episodes(LENGTHS) if env_id == WALK else _goals():
            steps, obs = len(episode.reward), episode.obs
            if env_id == GOALS:
                split = np.split(episode.obs, ends, axis=1)
                found = {p.name: p.decode(v) for p, v in zip(layout, split, strict=True)}
                obs = {
                    "goal": {"x": found["goal/x"], "y": found["goal/y"]},
                    "mode": found["mode"],
                    "pair": (found["pair/0"], found["pair/1"]),
                    "speed": found["speed"],
                }
            last = [False] * (steps - 1)
            buffers.append(
                EpisodeBuffer(
                    observations=obs,
                    actions=episode.action.astype(np.float32),  # type: ignore[arg-type]
                    rewards=list(episode.reward),
                    terminations=[*last, episode.terminated],
                    truncations=[*last, not episode.terminated],
                )
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(ID, buffers, env=env_id, data_format=data_format)
        tree = load(scratch, f"{ID}/data")
        return {f"data/{path}": content for path, content in tree.items()}

    return make


def _packed_arrow(scratch: Path) -> Tree:
    """Return the Arrow base with packed buffers: each begins with its size unpacked."""
    import pyarrow as pa

    tree = _columns(WALK, "arrow")(scratch)
    for i, (path, content) in enumerate(tree.items()):
        if path.endswith(".arrow"):
            sink = io.BytesIO()
            table = pa.ipc.open_file(content).read_all()
            packing = pa.ipc.IpcWriteOptions(compression=("lz4", "zstd")[i % 2])
            with pa.ipc.new_file(sink, table.schema, options=packing) as writer:
                writer.write_table(table)
            tree[path] = sink.getvalue()
    return tree


def _arrays(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of D4RL's layout for one of its data sets, or for "" of the walk."""
    from tests.support import d4rl_files
    from tests.support.toys import episodes

    lengths = (6, 4, 9, 1, 3)
    return d4rl_files.random_arrays(name, lengths) if name else d4rl_files.arrays(episodes(lengths))


def _d4rl(name: str = "", libver: str = "earliest", **storage: Any) -> Callable[[Path], Tree]:
    def make(scratch: Path) -> Tree:
        from envs.sources import d4rl

        buffer = io.BytesIO()
        with h5py.File(buffer, "w", libver=libver) as new:
            for key, values in _arrays(name).items():
                new.create_dataset(key, data=values, **_options(values, storage))
            new["metadata/algorithm"] = np.bytes_(b"SAC")
            new["metadata/iteration"] = 3
        return {d4rl.file_of(name).name if name else "data.hdf5": buffer.getvalue()}

    return make


def _npz(packed: bool) -> Callable[[Path], Tree]:
    def make(scratch: Path) -> Tree:
        buffer = io.BytesIO()
        (np.savez_compressed if packed else np.savez)(buffer, **_arrays(""))
        return {"data.npz": buffer.getvalue()}

    return make


def _cache(scratch: Path) -> Tree:
    from envs.data import cache
    from tests.support.toys import data

    os.environ["MINRNN_CACHE"] = str(scratch)
    scratch.mkdir(parents=True)
    (scratch / "key").write_bytes(b"key")
    cache.MIN_BYTES = 0
    try:
        cache.cached([scratch / "key"], {}, lambda: data(LENGTHS))
    finally:
        cache.MIN_BYTES = 16_000_000
    entry = next(path for path in scratch.iterdir() if path.is_dir())
    return load(scratch, entry.name)


def _page(scratch: Path) -> Tree:
    page = (
        b"\xef\xbb\xbf<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head>\n"
        b"<body>The server is busy: <b>try again</b></body></html>\n" * 3
    )
    metadata = json.dumps({"error": "<html>", "total_episodes": 4}).encode()
    return {
        "data.hdf5": page,
        "data.npz": page,
        "data/main_data.hdf5": page,
        "data/metadata.json": metadata,
    }


_GZIP = {"compression": "gzip", "chunks": True}
_BASES: dict[str, Callable[[Path], Tree]] = {
    "minari-flat/plain": _minari(WALK),
    "minari-flat/latest": _minari(WALK, "latest"),
    "minari-flat/chunked": _minari(WALK, chunks=True),
    "minari-flat/gzip": _minari(WALK, **_GZIP, shuffle=True, fletcher32=True),
    "minari-flat/gzip-latest": _minari(WALK, "latest", **_GZIP),
    "minari-dict/plain": _minari(GOALS),
    "minari-dict/latest": _minari(GOALS, "latest"),
    "minari-dict/gzip": _minari(GOALS, **_GZIP),
    "d4rl/gzip": _d4rl(**_GZIP),
    "d4rl/contiguous": _d4rl(),
    "d4rl/chunked": _d4rl(chunks=True),
    "d4rl/gzip-latest": _d4rl(libver="latest", **_GZIP),
    "d4rl/latest": _d4rl(libver="latest"),
    **{
        f"d4rl/{name}": _d4rl(name, libver, **_GZIP)
        for name, libver in zip(NAMED, ("earliest", "earliest", "latest"), strict=True)
    },
    "arrow/flat": _columns(WALK, "arrow"),
    "arrow/dict": _columns(GOALS, "arrow"),
    "arrow/packed": _packed_arrow,
    "parquet/flat": _columns(WALK, "parquet"),
    "parquet/dict": _columns(GOALS, "parquet"),
    "npz/plain": _npz(False),
    "npz/packed": _npz(True),
    "cache/entry": _cache,
    "html/page": _page,
}
