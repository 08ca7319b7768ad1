from __future__ import annotations

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
