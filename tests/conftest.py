"""Fixtures of all tests. Nothing outside tmp folders is read or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Small tensors: a second thread costs more than it brings, and much more on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# A busy machine is no defect, and the same examples are drawn in every run.
settings.register_profile("minrnn", deadline=None, derandomize=True)
settings.load_profile("minrnn")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for what takes too long for every day."""
    parser.addoption("--long", action="store_true", help="run the long version of long tests")
    parser.addoption("--windows", action="store_true", help="keep to Windows' rules for files")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no worker waits for another's at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the folder of the project."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def rules_for_files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Keep to Windows' rules for files, with --windows."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--windows"):
            from tests.support import windows

            windows.pretend_files(patch, tmp_path_factory.getbasetemp())
        yield


@pytest.fixture(scope="session", autouse=True)
def minari_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep data sets out of the user's own folder, and theirs out of the tests."""
    folder = tmp_path_factory.mktemp("minari")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    return folder
