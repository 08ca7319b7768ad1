"""Load mutated checkpoints: `python -m tests.tools.fuzz_checkpoints --count 10000`.

With `--what states`, states that training runs are resumed from.

Each has to be loaded or refused with UserError: no other exception, no code run, no more memory
than MEMORY, no more time than SECONDS. A child process loads them, so that nothing goes unseen.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY = 200_000_000
"""Bytes of address space that all loads together may add to what torch takes."""
SECONDS = 10
GOOD = ("loaded", "refused")
FORBIDDEN = (
    "pickle.",
    "subprocess.",
    "socket.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "ctypes.",
)
"""Audit events (PEP 578) of code that has no place in loading."""


class Late(BaseException):
    """A case took more than SECONDS; nothing that loads catches it."""


def run(
    seed: int, first: int, count: int, folder: Path, what: str = "checkpoints"
) -> Iterator[dict[str, Any]]:
    """Give a result for each case: index, outcome, what was done, message, seconds."""
    from tests.tools.fuzz_loaders import LOADERS

    LOADERS[what]().save(folder / "bases")
    end = first + count
    while first < end:
        shutil.rmtree(folder / "case", ignore_errors=True)  # a worker that crashed leaves its case
        command = [sys.executable, "-m", "tests.tools.fuzz_checkpoints", "--worker", str(folder)]
        command += [
            "--what",
            what,
            "--seed",
            str(seed),
            "--first",
            str(first),
            "--count",
            str(end - first),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                result = json.loads(line)
                first = result["index"] + 1
                yield result
        code = process.returncode
        if first < end:
            yield {"index": first, "outcome": "crash", "about": "", "message": f"exit code {code}"}
            first += 1


def work(seed: int, first: int, count: int, folder: Path, what: str) -> None:
    """Load cases one after the other, with bounded memory, and tell of each."""
    import resource

    from envs.errors import UserError
    from tests.tools.fuzz_loaders import LOADERS, NAME
    from tests.tools.fuzz_mutations import mutate

    bases, loader = sorted((folder / "bases").iterdir()), LOADERS[what]()
    case, canary = folder / "case" / NAME, folder / "canary"
    for base in bases:  # what is imported at first use is imported now
        shutil.copytree(base, case)
        loader.act(loader.load(case, base.name))
        shutil.rmtree(case)
    events: list[str] = []
    watching = False

    def hook(event: str, _: object) -> None:
        if watching and event.startswith(FORBIDDEN):
            events.append(event)

    def late(*_: object) -> None:
        raise Late(f"more than {SECONDS} s")

    sys.addaudithook(hook)
    signal.signal(signal.SIGALRM, late)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for index in range(first, first + count):
        rng = random.Random(f"{seed} {index}")
        base = rng.choice(bases)
        about = mutate(base, case, rng, canary)
        start, watching, message = time.perf_counter(), True, ""
        signal.alarm(SECONDS)
        try:
            loaded = loader.load(case, base.name)
            watching = False
            loader.act(loaded)
            outcome = "loaded"
        except UserError as error:
            outcome, message = "refused", str(error)
            if "alloc" in message or "MemoryError" in message or "\n" in message:
                outcome = "memory"
        except BaseException:
            outcome, message = "error", traceback.format_exc()
        finally:
            watching = False
            signal.alarm(0)
        if canary.exists() or (folder / "escaped").exists() or events:
            outcome, message = "code", f"{events}"
        result = {"index": index, "outcome": outcome, "about": about, "message": message}
        sys.stdout.write(json.dumps(result | {"seconds": time.perf_counter() - start}) + "\n")
        sys.stdout.flush()
        shutil.rmtree(case)


def main() -> None:
    """Print the results of the cases; exit with 1 where one was neither loaded nor refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", choices=["checkpoints", "states"], default="checkpoints")
    parser.add_argument("--worker", type=Path)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.seed, options.first, options.count, options.worker, options.what)
        return
    with tempfile.TemporaryDirectory() as folder:
        cases = run(options.seed, options.first, options.count, Path(folder), options.what)
        results = list(cases)
    import resource

    bad = [result for result in results if result["outcome"] not in GOOD]
    lines = [f"{result}" for result in bad[:20]]
    outcomes = collections.Counter(result["outcome"] for result in results)
    slowest = max(results, key=lambda result: result.get("seconds", 0))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    lines += [
        f"{len(results)} {options.what}: " + ", ".join(f"{n} {o}" for o, n in outcomes.items()),
        f"slowest {slowest['seconds']:.2f} s ({slowest['about']}); peak memory {peak / 1e3:.0f} MB",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
