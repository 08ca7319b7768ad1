"""A rollout over processes is the rollout of one, and leaves none behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from toys import ACTION, Walk, register_goals

from envs.errors import UserError
from envs.processes import _Listener, worthwhile
from envs.rollout import Played, rollout


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


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def slow(obs, reward, resets, episode):
    """Wait until another process has a share, too."""
    time.sleep(2e-3)
    return np.stack((np.sin(obs[:, 0]), np.cos(obs[:, 1])), axis=1)


def test_results_are_those_of_one_process_in_the_same_order():
    register_goals()
    calls: list[tuple[int, int]] = []
    given = {"env_kwargs": {"line": 2.0}, "obs_keys": ["goal/x", "speed"], "num_envs": 4}
    given["record"] = True
    seeds = range(7, 207)
    one = rollout("ToyGoals-v0", slow, seeds, **given)
    two = rollout(
        "ToyGoals-v0", slow, seeds, **given, num_procs=2, progress=lambda d, n: calls.append((d, n))
    )
    for name in ("returns", "lengths", "terminated", "success", "action_low"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.episodes is not None
    assert two.episodes is not None
    for first, second in zip(one.episodes, two.episodes, strict=True):
        assert first.seed == second.seed
        np.testing.assert_array_equal(first.obs, second.obs)
        np.testing.assert_array_equal(first.action, second.action)
    assert calls == [(i + 1, 200) for i in range(200)]
    assert (two.env_id, two.obs_keys, two.env_kwargs) == (
        "ToyGoals-v0", ("goal/x", "speed"), {"line": 2.0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("fails", ValueError, "on purpose"),
        ("diverges", UserError, r"episode \d+ \(seed \d+\), step \d+: .*not finite"),
        ("dies", RuntimeError, r"a process of the rollout died \(exit code -9\)"),
    ],
)
def test_what_goes_wrong_in_another_process_is_raised_here(how, error, text):
    with pytest.raises(error, match=text):
        rollout(Walk, Fails(how), range(5000), num_envs=2, num_procs=2)
    assert Walk.live == 0


def test_an_error_in_this_process_ends_the_others():
    def fails(*_):
        raise RuntimeError("here")

    with pytest.raises(UserError, match="cannot be sent to other processes"):
        rollout(Walk, fails, range(8), num_procs=2)
    calls = iter(range(3))

    def progress(done, total):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(partial(Walk, hazard=0.5), slow, range(5000), num_procs=2, progress=progress)
    assert Walk.live == 0


def test_ctrl_c_ends_them_all_without_a_word(tmp_path, checkout):
    script = tmp_path / "script.py"
    script.write_text(
        "from envs.rollout import rollout\n"
        "from test_processes import slow\n"
        "from toys import Walk\n"
        "if __name__ == '__main__':\n"
        "    told = lambda done, total: print(done, flush=True)\n"
        "    try:\n"
        "        rollout(Walk, slow, range(10**6), num_procs=2, progress=told)\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    folders = [str(checkout), os.path.dirname(__file__)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert errors == ""
    assert out.splitlines()[-1] == "stopped"
    # Python's own tracker of resources goes last.
    assert any(gone(process.pid) or time.sleep(0.1) for _ in range(50))


def test_there_are_no_more_processes_than_environments():
    assert len(rollout(Walk, slow, [1], num_procs=8).returns) == 1
    with pytest.raises(UserError, match="need 1 or more"):
        rollout(Walk, slow, [1], num_procs=0)


def test_all_that_the_others_sent_is_heard_at_once():
    # With one episode at each look, thousands of short ones would wait in the pipe, and then block.
    here, there = multiprocessing.Pipe(duplex=False)
    heard: list[Played] = []
    listener = _Listener({here: None}, heard.append)
    for index in range(5):
        there.send(Played(index))
    listener()
    assert [played.index for played in heard] == [0, 1, 2, 3, 4]
    there.send(None)
    listener.wait(None)
    assert listener.talking == []


def test_processes_are_taken_where_the_queue_is_long_and_there_are_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert [worthwhile(steps) for steps in (0, 150_000, 250_000, 10**7)] == [1, 1, 2, 4]
