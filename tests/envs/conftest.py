from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def minari_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Minari folder, and a working directory that nothing may be left in."""
    folder, cwd = tmp_path / "minari", tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    monkeypatch.setenv("MINRNN_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def nothing_is_collected() -> Iterator[None]:
    """Keep the garbage of other tests: where recursion ends, its finalisers would fail."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
