"""Cases one after the other in a worker process, which is started again when it dies or hangs."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

MEMORY = 512 * 2**20
"""Bytes that reading one case may take beyond those of the process."""
_ROOM = 4 * 2**30
GOOD = ("read", "repaired", "refused")
"""The outcomes that have to be."""
SECONDS = 5.0
"""Of the processor; a worker that only waits may take 12 times as long."""
_HERE = Path(__file__).resolve().parent


@dataclass
class Result:
    """What became of a case."""

    index: int
    base: str
    way: str
    outcome: str
    details: str
    seconds: float = 0.0
    peak: int = 0
    """Bytes beyond those of the process."""


class Worker:
    """A worker process; `run` gives it one case."""

    def __init__(self, seed: int, bases: Path, scratch: Path, memory: int = MEMORY) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._log = scratch / "worker.log"
        paths = (str(_HERE.parents[2]), str(_HERE / "traps"))
        arguments = (str(seed), str(bases), str(scratch), str(memory))
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.tools.fuzz_data.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=scratch,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._lines = b""
        if "ready" not in (self._answer(120.0) or {}):
            raise RuntimeError(f"the worker does not start:\n{self._log.read_text()[-3000:]}")

    def run(self, index: int) -> Result:
        """Return what became of a case; this worker must not be used again where it is dead."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, which the answer tells
            self._process.stdin.write(b"%d\n" % index)
            self._process.stdin.flush()
        made = self._answer(60.0)
        if made is None:
            return Result(index, "?", "?", *self._end("while it was being made: "))
        done = self._answer(SECONDS)
        if done is None:
            return Result(index, made["base"], made["way"], *self._end(""))
        return Result(index, made["base"], made["way"], **done)

    @property
    def alive(self) -> bool:
        """Whether it can be given another case."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                cast(Any, pipe).close()

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """Return a line's content; None where the worker died, or used up its time."""
        assert self._process.stdout is not None
        started, used = time.monotonic(), self._used()
        while b"\n" not in self._lines:
            if not select.select([self._process.stdout], [], [], 0.2)[0]:
                if self._used() - used > seconds or time.monotonic() - started > 12 * seconds:
                    return None
                continue
            got = os.read(self._process.stdout.fileno(), 1 << 16)
            if not got:
                self._process.wait()
                return None
            self._lines += got
        line, self._lines = self._lines.split(b"\n", 1)
        return json.loads(line)

    def _used(self) -> float:
        """Return seconds of the processor, 0 where this system does not tell."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0
        fields = text[text.rindex(")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _end(self, when: str) -> tuple[str, str]:
        code = self._process.poll()
        if code is None:
            # Where it is, into the log.
            self._process.send_signal(6)
        self._process.wait()
        log = self._log.read_text(errors="replace")[-3000:]
        return (
            ("hang", when + log) if code is None else ("crash", f"{when}ended with {code}\n{log}")
        )


def make_bases(folder: Path) -> None:
    """Write the bases with a process of its own, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    paths = str(_HERE.parents[2])
    code = (
        "import pathlib, sys; from tests.support import toys; "
        "from tests.tools.fuzz_data import bases; toys.register(); "
        "toys.register_goals(); bases.build(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def run(seed: int, indices: list[int], keep: Path) -> Iterator[Result]:
    """Yield what became of each case. keep/failures gets the files of those that failed."""
    if not (keep / "bases").is_dir():
        make_bases(keep / "bases")
    worker: Worker | None = None
    try:
        for index in indices:
            if worker is None:
                worker = Worker(seed, keep / "bases", keep / "scratch")
            result = worker.run(index)
            if result.outcome in ("import", "allocation") or not worker.alive:
                worker.close()
                worker = None
            if result.outcome == "allocation":
                result = _with_room(seed, index, keep)
            if result.outcome not in GOOD:
                _keep(keep, index)
            yield result
    finally:
        if worker is not None:
            worker.close()
        shutil.rmtree(keep / "scratch", ignore_errors=True)


def _with_room(seed: int, index: int, keep: Path) -> Result:
    """Run a case for which HDF5 was denied memory with far more: does it only ask, or use it?"""
    worker = Worker(seed, keep / "bases", keep / "scratch", _ROOM)
    try:
        result = worker.run(index)
    finally:
        worker.close()
    if result.peak > MEMORY:
        result.outcome, result.details = "memory", f"{result.peak / 1e6:.0f} MB: {result.details}"
    elif result.outcome == "allocation":
        result.outcome = "refused"
    return result


def _keep(keep: Path, index: int) -> None:
    shutil.rmtree(keep / "failures" / str(index), ignore_errors=True)
    if (keep / "scratch" / "mutated").is_dir():
        shutil.copytree(keep / "scratch" / "mutated", keep / "failures" / str(index))


def append(path: Path, result: Result) -> None:
    """Add a line to a file of results."""
    with open(path, "a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def results(path: Path) -> list[Result]:
    """Return the results in a file; a last line that was cut is left out."""
    if not path.is_file():
        return []
    found: list[Result] = []
    for line in path.read_text().splitlines():
        try:
            found.append(Result(**json.loads(line)))
        except ValueError:
            continue
    return found
