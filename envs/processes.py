"""A rollout spread over processes: each plays episodes of one queue in environments of its own.

The results are those of one process, for an episode depends on its seed and its actor alone. The
processes are started afresh (spawn): a forked child would inherit locks of threads that it has not.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context
from typing import Any

import gymnasium as gym

from envs.errors import UserError
from envs.make import registered
from envs.play import Actor, Played, World, play

_LISTEN = 0.05
"""Seconds between looks at what the other processes sent."""
_STEPS = 100_000
"""Steps in MuJoCo that take longer than a process takes to start."""


def worthwhile(steps: int) -> int:
    """Return how many processes play so many steps soonest, with the cores that there are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, steps // _STEPS))


def spread(
    world: World,
    actor: Actor,
    num_envs: int,
    num_procs: int,
    finished: Callable[[Played], None],
) -> dict[str, Any]:
    """Play every episode in `num_procs` processes, this one among them; return what `play` does.

    Errors of the others are raised here. Whatever happens, none of them is left behind.
    """
    spec = registered(world.env) if isinstance(world.env, str) else None
    try:
        payload = pickle.dumps((world, spec, actor))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"this rollout cannot be sent to other processes ({error}); define environment and "
            f"actor at the top of a module, or use one process"
        ) from None
    context = get_context("spawn")
    place = context.Value("q", 0)
    shares = [num_envs // num_procs + (i < num_envs % num_procs) for i in range(num_procs)]
    others: dict[connection.Connection, Any] = {}
    try:
        with _one_thread_each(), _deaf_to_ctrl_c():
            for share in shares[1:]:
                here, there = context.Pipe(duplex=False)
                process = context.Process(
                    target=_other, args=(payload, share, place, there), daemon=True
                )
                process.start()
                there.close()
                others[here] = process
        listener = _Listener(others, finished)
        facts = play(world, actor, shares[0], _taker(place, len(world.seeds)), finished, listener)
        while listener.talking:
            listener.wait(None)
        return facts
    finally:
        for process in others.values():
            process.terminate()
            process.join()
            process.close()


class _Listener:
    """Hear of the others' episodes and errors, now and then."""

    def __init__(
        self, others: dict[connection.Connection, Any], finished: Callable[[Played], None]
    ) -> None:
        self.talking, self._processes, self._finished = list(others), others, finished
        self._next = 0.0

    def __call__(self) -> None:
        if time.perf_counter() >= self._next:
            self.wait(0)
            self._next = time.perf_counter() + _LISTEN

    def wait(self, timeout: float | None) -> None:
        """Take in all that they have sent; wait for something with `timeout` None."""
        while pipes := connection.wait(self.talking, timeout):
            for pipe in pipes:
                assert isinstance(pipe, connection.Connection)
                self._hear(pipe)
            timeout = 0

    def _hear(self, pipe: connection.Connection) -> None:
        try:
            message = pipe.recv()
        except EOFError:
            process = self._processes[pipe]
            process.join()
            raise RuntimeError(
                f"a process of the rollout died (exit code {process.exitcode})"
            ) from None
        if message is None:
            self.talking.remove(pipe)
        elif isinstance(message, BaseException):
            raise message
        else:
            self._finished(message)


def _other(payload: bytes, num_envs: int, place: Any, pipe: connection.Connection) -> None:
    """Play in a process of its own; send each episode, an error if there is one, and None."""
    try:
        world, spec, actor = pickle.loads(payload)
        if spec is not None:
            gym.registry.setdefault(spec.id, spec)  # what its script has registered, perhaps
        play(world, actor, num_envs, _taker(place, len(world.seeds)), pipe.send)
        pipe.send(None)
    except BaseException as error:
        _send_error(pipe, error)


def _send_error(pipe: connection.Connection, error: BaseException) -> None:
    text = traceback.format_exc()
    if not isinstance(error, UserError):
        error.add_note(f"in another process of the rollout:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"in another process of the rollout:\n{text}")
    pipe.send(error)


def _taker(place: Any, total: int) -> Callable[[], int | None]:
    def take() -> int | None:
        with place.get_lock():
            index = place.value
            place.value = min(index + 1, total)
        return index if index < total else None

    return take


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    # A new process inherits what is ignored: Ctrl-C is for this one alone, which ends the others.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # Libraries read this when they are loaded: processes with a thread for each core each would be
    # in one another's way.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
