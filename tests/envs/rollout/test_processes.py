"""A rollout over processes is the rollout of one, and leaves none behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from envs.errors import UserError
from envs.rollout import rollout
from envs.rollout.processes import _ctrl_c_waits, _Listener, _taker, choose_num_procs
from envs.rollout.queue import Outcome, _collect
from envs.worlds.spec import EnvSpec
from tests.support.toys import ACTION, Walk, register_goals


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    Walk.live = 0
    yield
    assert not multiprocessing.active_children()


class Fails:
    """Stands still in this process, and fails in another."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, obs, reward, resets, episode):
        time.sleep(1e-3)
        if multiprocessing.parent_process() is not None:
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "diverges":
                return np.full((len(obs), ACTION), np.nan)
            raise ValueError("on purpose")
        return np.zeros((len(obs), ACTION))


class Together:
    """Wait in the first step until another process has begun, too."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun = folder, False

    def __call__(self, obs, reward, resets, episode):
        if not self.begun:
            begin_together(self.folder)
            self.begun = True
        return np.stack((np.sin(obs[:, 0]), np.cos(obs[:, 1])), axis=1)


def begin_together(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 300
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < end, "nobody else has begun"
        time.sleep(1e-2)


BEGINNING = 600  # seconds


class Heavy:
    """More than any pipe takes in at once, and slow: in another process it is still beginning."""

    def __init__(self) -> None:
        self.weight = bytes(4_000_000)

    def __call__(self, obs, reward, resets, episode):
        time.sleep(1e-3)
        return np.zeros((len(obs), ACTION))

    def __setstate__(self, state: dict[str, object]) -> None:
        time.sleep(BEGINNING)


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


SCRIPT = """
import sys
from pathlib import Path
from envs.rollout import rollout
from envs.script import run_script
from envs.worlds.spec import EnvSpec
from tests.envs.rollout.test_processes import Heavy, Together
from tests.support.toys import Walk

def main():
    told = lambda done, total: print(done, flush=True)
    rollout(Walk, {actor}, range(10**6), num_envs=3, num_procs={procs}, progress=told)

"""
GUARD, BARE = "if __name__ == '__main__':\n    ", ""
RUN = "sys.exit(run_script(main))\n"


def script(checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Python in a group of its own."""
    folders = [str(checkout)]
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], given: str | None = None) -> tuple[int, str]:
    """Return exit code and stderr; nothing of its group is left."""
    try:
        _, errors = process.communicate(given, timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # Python's own tracker of resources goes last.
    assert any(gone(process.pid) or time.sleep(0.1) for _ in range(50))
    return process.returncode, errors


def test_results_are_those_of_one_process_in_the_same_order(tmp_path):
    register_goals()
    calls: list[tuple[int, int]] = []
    spec = EnvSpec("ToyGoals-v0", {"line": 2.0}, ("goal/x", "speed"))
    given = {"num_envs": 4, "record": True}
    seeds = range(7, 207)
    actor = Together(tmp_path)
    actor.begun = True
    one = rollout(spec, actor, seeds, **given)
    actor.begun = False
    two = rollout(
        spec, actor, seeds, **given, num_procs=2,
        progress=lambda d, n: calls.append((d, n)),
    )  # fmt: skip
    for name in ("returns", "lengths", "terminated", "success", "action_low"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.episodes is not None
    assert two.episodes is not None
    for first, second in zip(one.episodes, two.episodes, strict=True):
        assert first.seed == second.seed
        np.testing.assert_array_equal(first.obs, second.obs)
        np.testing.assert_array_equal(first.action, second.action)
    assert calls == [(i + 1, 200) for i in range(200)]
    assert two.env == spec


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("fails", ValueError, "on purpose"),
        ("diverges", UserError, r"episode \d+ \(seed \d+\), step \d+: .*not finite"),
        ("dies", UserError, r"killed by signal 9, perhaps for lack of memory; use fewer processes"),
    ],
)
def test_what_goes_wrong_in_another_process_is_raised_here(how, error, text):
    with pytest.raises(error, match=text):
        rollout(Walk, Fails(how), range(5000), num_envs=2, num_procs=2)
    assert Walk.live == 0


def test_an_error_in_this_process_ends_the_others(tmp_path):
    def fails(*_):
        raise RuntimeError("here")

    with pytest.raises(UserError, match="cannot be sent to other processes"):
        rollout(Walk, fails, range(8), num_procs=2)
    calls = iter(range(3))

    def progress(done, total):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(Walk, Together(tmp_path), range(5000), num_procs=2, progress=progress)
    assert Walk.live == 0


def test_processes_that_are_too_late_for_the_last_episode_are_not_waited_for():
    start = time.monotonic()
    assert len(rollout(Walk, Heavy(), range(4), num_procs=3).returns) == 4
    assert time.monotonic() - start < BEGINNING


@pytest.mark.parametrize(("actor", "procs"), [("Heavy()", 3), ("Together(Path(sys.argv[1]))", 2)])
def test_ctrl_c_ends_them_all_without_a_word(tmp_path, checkout, actor, procs):
    path, folder = tmp_path / "script.py", tmp_path / "begun"
    path.write_text(SCRIPT.format(actor=actor, procs=procs) + GUARD + RUN)
    folder.mkdir()
    process = script(checkout, str(path), str(folder))
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    start = time.monotonic()
    code, errors = finish(process)
    assert time.monotonic() - start < BEGINNING
    assert (code, errors) == (130, "\ninterrupted; nothing that was saved before is lost\n")


@pytest.mark.parametrize("threads", [0, 2])
def test_ctrl_c_while_a_process_is_started_is_late_and_not_lost(threads):
    # Where there are other threads, one of them receives the signal.
    over = threading.Event()
    others = [threading.Thread(target=over.wait) for _ in range(threads)]
    for other in others:
        other.start()

    def start() -> None:
        with _ctrl_c_waits():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            started.append(True)

    started: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        start()
    over.set()
    for other in others:
        other.join()
    assert started


@pytest.mark.parametrize("how", ["without the guard", "no file"])
def test_a_script_that_cannot_be_loaded_again_is_told_so(tmp_path, checkout, how):
    # Each process dies before it reads the four megabytes of its actor.
    path = tmp_path / "script.py"
    code = SCRIPT.format(actor="Heavy()", procs=2)
    path.write_text(code + BARE + RUN)
    if how == "no file":
        found, errors = finish(script(checkout, "-"), code + GUARD + RUN)
    else:
        found, errors = finish(script(checkout, str(path)))
    assert found == 2
    last = errors.splitlines()[-1]
    assert last.startswith("error: a process of the rollout died (exit code 1;")
    assert 'behind `if __name__ == "__main__":`' in last
    assert "leaked" not in errors


def test_what_only_this_process_can_see_is_told_so(checkout):
    code = SCRIPT.format(actor="still", procs=2).replace(
        "def main", "def still(*_):\n    import time\n    time.sleep(1e-3)\n"
        "    return [[0.0, 0.0]] * len(_[0])\n\ndef main"
    )  # fmt: skip
    found, errors = finish(script(checkout, "-c", code + GUARD + RUN))
    assert found == 2
    assert "error: this rollout cannot be sent to other processes (Can't get attribute" in errors


def test_there_are_no_more_processes_than_environments():
    assert len(rollout(Walk, Heavy(), [1], num_procs=8).returns) == 1
    with pytest.raises(UserError, match="need 1 or more"):
        rollout(Walk, Heavy(), [1], num_procs=0)


def test_all_that_the_others_sent_is_heard_at_once():
    # With one episode at each look, thousands of short ones would wait in the pipe, and then block.
    here, there = multiprocessing.Pipe(duplex=False)
    heard: list[Outcome] = []
    listener = _Listener([SimpleNamespace(pipe=here, process=None)], 6, heard.append)  # type: ignore[list-item]
    for index in range(5):
        there.send(Outcome(index))
    listener()
    assert [played.index for played in heard] == [0, 1, 2, 3, 4]
    there.send(None)
    listener.wait(None)
    assert (listener.left, listener.talking) == (1, {})


def test_a_queue_held_by_a_dead_process_does_not_hold_this_one():
    place = multiprocessing.get_context("spawn").Value("q", 0)
    take = _taker(place, 2, meanwhile=lambda: 1 / 0)
    assert [take(), take(), take()] == [0, 1, None]
    holder = threading.Thread(target=place.get_lock().acquire)
    holder.start()
    holder.join()
    with pytest.raises(ZeroDivisionError):
        take()


def test_a_lost_episode_does_not_shift_the_others():
    with pytest.raises(AssertionError, match="lost"):
        _collect([Outcome(0), None, Outcome(2)])


def test_processes_are_taken_where_the_queue_is_long_and_there_are_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert [choose_num_procs(steps) for steps in (0, 90_000, 120_000, 10**7)] == [1, 1, 2, 4]
