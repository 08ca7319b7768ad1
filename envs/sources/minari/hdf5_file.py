"""Reader of Minari's HDF5 layout: one group for each episode.

h5py's low level opens and reads many small arrays several times faster than its objects do. HDF5's
cache of metadata is kept small, as by default it grows larger than the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5s, h5t  # type: ignore[attr-defined]  # compiled, without stubs
from numpy.typing import NDArray

from envs.data.builder import TrajectoriesBuilder
from envs.data.offset import Float64
from envs.errors import UserError
from envs.sources.hdf5 import check_claim, check_storage, numeric, open_hdf5, place, read
from envs.sources.hdf5.unpack import read_packed
from envs.worlds.flat import Part

_SCRATCH = 4 * 2**20  # bytes read at a time, before they become float32
_CACHE = 2**20  # bytes of HDF5's cache of metadata


class _Array(NamedTuple):
    """An open array, with what is needed of it: each call of HDF5 makes new objects."""

    id: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: Any
    """dtype as an HDF5 type"""
    packed: bool


def read_hdf5(
    path: Path,
    name: str,
    episodes: int,
    obs: Sequence[Part],
    action: Part,
    obs_offset: Float64 | None = None,
) -> tuple[TrajectoriesBuilder, NDArray[np.bool_]]:
    """Read the first `episodes` episodes; return them and their terminations (E,).

    obs: the parts of an observation, in the order of the flat vector. obs_offset: taken off it.
    Raises UserError naming the episode and what is wrong with it.
    """
    widths = sum(part.width for part in obs), action.width
    with open_hdf5(path) as opened, np.errstate(over="ignore", invalid="ignore"):
        file = _File(opened)
        lengths = np.empty(0, np.int64) if episodes < 1 else file.lengths(episodes)
        check_claim(4 * int(lengths.sum()) * (sum(widths) + 1), path.stat().st_size, str(path))
        made = TrajectoriesBuilder(name, lengths, *widths, obs_offset)
        terminated = np.zeros(episodes, np.bool_)
        for i in range(episodes):
            first, end = int(made.starts[i]), int(made.starts[i + 1])
            group = file.open(opened.id, b"episode_%d" % i)
            at = 0
            for part in obs:
                data = file.array(group, ("observations", *part.path))
                _check_rows(data, i, name, part, end - first, 1)
                if data.shape[0] == end - first:
                    made.final_obs = None
                for row, values in file.blocks(data, data.shape[0]):
                    made.set_obs(i, row, at, part.encode(values))
                at += part.width
            data = file.array(group, ("actions",))
            _check_rows(data, i, name, action, end - first, 0)
            for row, values in file.blocks(data, end - first):
                made.action[first + row : first + row + len(values)] = values
            for row, values in file.blocks(file.array(group, ("rewards",)), end - first):
                made.reward[first + row : first + row + len(values)] = values.reshape(-1)
            terminated[i] = file.last(file.array(group, ("terminations",)))
    return made, terminated


def reset_options(path: Path) -> list[str]:
    """Return the names of the options that the first episode was reset with."""
    with open_hdf5(path) as opened:
        group = h5py.Group(_File(opened).open(opened.id, b"episode_0"))
        names = [name.split("/") for name in group.attrs]
    return sorted({name for first, *more in names if first == "options" for name in more[:1]})


def _check_rows(data: _Array, episode: int, name: str, part: Part, steps: int, extra: int) -> None:
    """Raise UserError unless an array has `steps` rows (or `extra` more) of the right width."""
    rows, *shape = data.shape
    width = 1 if part.space.shape == () else part.width
    if rows not in (steps, steps + extra) or math.prod(shape) != width:
        label = f"observations/{part.name}".rstrip("/") if extra else "actions"
        also = f" or {steps + 1}" if extra else ""
        raise UserError(
            f"{name}: episode {episode} has {label} of shape {data.shape} for {steps} rewards; "
            f"store {steps}{also} rows of {width}, or remove that episode"
        )


class _File:
    """Opens and reads the arrays of a file, with the same checks as `numeric`.

    Arrays are read into a small buffer and converted there, which is faster than in HDF5.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file, self._size = file, file.id.get_filesize()
        self._scratch = np.empty(_SCRATCH, np.uint8)
        self._kinds: dict[tuple[str | int, ...], tuple[Any, np.dtype[Any], Any]] = {}
        config = file.id.get_mdc_config()
        config.set_initial_size = True
        config.initial_size = config.min_size = config.max_size = _CACHE
        config.incr_mode = config.decr_mode = config.flash_incr_mode = 0
        file.id.set_mdc_config(config)

    def lengths(self, episodes: int) -> NDArray[np.int64]:
        """Return the number of rewards in each episode."""
        lengths: list[int] = []
        root = self._file.id
        for i in range(episodes):
            episode = b"episode_%d" % i
            rewards = episode + b"/rewards"
            try:  # only the shape; the rest is checked when the array is read
                links = (root.links.get_info(name).type for name in (episode, rewards))
                hard = all(link == h5l.TYPE_HARD for link in links)
                shape = h5d.open(root, rewards).shape if hard else ()
            except (KeyError, ValueError, RuntimeError):
                shape = ()
            if not shape:
                shape = self.array(self.open(root, episode), ("rewards",)).shape
            if math.prod(shape[1:]) != 1:
                raise UserError(
                    f"{self._file.filename}: episode_{i}/rewards has shape {shape}; store one for "
                    f"each step"
                )
            lengths.append(shape[0])
        return np.array(lengths, np.int64)

    def open(self, parent: Any, name: bytes, kind: Any = h5g) -> Any:
        """Open a group (or an array: h5d) by a hard link; other links may lead out of the file."""
        try:
            if parent.links.get_info(name).type == h5l.TYPE_HARD:
                return kind.open(parent, name)
        except (KeyError, ValueError, RuntimeError) as error:  # missing, or of the other kind
            raise self._refusal(parent, name) from error
        raise self._refusal(parent, name)

    def array(self, group: Any, path: tuple[str | int, ...]) -> _Array:
        """Open an array below an episode's group by hard links."""
        *above, last = (b"_index_%d" % p if isinstance(p, int) else p.encode() for p in path)
        for name in above:
            group = self.open(group, name)
        data = self.open(group, last, h5d)
        shape, (_, dtype, kind) = data.shape, self._kind(data, path)
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or not shape:
            raise self._refusal(group, last)
        packed = check_storage(
            data, dtype, self._size, lambda: place(h5py.Group(group), last.decode())
        )
        return _Array(data, shape, dtype, kind, packed)

    def blocks(self, data: _Array, rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (row, values) of the first rows, in blocks that fit into the buffer if possible."""
        count, *shape = data.shape
        size = math.prod(shape) * data.dtype.itemsize
        if not size:
            return
        if count * size <= len(self._scratch):
            yield 0, self._whole(data, count * size)[:rows]
            return
        plist = data.id.get_create_plist()
        chunk = plist.get_chunk()[0] if plist.get_layout() == h5d.CHUNKED else 1
        block = max(len(self._scratch) // size // chunk, 1) * chunk  # no chunk is unpacked twice
        buffer = np.empty((min(block, rows), *shape), data.dtype)
        space = data.id.get_space()
        for row in range(0, rows, block):
            values = buffer[: min(block, rows - row)]
            if data.packed:
                read_packed(data.id, values, row)
                yield row, values
                continue
            space.select_hyperslab((row, *(0 for _ in shape)), values.shape)
            data.id.read(h5s.create_simple(values.shape), space, values, data.kind)
            yield row, values

    def last(self, data: _Array) -> bool:
        """Return the last of an episode's flags, False if there are none."""
        count = math.prod(data.shape)
        if not 0 < count * data.dtype.itemsize <= len(self._scratch):
            return bool(count) and bool(read(h5py.Dataset(data.id), slice(-1, None)).any())
        return bool(self._whole(data, count * data.dtype.itemsize)[-1].any())

    def _whole(self, data: _Array, size: int) -> NDArray[Any]:
        values = self._scratch[:size].view(data.dtype).reshape(data.shape)
        if data.packed:
            read_packed(data.id, values)
        else:
            data.id.read(h5s.ALL, h5s.ALL, values, data.kind)
        return values

    def _kind(self, data: Any, path: tuple[str | int, ...]) -> tuple[Any, np.dtype[Any], Any]:
        """Return the types in the file, in NumPy and in HDF5; each is translated only once."""
        stored, found = data.get_type(), self._kinds.get(path)
        if found is None or not stored.equal(found[0]):
            dtype = stored.dtype
            found = self._kinds[path] = stored, dtype, h5t.py_create(dtype)
        return found

    def _refusal(self, parent: Any, name: bytes) -> UserError:
        """Return the error of `numeric`, which says more exactly what is wrong."""
        where = f"{h5py.Group(parent).name}/{name.decode()}".lstrip("/")
        if not parent.links.exists(name):
            return UserError(
                f"{self._file.filename} has no {where}; the data set is not whole, delete it and "
                f"make or download it again"
            )
        try:
            numeric(h5py.Group(parent), name.decode())
        except UserError as error:
            return error
        return UserError(
            f"{self._file.filename}: {where} is an array, not a group; choose another data set"
        )
