"""Runs that are killed at random moments end as uninterrupted runs. See tests/tools/kills.py."""

import random
import shutil

import pytest

from tests.support.compare_runs import differences
from tests.support.small_run import fit, go_on
from tests.tools import kills


@pytest.fixture(scope="module")
def data(minari_folder):
    kills.make_data()


@pytest.mark.slow
def test_a_killed_run_ends_as_one_left_alone(data, tmp_path, pytestconfig):
    rng = random.Random(0)
    long = pytestconfig.getoption("--long")
    struck = kills.trial(tmp_path, "packed", 12 if long else 4, rng)
    if long:
        struck += kills.trial(tmp_path, "windows", 12, rng)
    assert struck.total() >= 3


def change_a_tensor(folder):
    path = next(folder.glob("state/*/state.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_a_fact(folder):
    path = next(folder.glob("state/*/state.json"))
    path.write_text(path.read_text().replace('"best_update": ', '"best_update": 1'))


def repeat_a_line(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([*lines, lines[-1]]))


def repeat_events(folder):
    (path,) = folder.glob("tensorboard/*")
    path.with_name(path.name + ".again").write_bytes(path.read_bytes())


def leave_something(folder):
    (folder / "state" / ".writing-abc").mkdir()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a small run."""
    folder = tmp_path_factory.mktemp("kills") / "run"
    with go_on(folder) as run:
        fit(run)
    return folder


CHANGES = [change_a_tensor, change_a_fact, repeat_a_line, repeat_events, leave_something]


@pytest.mark.parametrize("change", CHANGES)
def test_the_comparison_sees_a_change(finished, tmp_path, change):
    shutil.copytree(finished, tmp_path / "copy")
    assert not differences(finished, tmp_path / "copy")
    change(tmp_path / "copy")
    assert differences(finished, tmp_path / "copy")
