from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import sources
from envs.data import cache
from envs.data.sampler import PackedSampler, WindowSampler
from envs.data.trajectories import Trajectories
from envs.sources import minari
from envs.worlds.spec import EnvSpec
from tests.support.toys import data, episodes, register


@pytest.fixture(autouse=True)
def small_sets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MIN_BYTES", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("data")
    return path


class Maker:
    """Makes the same data, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0
        self.made = replace(
            data([5, 9, 1]),
            env=EnvSpec("ToyWalk-v0", {"maze": [[1, "g"]]}, ("b", "a")),
            notes=("a", "b"),
            reference=(-1.5, 2.5, "its own"),
        )

    def __call__(self) -> Trajectories:
        self.calls += 1
        return self.made


def check_same(found: Trajectories, expected: Trajectories) -> None:
    for field in fields(Trajectories):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
            assert one.dtype == other.dtype
        else:
            assert one == other, field.name


def entries() -> list[Path]:
    return sorted(cache.root().iterdir()) if cache.root().is_dir() else []


def test_the_second_time_nothing_is_made(source: Path) -> None:
    maker = Maker()
    check_same(cache.cached([source], {"a": 1}, maker), maker.made)
    found = cache.cached([source], {"a": 1}, maker)
    assert maker.calls == 1
    check_same(found, maker.made)
    found.validate()
    assert len(entries()) == 1


def test_data_without_final_observations_is_kept_so(source: Path) -> None:
    maker = Maker()
    maker.made = replace(maker.made, final_obs=None)
    cache.cached([source], {}, maker)
    check_same(cache.cached([source], {}, maker), maker.made)
    assert maker.calls == 1
    assert not list(cache.root().rglob("final_obs.npy"))


def test_what_is_found_is_a_map_of_files_that_cannot_be_written(source: Path) -> None:
    maker = Maker()
    cache.cached([source], {}, maker)
    found = cache.cached([source], {}, maker)
    for values in (found.obs, found.action, found.reward, found.final_obs):
        assert isinstance(values.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1.0


@pytest.mark.parametrize("sampler", [PackedSampler, WindowSampler])
def test_samplers_draw_the_same_from_a_map(sampler: Any, source: Path) -> None:
    maker = Maker()
    cache.cached([source], {}, maker)
    found = cache.cached([source], {}, maker)
    mapped = replace(found, obs=found.obs.base, action=found.action.base)  # np.memmap itself
    for stored in (found, mapped):
        for one, other in zip(
            sampler(stored, 4, 6, seed=3, transitions=True).sample(),
            sampler(maker.made, 4, 6, seed=3, transitions=True).sample(),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
            assert type(one) is type(other)
            if one is None:
                continue
            assert type(one) is np.ndarray
            assert one.flags.owndata
            assert one.flags.writeable


@pytest.mark.parametrize("change", ["content", "time", "path", "options", "version"])
def test_what_has_changed_is_made_again(
    change: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    options: dict[str, Any] = {"a": 1}
    cache.cached([source], options, maker)
    if change == "content":
        about = source.stat()
        source.write_text("other data")
        os.utime(source, ns=(about.st_atime_ns, about.st_mtime_ns))
    elif change == "time":
        os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    elif change == "path":
        source = source.rename(source.with_name("moved"))
    elif change == "options":
        options = {"a": 2}
    else:
        monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    cache.cached([source], options, maker)
    assert maker.calls == 2


def test_what_was_made_just_now_cannot_be_written_either(source: Path) -> None:
    for enabled in (False, True, True):
        found = cache.cached([source], {}, Maker(), enabled=enabled)
        with pytest.raises(ValueError, match="read-only"):
            found.obs[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            found.starts[0] = 1


def test_another_user_reads_what_one_has_kept(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    cache.cached([source], {}, maker)
    (entry,) = entries()
    assert entry.stat().st_mode & 0o555 == 0o555

    def others(*args: object, **kwargs: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", others)
    check_same(cache.cached([source], {}, maker), maker.made)
    assert maker.calls == 1


def test_small_sets_and_who_does_not_want_it_go_without(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    cache.cached([source], {}, maker, enabled=False)
    assert entries() == []
    monkeypatch.setattr(cache, "MIN_BYTES", cache._size(maker.made) + 1)
    cache.cached([source], {}, maker)
    assert entries() == []
    monkeypatch.setattr(cache, "MIN_BYTES", cache._size(maker.made))
    cache.cached([source], {}, maker)
    assert len(entries()) == 1
    cache.cached([source], {}, maker, enabled=False)
    assert maker.calls == 4


DAMAGE = [
    "no about",
    "bad about",
    "other about",
    "empty about",
    "no array",
    "no final_obs",
    "short",
    "long",
    "head",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_cache_is_a_warning_and_is_mended(damage: str, source: Path) -> None:
    maker = Maker()
    cache.cached([source], {}, maker)
    (folder,) = entries()
    about, array = folder / "about.json", folder / "obs.npy"
    content = array.read_bytes()
    if damage == "no about":
        about.unlink()
    elif damage == "bad about":
        about.write_text("{")
    elif damage == "other about":
        about.write_text("[1]")
    elif damage == "empty about":
        about.write_text("{}")
    elif damage == "no array":
        array.unlink()
    elif damage == "no final_obs":
        (folder / "final_obs.npy").unlink()
    elif damage == "short":
        array.write_bytes(content[:-4])
    elif damage == "long":
        array.write_bytes(content + b"\0" * 4)
    else:
        array.write_bytes(b"\0" * len(content))
    with pytest.warns(UserWarning, match="cannot be read .* reading the data from its source"):
        check_same(cache.cached([source], {}, maker), maker.made)
    check_same(cache.cached([source], {}, maker), maker.made)
    assert maker.calls == 2
    assert entries() == [folder]


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_full_disk_costs_a_warning(
    call: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    maker = Maker()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.warns(UserWarning, match=r"cannot be written .*No space left"):
            check_same(cache.cached([source], {}, maker), maker.made)
    assert entries() == []


def test_a_disk_with_too_little_room_is_not_filled(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(source)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.warns(UserWarning, match=r"cannot be written .* do not fit"):
        cache.cached([source], {}, Maker())
    assert entries() == []


def test_a_folder_that_cannot_be_one_costs_a_warning(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINRNN_CACHE", str(source / "below a file"))
    maker = Maker()
    with pytest.warns(UserWarning, match="cannot be written"):
        check_same(cache.cached([source], {}, maker), maker.made)


def test_what_cannot_be_written_as_json_costs_a_warning(source: Path) -> None:
    maker = Maker()
    maker.made = replace(maker.made, env=EnvSpec("ToyWalk-v0", {"f": print}))
    with pytest.warns(UserWarning, match="cannot be written"):
        assert cache.cached([source], {}, maker) is maker.made
    assert entries() == []


def test_the_least_recently_used_go_first_and_nothing_else(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    cache.cached([source], {"n": 0}, maker)
    (first,) = entries()
    size = sum(file.stat().st_size for file in first.iterdir())
    monkeypatch.setattr(cache, "MAX_BYTES", int(2.5 * size))
    others, abandoned, young = (
        cache.root() / name for name in ("mine", ".minrnn-partial-a", ".minrnn-partial-b")
    )
    for folder in (others, abandoned, young):
        folder.mkdir()
        (folder / "file").write_bytes(b"0" * 10 * size)
    os.utime(abandoned, (0, time.time() - 2 * 24 * 3600))
    cache.cached([source], {"n": 1}, maker)
    os.utime(first, (1, 1))
    cache.cached([source], {"n": 0}, maker)  # so that n = 1 is the older
    second = next(p for p in entries() if p != first and p.name.isalnum() and len(p.name) == 32)
    os.utime(second, (2, 2))
    cache.cached([source], {"n": 2}, maker)
    left = set(entries())
    assert {first, others, young} < left
    assert len(left) == 4
    assert second not in left
    assert abandoned not in left


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from tests.envs.data.test_cache import Maker, cache, check_same
cache.MIN_BYTES = 0
maker = Maker()
for n in range(30):
    check_same(cache.cached([Path(sys.argv[3])], {"n": n}, maker), maker.made)
"""


def test_processes_at_once_do_not_disturb_each_other(checkout: Path, source: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    command += [str(checkout), str(checkout / "tests" / "envs"), str(source)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        _, problems = process.communicate(timeout=300)
        assert process.returncode == 0, problems
    assert len(entries()) == 30
    assert not [path for path in entries() if path.name.startswith(".")]


def test_a_minari_set_comes_from_the_cache_until_it_is_another() -> None:
    register()
    minari.write("toy/a-v0", episodes([4, 2]), env="ToyWalk-v0", description="")
    first = sources.load("toy/a-v0")
    assert len(entries()) == 1
    check_same(sources.load("toy/a-v0"), first)
    about = minari.root() / "toy/a-v0" / "data" / "metadata.json"
    about.write_text(json.dumps(minari.metadata("toy/a-v0") | {"total_episodes": 1}))
    assert sources.load("toy/a-v0").num_episodes == 1


def test_a_minari_set_is_read_again_where_another_environment_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env_id = register("ToyInstalled-v0", horizon=30)
    minari.write("toy/b-v0", episodes([4, 2]), env=env_id, description="")
    assert sources.load("toy/b-v0").env.kwargs == {}
    monkeypatch.delitem(gymnasium.registry, env_id)  # as where its package is missing
    assert sources.load("toy/b-v0").env.kwargs == {"horizon": 30}
    assert len(entries()) == 2


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("unix.Unix", ".cache/minrnn"),
        ("macos.MacOS", "Library/Caches/minrnn"),
        ("windows.Windows", "AppData/Local/minrnn/Cache"),
    ],
)
def test_it_is_where_the_platform_has_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, folder: str
) -> None:
    module, name = platform.split(".")
    kind = getattr(importlib.import_module(f"platformdirs.{module}"), name)
    monkeypatch.setattr("platformdirs.PlatformDirs", kind)
    monkeypatch.delenv("MINRNN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", f"{tmp_path}/AppData/Local")
    monkeypatch.setattr(
        "platformdirs.windows.get_win_folder", lambda _: f"{tmp_path}/AppData/Local"
    )
    assert str(cache.root()).replace("\\", "/") == f"{tmp_path}/{folder}"
