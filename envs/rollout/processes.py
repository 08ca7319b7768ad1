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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context
from typing import Any

import gymnasium as gym
from gymnasium.envs import registration

from envs.errors import UserError
from envs.rollout.episode import Played, World
from envs.rollout.loop import Actor, play
from envs.worlds.make import registered
from envs.worlds.spec import EnvSpec

_CONTEXT = get_context("spawn")
_LISTEN = 0.05
"""Seconds between looks at what the other processes sent."""
_PATIENCE = 5.0
"""Seconds in which a process has to end."""
_STEPS = 50_000
"""Steps in MuJoCo that take longer than a process takes to start (docs/acting.md has figures)."""


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

    This one plays while the others start, and all end with the last episode. Errors of the others
    are raised here, a dead one as UserError. Whatever happens, none of them is left behind.
    """
    spec = None if callable(world.env) else registered(EnvSpec.of(world.env).env_id)
    try:
        payload = pickle.dumps((world, spec, actor))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _cannot_be_sent(error) from None
    place = _CONTEXT.Value("q", 0)
    total = len(world.seeds)
    own, *shares = (num_envs // num_procs + (i < num_envs % num_procs) for i in range(num_procs))
    others: list[_Other] = []
    try:
        for share in shares:
            with _ctrl_c_waits():
                others.append(_Other(payload, share, place))
        listener = _Listener(others, total, finished)
        take = _taker(place, total, meanwhile=listener.wait)
        facts = play(world, actor, own, take, listener.finished, listener)
        while listener.left and listener.talking:
            listener.wait(None)
        return facts
    finally:
        for other in others:
            other.process.terminate()
        for other in others:
            other.end()


class _Other:
    """Another process, started, and the pipe to it.

    What it is started with is small, for that is written before it is known to live; a thread sends
    the rest, which fails, and does not block, where the process is dead.
    """

    def __init__(self, payload: bytes, num_envs: int, place: Any) -> None:
        self.pipe, there = _CONTEXT.Pipe()
        args = num_envs, place, there
        self.process = _CONTEXT.Process(target=_play_here, args=args, daemon=True)
        with _one_thread_each():
            self.process.start()
        there.close()
        self._sender = threading.Thread(target=self._send, args=(payload,), daemon=True)
        self._sender.start()

    def _send(self, payload: bytes) -> None:
        with suppress(OSError):  # the listener finds it dead
            self.pipe.send_bytes(payload)

    def end(self) -> None:
        """Wait for a process that was terminated, and let go of all that belongs to it."""
        self.process.join(_PATIENCE)
        if self.process.is_alive():  # stopped, or deaf to this
            self.process.kill()
            self.process.join()
        self._sender.join()
        self.pipe.close()
        self.process.close()


class _Listener:
    """Hear of the others' episodes and errors, now and then."""

    def __init__(
        self, others: Sequence[_Other], left: int, finished: Callable[[Played], None]
    ) -> None:
        self.left, self._finished = left, finished
        self.talking = {other.pipe: other.process for other in others}
        self._next = 0.0

    def __call__(self) -> None:
        if time.perf_counter() >= self._next:
            self.wait()
            self._next = time.perf_counter() + _LISTEN

    def finished(self, played: Played) -> None:
        """Count an episode, whoever played it."""
        self.left -= 1
        self._finished(played)

    def wait(self, timeout: float | None = 0) -> None:
        """Take in all that they have sent; wait for something with `timeout` None."""
        while self.left and (pipes := connection.wait(list(self.talking), timeout)):
            for pipe in pipes:
                assert isinstance(pipe, connection.Connection)
                self._hear(pipe)
            timeout = 0

    def _hear(self, pipe: connection.Connection) -> None:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            raise _died(self.talking[pipe]) from None
        if message is None:
            del self.talking[pipe]
        elif isinstance(message, BaseException):
            raise message
        else:
            self.finished(message)


def _died(process: Any) -> UserError:
    process.join(_PATIENCE)
    code = process.exitcode
    if code is not None and code < 0:
        return UserError(
            f"a process of the rollout was killed by signal {-code}, for lack of memory perhaps: "
            f"use fewer processes (--num-procs, num_procs)"
        )
    return UserError(
        f"a process of the rollout died (exit code {code}; it may have said why, above): a script "
        f'has to be a file that keeps what it does behind `if __name__ == "__main__":`, as each '
        f"process loads it again; or use one process (--num-procs 1, num_procs=1)"
    )


def _cannot_be_sent(error: Exception) -> UserError:
    return UserError(
        f"this rollout cannot be sent to other processes ({error}); define environment and actor "
        f"at the top of a module, or use one process"
    )


def _play_here(num_envs: int, place: Any, pipe: connection.Connection) -> None:
    """Play in a process of its own; send each episode, an error if there is one, and None."""
    try:
        world, spec, actor = _received(pipe)
        if spec is not None:
            gym.registry.setdefault(spec.id, spec)  # what its script has registered, perhaps
        play(world, actor, num_envs, _taker(place, len(world.seeds)), pipe.send)
        pipe.send(None)
    except BaseException as error:
        with suppress(OSError):  # nobody is there to hear it
            _send_error(pipe, error)


def _received(pipe: connection.Connection) -> tuple[World, registration.EnvSpec | None, Actor]:
    payload = pipe.recv_bytes()
    try:
        return pickle.loads(payload)
    except (AttributeError, ImportError) as error:
        raise _cannot_be_sent(error) from error


def _send_error(pipe: connection.Connection, error: BaseException) -> None:
    text = traceback.format_exc()
    if not isinstance(error, UserError):
        error.add_note(f"in another process of the rollout:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"in another process of the rollout:\n{text}")
    pipe.send(error)


def _taker(
    place: Any, total: int, meanwhile: Callable[[], object] = lambda: None
) -> Callable[[], int | None]:
    lock = place.get_lock()

    def take() -> int | None:
        while not lock.acquire(timeout=_LISTEN):
            meanwhile()  # who holds it may have died with it
        try:
            index = place.value
            place.value = min(index + 1, total)
        finally:
            lock.release()
        return index if index < total else None

    return take


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    # Ctrl-C is for this process alone, which ends the others. Here it is only late: any thread may
    # receive it, and the handler is then the main thread's to call.
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    came: list[Any] = []
    if handler is not None:
        signal.signal(signal.SIGINT, lambda *given: came.append(given))
    try:
        with _blocked():
            yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
            if came and callable(handler):
                handler(*came[0])


@contextmanager
def _blocked() -> Iterator[None]:
    # A new process inherits which signals wait.
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
