"""A rollout over several processes: each runs episodes of one queue in its own environments.

The results are those of one process, because an episode depends on its seed and the actor alone.
Processes are spawned: a forked child would inherit locks held by threads that it does not have.
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
from typing import Any, cast

import gymnasium as gym

from envs.errors import UserError
from envs.rollout.episode import Outcome, Settings
from envs.rollout.loop import Actor, run_episodes
from envs.worlds.make import registered
from envs.worlds.spec import EnvSpec

_CONTEXT = get_context("spawn")
_LISTEN = 0.05  # s between two looks for messages of the other processes
_PATIENCE = 5.0  # s that a terminated process is given to end
_STEPS = 50_000  # MuJoCo steps that take longer than the start of a process (docs/acting.md)


def choose_num_procs(steps: int) -> int:
    """Return the number of processes that run this many steps soonest on this machine's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, steps // _STEPS))


def run_in_processes(
    settings: Settings,
    actor: Actor,
    num_envs: int,
    num_procs: int,
    finished: Callable[[Outcome], None],
) -> dict[str, Any]:
    """Run every episode in `num_procs` processes, this one included; return as `run_episodes` does.

    This process runs episodes while the others start; all end with the last episode. Errors of the
    others are raised here, and a process that dies as UserError. None is left behind on any error.
    """
    spec = None if callable(settings.env) else registered(EnvSpec.of(settings.env).env_id)
    try:
        payload = pickle.dumps((settings, spec, actor))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _cannot_be_sent(error) from None
    place = _CONTEXT.Value("q", 0)
    total = len(settings.seeds)
    own, *shares = (num_envs // num_procs + (i < num_envs % num_procs) for i in range(num_procs))
    others: list[_Worker] = []
    try:
        for share in shares:
            with _ctrl_c_waits():
                others.append(_Worker(payload, share, place))
        listener = _Listener(others, total, finished)
        take = _taker(place, total, meanwhile=listener.wait)
        fields = run_episodes(settings, actor, own, take, listener.finished, listener)
        while listener.left and listener.talking:
            listener.wait(None)
        return fields
    finally:
        for other in others:
            other.process.terminate()
        for other in others:
            other.end()


class _Worker:
    """Another process and the pipe to it.

    Its start arguments are small, because they are written before the process is known to be alive.
    A thread sends the rest; where the process is dead, that fails instead of blocking.
    """

    def __init__(self, payload: bytes, num_envs: int, place: Any) -> None:
        self.pipe, there = _CONTEXT.Pipe()
        args = num_envs, place, there
        self.process = _CONTEXT.Process(target=_worker_main, args=args, daemon=True)
        with _one_thread_each():
            self.process.start()
        there.close()
        self._sender = threading.Thread(target=self._send, args=(payload,), daemon=True)
        self._sender.start()

    def _send(self, payload: bytes) -> None:
        with suppress(OSError):  # the listener reports the dead process
            self.pipe.send_bytes(payload)

    def end(self) -> None:
        """Wait for the terminated process, and release its resources."""
        self.process.join(_PATIENCE)
        if self.process.is_alive():  # suspended, or ignoring SIGTERM
            self.process.kill()
            self.process.join()
        self._sender.join()
        self.pipe.close()
        self.process.close()


class _Listener:
    """Receives the outcomes and errors of the other processes."""

    def __init__(
        self, others: Sequence[_Worker], left: int, finished: Callable[[Outcome], None]
    ) -> None:
        self.left, self._finished = left, finished
        self.talking = {other.pipe: other.process for other in others}
        self._next = 0.0

    def __call__(self) -> None:
        if time.perf_counter() >= self._next:
            self.wait()
            self._next = time.perf_counter() + _LISTEN

    def finished(self, outcome: Outcome) -> None:
        """Count an episode of any process."""
        self.left -= 1
        self._finished(outcome)

    def wait(self, timeout: float | None = 0) -> None:
        """Receive all messages; with `timeout` None, wait for at least one."""
        while self.left and (pipes := connection.wait(list(self.talking), timeout)):
            for pipe in cast(list[connection.Connection], pipes):  # on Windows of another class
                self._receive(pipe)
            timeout = 0

    def _receive(self, pipe: connection.Connection) -> None:
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
            f"a process of the rollout was killed by signal {-code}, perhaps for lack of memory; "
            f"use fewer processes (--num-procs, num_procs)"
        )
    return UserError(
        f"a process of the rollout died (exit code {code}; its error may be printed above). A "
        f'script has to be a file with its code behind `if __name__ == "__main__":`, because each '
        f"process imports it; or use one process (--num-procs 1, num_procs=1)"
    )


def _cannot_be_sent(error: Exception) -> UserError:
    return UserError(
        f"this rollout cannot be sent to other processes ({error}); define environment and actor "
        f"at the top of a module, or use one process"
    )


def _worker_main(num_envs: int, place: Any, pipe: connection.Connection) -> None:
    """Run episodes in another process; send each outcome, then None or an error."""
    try:
        payload = pipe.recv_bytes()
        try:
            settings, spec, actor = pickle.loads(payload)
        except (AttributeError, ImportError) as error:
            raise _cannot_be_sent(error) from error
        if spec is not None:
            gym.registry.setdefault(spec.id, spec)  # the script may have registered it
        take = _taker(place, len(settings.seeds))
        run_episodes(settings, actor, num_envs, take, pipe.send)
        pipe.send(None)
    except BaseException as error:
        with suppress(OSError):  # the first process is gone
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


def _taker(
    place: Any, total: int, meanwhile: Callable[[], object] = lambda: None
) -> Callable[[], int | None]:
    lock = place.get_lock()

    def take() -> int | None:
        while not lock.acquire(timeout=_LISTEN):
            meanwhile()  # a dead process may hold it
        try:
            index = place.value
            place.value = min(index + 1, total)
        finally:
            lock.release()
        return index if index < total else None

    return take


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    # Ctrl-C is for this process alone, which ends the others; a new process inherits that SIGINT
    # is blocked. Another thread may still receive it here: the handler is then called late.
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
    # Libraries read this when they are loaded; with a thread for each core in every process, the
    # processes would slow each other down.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
