from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from envs.errors import UserError
from envs.sources.hdf5 import has, numeric, open_hdf5, read, read_into


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "data.hdf5"
    with h5py.File(target, "w") as file:
        file["x"] = np.arange(12.0).reshape(6, 2)
        file["deep/er/y"] = np.arange(6)
        file["flag"] = np.array([True, False, True])
        file["scalar"] = 3.0
        file["text"] = ["a", "b"]
        file["pair"] = np.zeros(3, [("a", "f4"), ("b", "i4")])
        file["nothing"] = h5py.Empty("f4")
        file["complex"] = np.zeros(3, np.complex64)
    return target


def fails(path: Path, key: str, message: str, ndim: int | None = None) -> None:
    with pytest.raises(UserError, match=message) as caught, open_hdf5(path) as file:
        numeric(file, key, ndim=ndim)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_are_found_at_any_depth(path: Path) -> None:
    with open_hdf5(path) as file:
        assert numeric(file, "x", ndim=2).shape == (6, 2)
        assert numeric(file, "deep/er/y").shape == (6,)
        group = file["deep"]
        assert isinstance(group, h5py.Group)
        assert numeric(group, "er/y", ndim=1).shape == (6,)
        assert numeric(file, "flag").dtype == np.bool_


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("z", "z is missing; there is: complex, deep, flag, nothing"),
        ("deep/z", "deep/z is missing; there is: er"),
        ("x/z", "x/z is missing; what is above is an array"),
        ("deep", "deep is a group, not an array; there is: er"),
        ("scalar", r"scalar has shape \(\); store an array of one dimension or more"),
        ("text", "text is of type object; store an array of numbers"),
        ("pair", "pair is of type .*; store an array of numbers"),
        ("nothing", "nothing is of type float32; store an array of numbers"),
        ("complex", "complex is of type complex64; store an array of numbers"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(path: Path, key: str, message: str) -> None:
    fails(path, key, message)


def test_other_dimensions_are_refused(path: Path) -> None:
    fails(path, "x", r"x has shape \(6, 2\); store an array of 1 dimension$", ndim=1)
    fails(path, "flag", r"flag has shape \(3,\); store an array of 2 dimensions$", ndim=2)


def test_at_most_twelve_names_are_listed(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for i in range(30):
            file[f"a{i:02}"] = [1.0]
    fails(path, "z", r"there is: a00, .*, a11, \.\.\.$")


WEB_PAGE = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>"
NOT_HDF5 = {
    "empty": (b"", "is empty; delete it and download"),
    "web page": (WEB_PAGE, "holds a web page, perhaps a server's error message; delete it"),
    "xml": (b'\xef\xbb\xbf<?xml version="1.0"?>', "holds a web page"),
    "zip": (b"PK\x03\x04" + bytes(99), "is an archive, not an HDF5 file; unpack it"),
    "gzip": (b"\x1f\x8b" + bytes(99), "is an archive"),
    "text": (b"obs,action\n1,2\n", r"is not an HDF5 file \(it begins with b'obs,acti'\)"),
    "zeros": (bytes(5000), "is not an HDF5 file"),
}


@pytest.mark.parametrize(("content", "message"), NOT_HDF5.values(), ids=NOT_HDF5.keys())
def test_what_is_not_hdf5_is_said_in_plain_words(
    tmp_path: Path, content: bytes, message: str
) -> None:
    target = tmp_path / "data.hdf5"
    target.write_bytes(content)
    fails(target, "x", message)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    fails(tmp_path / "no.hdf5", "x", "does not exist; check the path")
    fails(tmp_path, "x", r"cannot be opened \(Is a directory\)")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_says_so(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    fails(path, "x", r"is cut off after [\d,]+ bytes; delete it and download")


def test_a_file_behind_a_user_block_is_read(tmp_path: Path) -> None:
    target = tmp_path / "block.hdf5"
    with h5py.File(target, "w", userblock_size=2048) as file:
        file["x"] = [1.0]
    with open_hdf5(target) as file:
        assert numeric(file, "x").shape == (1,)


@pytest.mark.parametrize("kind", ["external", "soft", "soft group"])
def test_links_are_not_followed(path: Path, kind: str) -> None:
    with h5py.File(path, "a") as file:
        if kind == "external":
            file["link"] = h5py.ExternalLink("/etc/other.hdf5", "/x")
        else:
            file["link"] = h5py.SoftLink("/x" if kind == "soft" else "/deep")
    fails(path, "link/er/y" if kind == "soft group" else "link", "is a link to elsewhere")


def test_an_entry_is_there_without_following_it(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["link"] = h5py.ExternalLink("/etc/other.hdf5", "/x")
    with open_hdf5(path) as file:
        assert has(file, "x")
        assert has(file, "link")
        assert not has(file, "y")


def test_arrays_in_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "raw.bin").write_bytes(bytes(64))
    layout = h5py.VirtualLayout((6, 2), "f8")
    layout[:] = h5py.VirtualSource(path, "x", (6, 2))
    with h5py.File(path, "a") as file:
        file.create_dataset("raw", (8,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 64)])
        file.create_virtual_dataset("virtual", layout)
    fails(path, "raw", "raw lies in another file; store the array itself")
    fails(path, "virtual", "virtual lies in another file")


def declare(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("big", shape, "f4", chunks=chunks)


@pytest.mark.parametrize("chunks", [None, (1000, 1000)])
def test_a_size_that_the_file_cannot_hold_is_refused(
    path: Path, chunks: tuple[int, ...] | None
) -> None:
    declare(path, (10**9, 1000), chunks)
    assert path.stat().st_size < 50_000
    fails(path, "big", r"big claims 4,000,000,000,000 bytes of which there are 0, fewer")


def test_a_chunk_that_does_not_fit_memory_is_refused(path: Path) -> None:
    declare(path, (2**28, 2), (2**27, 1))
    fails(path, "big", r"big has chunks of 536,870,912 bytes, the limit is 268,435,456; repack")


def test_a_chunk_that_unpacks_to_much_is_measured_by_what_is_stored(path: Path) -> None:
    with h5py.File(path, "a") as file:
        options = {"compression": "gzip", "chunks": (2**20, 1)}
        file.create_dataset("dense", data=np.zeros((2**25, 1), np.float32), **options)
        bomb = file.create_dataset("bomb", (2**40, 1), "f4", **options)
        bomb[: 2**20] = 0
    with open_hdf5(path) as file:
        assert numeric(file, "dense").shape == (2**25, 1)  # 128 MB in 130 kB: honest zeros
    fails(path, "bomb", "bomb claims 4,398,046,511,104 bytes")


def test_a_filter_that_is_not_there_is_named(path: Path) -> None:
    with h5py.File(path, "a") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
        space, kind = h5py.h5s.create_simple((8,)), h5py.h5t.NATIVE_FLOAT
        h5py.h5d.create(file.id, b"packed", kind, space, plist)
    fails(path, "packed", r"packed with the filter 32001, .*h5repack -f GZIP=4")


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "f8", "i1", "i8", ">u2", "?"])
def test_every_type_of_number_becomes_float32(tmp_path: Path, dtype: str) -> None:
    values = (np.arange(10).reshape(5, 2) % 2).astype(dtype)
    with h5py.File(tmp_path / "kinds.hdf5", "w") as file:
        file["x"] = values
    out, part = np.full((5, 2), 9.0, np.float32), np.full((2, 2), 9.0, np.float32)
    with open_hdf5(tmp_path / "kinds.hdf5") as file:
        read_into(numeric(file, "x"), out)
        read_into(numeric(file, "x"), part, slice(1, 3))
        read_into(numeric(file, "x"), part[:0], slice(2, 2))
    np.testing.assert_array_equal(out, values.astype(np.float32))
    np.testing.assert_array_equal(part, out[1:3])


def test_float64_rounds_as_numpy_does_and_overflows_to_infinity(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=1000) * np.logspace(-45, 38, 1000)
    values[:2] = 1e300, -1e39
    with h5py.File(tmp_path / "kinds.hdf5", "w") as file:
        file["x"] = values[:, None]
    out = np.zeros(1000, np.float32)
    with open_hdf5(tmp_path / "kinds.hdf5") as file:
        read_into(numeric(file, "x"), out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, values.astype(np.float32))
    assert out[0] == np.inf
    assert out[1] == -np.inf


@pytest.mark.parametrize(
    "fail",
    [
        lambda: {}["x"],
        lambda: np.zeros(3).reshape(2, 2),
        lambda: np.zeros(10**15),
        lambda: h5py.File("no/such/file"),
    ],
)
def test_what_is_raised_inside_becomes_one_line(path: Path, fail: Callable[[], object]) -> None:
    with (
        pytest.raises(UserError, match=rf"^{re.escape(str(path))} .*; \w+") as caught,
        open_hdf5(path),
    ):
        fail()
    assert "\n" not in str(caught.value)


def test_an_error_of_ours_stays_as_it_is(path: Path) -> None:
    with pytest.raises(UserError, match=r"^mine$"), open_hdf5(path):
        raise UserError("mine")


def test_a_byte_changed_anywhere_is_read_or_refused(path: Path) -> None:
    content = path.read_bytes()
    rng, read, errors = np.random.default_rng(0), 0, list[str]()
    for _, key in itertools.product(range(40), ("x", "deep/er/y", "flag")):
        broken = bytearray(content)
        for place in rng.integers(len(content), size=8):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            with open_hdf5(path) as file:
                numeric(file, key)[()]
            read += 1
        except UserError as error:
            errors.append(str(error))
    assert read > 0
    assert len(errors) > 0
    assert not any("\n" in error for error in errors)


def test_a_file_of_the_newest_format_is_asked_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "new.hdf5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("a/b", data=np.arange(6.0), maxshape=(None,), chunks=(2,))
        file["a/up"] = file["/"]  # a cycle
        file["gone"] = h5py.SoftLink("/nowhere")
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(read(numeric(file, "a/b")), np.arange(6.0))


def test_a_file_that_the_other_process_does_not_survive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old.hdf5", tmp_path / "new.hdf5"
    for path, libver in ((old, "earliest"), (new, "latest")):
        with h5py.File(path, "w", libver=libver) as file:
            file["a"] = np.zeros(3)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with open_hdf5(old):  # of the oldest format, and not asked
        pass
    with pytest.raises(UserError, match="cannot read safely"), open_hdf5(new):
        pass
