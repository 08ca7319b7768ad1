"""Mutated files, a few of many (python -m tests.tools.fuzz_data has them all), and what they
found."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import sources
from envs.data import cache
from envs.data.builder import TrajectoriesBuilder
from envs.errors import UserError, one_line
from envs.sources import arrays, minari
from envs.sources.hdf5 import read
from envs.sources.minari.stored_space import read_space
from tests.support.d4rl_files import arrays as d4rl_arrays
from tests.support.toys import data, episodes, register
from tests.tools.fuzz_data import campaign, cases
from tests.tools.fuzz_data.checksum import lookup3

pytest.importorskip("resource", reason="the worker's memory is bounded with it")


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the bases."""
    folder = tmp_path_factory.mktemp("fuzz")
    campaign.make_bases(folder / "bases")
    return folder


@pytest.mark.slow
def test_mutated_files_are_read_or_refused_with_one_line(keep: Path) -> None:
    results = list(campaign.run(seed=12345, indices=list(range(200)), keep=keep))
    failed = [result for result in results if result.outcome not in campaign.GOOD]
    assert not failed, "\n".join(f"{result}" for result in failed)
    outcomes = {result.outcome for result in results}
    assert outcomes == set(campaign.GOOD), "the mutations are too weak or too strong"


def test_a_case_is_the_same_each_time(keep: Path, tmp_path: Path) -> None:
    for index in range(60):
        one, other = (cases.make(7, index, keep / "bases", tmp_path / "x.hdf5") for _ in range(2))
        assert (one.base, one.way) == (other.base, other.way)
        if not one.way.startswith("h5py"):  # HDF5 leaves gaps as they are in memory
            assert one.tree == other.tree


def test_checksums_are_those_of_hdf5() -> None:
    text = np.frombuffer(b"Four score and seven years ago", np.uint8)
    assert lookup3(text, np.array([30])).tolist() == [0x17770551]  # lookup3.c, driver5


def test_a_worker_that_dies_is_told_of(keep: Path, tmp_path: Path) -> None:
    worker = campaign.Worker(0, keep / "bases", tmp_path / "scratch")
    try:
        worker._process.kill()
        assert worker.run(0).outcome == "crash"
        assert not worker.alive
    finally:
        worker.close()


def test_names_from_files_stay_on_one_line() -> None:
    assert str(UserError("no part a\nb\x1b[2J\ud800")) == "no part a b\\x1b[2J\\ud800"
    long = one_line("x" * 10**6 + "; mend it")
    assert len(long) < 6000
    assert long.endswith("; mend it")
    made = TrajectoriesBuilder("a", np.array([1]), 1, 1)
    made.obs[:] = made.action[:] = made.reward[:] = 0
    assert made.finish(terminated=np.ones(1, bool), env="", notes=["a\nb"]).notes == ("a b",)


@pytest.fixture
def flat() -> Path:
    """Write a Minari set of the walk; return its folder."""
    return minari.write("fuzz/flat-v0", episodes([5, 3]), env=register(), description="x") / "data"


def change(folder: Path, **fields: Any) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("key", ["env_spec", "eval_env_spec"])
def test_an_environment_of_another_module_is_refused(
    flat: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmful_module.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    change(flat, **{key: json.dumps({"id": "harmful_module:ToyWalk-v0"})})
    with pytest.raises(UserError, match="names a module"):
        sources.load("fuzz/flat-v0")


def test_many_large_parts_are_refused(flat: Path) -> None:
    part = {"type": "Box", "dtype": "float32", "shape": [9_000_000], "low": -1, "high": 1}
    space = {"type": "Dict", "subspaces": {f"part{i}": part for i in range(100)}}
    change(flat, observation_space=json.dumps(space))
    with pytest.raises(UserError, match="part1 makes more than 10,000,000 numbers"):
        sources.load("fuzz/flat-v0")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "shape", "dtype", "low", "high", "n", "nvec", "subspaces", "start"]
            ),
            inner | st.sampled_from(["Box", "Dict", "Tuple", "Discrete", "MultiBinary", "float32"]),
        )
    ),
)


@given(_JSON)
@settings(max_examples=200)
def test_json_of_any_kind_is_a_space_or_an_error(found: Any) -> None:
    try:
        space = read_space(json.dumps(found), "space")
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError):
        return
    assert space.__class__.__module__.startswith("gymnasium.spaces")


def test_numbers_that_are_hardly_stored_are_refused_in_d4rl_files(tmp_path: Path) -> None:
    """Each array is within its bound as int8, and would be four times as large as float32."""
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name in ("observations", "actions"):
            file.create_dataset(name, (30_000_000, 1), "i1", chunks=True)
        for name in ("rewards", "terminals"):
            file.create_dataset(name, (30_000_000,), "i1", chunks=True)
    with pytest.raises(UserError, match="claims 360,000,000 bytes"):
        sources.load(str(tmp_path / "x.hdf5"))


def test_a_bomb_of_two_packings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in d4rl_arrays(episodes([5, 3])).items():
            if name != "observations":
                file[name] = values
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((8, 3))
        plist.set_deflate(9)
        plist.set_deflate(9)
        space = h5py.h5s.create_simple((8, 3))
        h5py.h5d.create(file.id, b"observations", h5py.h5t.IEEE_F32LE, space, plist)
    with pytest.raises(UserError, match="packed twice"):
        sources.load(str(path), env_id=register())


def write_chunk(path: Path, steps: int, raw: bytes, *filters: str) -> Path:
    """Write a file in D4RL's layout whose rewards are one chunk of these bytes as they are."""
    with h5py.File(path, "w") as file:
        for name, columns in (("observations", 3), ("actions", 2)):
            file[name] = np.zeros((steps, columns), "i1")
        file["terminals"] = np.zeros(steps, np.bool_)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((steps,))
        for each in filters:
            plist.set_deflate(4) if each == "deflate" else getattr(plist, f"set_{each}")()
        space = h5py.h5s.create_simple((steps,))
        made = h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, space, plist)
        made.write_direct_chunk((0,), raw)
    return path


@pytest.mark.parametrize(
    ("raw", "filters", "message"),
    [
        (b"x", ("fletcher32",), "checksum is wrong"),
        (b"abc", ("deflate", "fletcher32"), "checksum is wrong"),
        (zlib.compress(b"x"), ("deflate",), "unpacks to 1 bytes and not to 4,000,000"),
        (b"x", ("shuffle",), "unpacks to 1 bytes and not to 4,000,000"),
        (zlib.compress(bytes(10**8)), ("deflate",), "unpacks to more than a chunk"),
        (zlib.compress(bytes(4 * 10**6))[:-3], ("deflate",), "cut off"),
        (b"nothing packed", ("deflate",), "cannot be unpacked"),
    ],
)
def test_a_chunk_of_another_size_is_refused(
    tmp_path: Path, raw: bytes, filters: tuple[str, ...], message: str
) -> None:
    """HDF5 2.0 itself dies of the first four, with a segmentation fault."""
    path = write_chunk(tmp_path / "x.hdf5", 10**6, raw, *filters)
    with pytest.raises(UserError, match=message):
        sources.load(str(path), env_id=register())


def test_a_chunk_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    path = write_chunk(tmp_path / "x.hdf5", 100, zlib.compress(bytes(400)), "deflate")
    image = bytearray(path.read_bytes())
    at = image.rindex(b"TREE\x01\x00") + 24  # the size of its first chunk
    image[at : at + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(image)
    with pytest.raises(UserError, match="rewards claims 2,147,483,648 bytes of the file"):
        sources.load(str(path), env_id=register())


@pytest.mark.parametrize("packing", ["lzf", "scaleoffset"])
def test_filters_that_hdf5_would_unpack_are_refused(tmp_path: Path, packing: str) -> None:
    given = d4rl_arrays(episodes([5, 3]))
    option = {"compression": "lzf"} if packing == "lzf" else {"scaleoffset": 3}
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, values in given.items():
            file.create_dataset(name, data=values, **(option if name == "rewards" else {}))
    with pytest.raises(UserError, match=r"packed with the filter .*\(h5repack -f GZIP"):
        sources.load(str(tmp_path / "x.hdf5"), env_id=register())


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2", "i1", "u2", ">i8", "bool"])
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"fletcher32": True},
        {"shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
    ],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("grows", ["none", "all", "last"])
def test_what_is_unpacked_here_is_what_hdf5_unpacks(
    tmp_path: Path, dtype: str, options: dict[str, Any], libver: str, grows: str
) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.hdf5", "w", libver=libver) as file:
        for i, (shape, chunk) in enumerate(
            [
                ((23, 3), (5, 2)),
                ((23,), (7,)),
                ((1, 1), (1, 1)),
                ((9, 4, 2), (2, 3, 2)),
                ((3,), (50,) if grows != "none" else (3,)),
            ]
        ):
            free = {"none": shape, "all": (None,) * len(shape), "last": (*shape[:-1], None)}[grows]
            values = (rng.normal(size=shape) * 50).astype(dtype)
            made = file.create_dataset(
                f"full{i}", data=values, chunks=chunk, maxshape=free, **options
            )
            partly = file.create_dataset(
                f"partly{i}", shape, dtype, chunks=chunk, maxshape=free, fillvalue=1, **options
            )
            partly[-1] = values[-1]
            for stored in (made, partly):
                file.flush()
                for first, end in {(0, len(values)), (len(values) // 2, len(values)), (0, 1)}:
                    found = read(stored, slice(first, end))
                    assert found.dtype == values.dtype
                    np.testing.assert_array_equal(found, stored[first:end])


def npz(path: Path, change: Callable[[dict[str, bytes]], Any] = lambda members: None) -> Path:
    """Write the walk's arrays as .npz after a change of its members."""
    members: dict[str, bytes] = {}
    for name, values in d4rl_arrays(episodes([5, 3])).items():
        sink = io.BytesIO()
        np.save(sink, values)
        members[f"{name}.npy"] = sink.getvalue()
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(name, member)
    return path


def head(text: str, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes((version, 0)) + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"not an array", "cannot be read as"),
        (b"", "cannot be read as"),
        (head("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9,)}"), "cannot be read"),
        (
            head("{'descr': '<f8', 'fortran_order': False, 'shape': (999999999,)}"),
            "claims 7,999,999,992 bytes",
        ),
        (head("-" * 9000 + "1"), "cannot be read as"),
        (head("(" * 9000), "cannot be read as"),
        (head("{'descr'", 9), "cannot be read as"),
    ],
)
def test_a_broken_array_in_npz_is_one_line(tmp_path: Path, member: bytes, message: str) -> None:
    path = npz(tmp_path / "x.npz", lambda members: members.update({"rewards.npy": member}))
    with pytest.raises(UserError, match=message):
        arrays.read_npz(path, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [(0, 255), (2, 1), (2, 64), (4, 99)],
    ids=["version", "key", "strong", "method"],
)
def test_a_zip_that_python_cannot_unpack_is_one_line(
    tmp_path: Path, field: int, value: int
) -> None:
    path = npz(tmp_path / "x.npz")
    image = bytearray(path.read_bytes())
    for signature, start in ((b"PK\x03\x04", 4), (b"PK\x01\x02", 6)):
        at = image.find(signature) + start + field
        image[at : at + 2] = value.to_bytes(2, "little")
    path.write_bytes(image)
    with pytest.raises(UserError, match="cannot be read as"):
        arrays.read_npz(path, None)


def test_a_zip_with_a_broken_stream_is_one_line(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz")
    image = bytearray(path.read_bytes())
    at = image.find(b"observations.npy") + 16
    image[at : at + 40] = b"\xff" * 40
    path.write_bytes(image)
    with pytest.raises(UserError, match="cannot be read as"):
        arrays.read_npz(path, None)
    path.write_bytes(image[: len(image) // 2])
    with pytest.raises(UserError, match="cannot be read as"):
        arrays.read_npz(path, None)  # and the file is closed, else pytest tells


def _fields(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        about["fields"] |= changes
        (folder / "about.json").write_text(json.dumps(about))

    return change


def _same_size(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        image = (folder / f"{name}.npy").read_bytes()
        assert old in image
        (folder / f"{name}.npy").write_bytes(image.replace(old, new))

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        _fields(name=["a"]),
        _fields(env={"env_id": None}),
        _fields(env={"env_id": "a", "env_kwargs": "x"}),
        _fields(notes=["a\nb"]),
        _fields(env={"env_id": "a", "obs_keys": [3]}),
        _same_size("obs", b"'<f4'", b"'<i4'"),
        _same_size("reward", b"(9,), }", b"(3,3),}"),
        _same_size("starts", b"'<i8'", b"'<f8'"),
        _same_size("terminated", b"}", b"("),
        _same_size("action_low", b"'<f4'", b"'>f4'"),
    ],
)
def test_a_broken_cache_costs_a_warning(
    spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    key = tmp_path / "key"
    key.write_text("key")
    cache.cached([key], {}, lambda: data([5, 4]))
    spoil(next(path for path in cache.root().iterdir() if path.is_dir()))
    with pytest.warns(UserWarning, match="cannot be read"):
        found = cache.cached([key], {}, lambda: data([5, 4]))
    np.testing.assert_array_equal(found.obs, data([5, 4]).obs)
