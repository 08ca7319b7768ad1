"""A process that reads cases: one that dies takes nothing else with it.

python -m tests.tools.fuzz_data.worker SEED BASES SCRATCH MEMORY, with tests/envs and the checkout
on the path. Each
line of input is an index; it answers {"base", "way"} before it reads and {"outcome", ...} after.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support import toys

from . import bases, campaign, cases, judge


def _status(field: str) -> int:
    """Return a size of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0


def _reset_peak() -> None:
    with suppress(OSError):  # not on this system
        Path("/proc/self/clear_refs").write_text("5")


def place(case: cases.Case, folder: Path) -> None:
    """Write a case's files into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in case.tree.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def warm_up(folder: Path, scratch: Path) -> None:
    """Read every base as it is: imports and caches are in the memory's start."""
    for name in bases.names():
        place(cases.Case(name, "", bases.load(folder, name)), scratch / "case")
        outcome, details = judge.judge(name, scratch / "case")
        if outcome != ("refused" if name == "html/page" else "read"):
            raise AssertionError(f"{name} without a mutation: {outcome} {details}")
        judge.USUAL[name] = details


def main() -> None:
    """Run as python -m tests.tools.fuzz_data.worker."""
    seed, folder, scratch, memory = int(sys.argv[1]), *map(Path, sys.argv[2:4]), int(sys.argv[4])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    logging.disable()
    toys.register()
    toys.register_goals()
    warm_up(folder, scratch)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _status("VmData") + memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))

    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    reply(ready=True)
    for line in sys.stdin:
        case = cases.make(seed, int(line), folder, scratch / "scratch.hdf5")
        place(case, scratch / "case")
        place(case, scratch / "mutated")  # readers may move what is in the other
        reply(base=case.base, way=case.way)
        base = case.base
        del case
        _reset_peak()
        start, before = time.monotonic(), _status("VmRSS")
        outcome, details = judge.judge(base, scratch / "case")
        used, peak = time.monotonic() - start, _status("VmHWM") - before
        if peak > memory and outcome in campaign.GOOD:
            outcome, details = "memory", f"{peak / 1e6:.0f} MB: {details}"
        reply(outcome=outcome, details=details, seconds=round(used, 3), peak=peak)


if __name__ == "__main__":
    main()
