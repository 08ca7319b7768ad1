"""Train and evaluate the same runs with two checkouts, and compare all figures to the bit.

python -m tests.tools.compare_commits OLD NEW --out FOLDER [--only NAME ...]

OLD and NEW are checkouts (git worktree add ../old COMMIT). Weights are read by the code beside this
file, which has to read the folders of both. A run that is there already is not trained again, so
that a comparison that was interrupted continues. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.storage.checkpoint import load_checkpoint
from tests.support.compare_runs import CLOCK

DATA = "minrnn/hopper/medium-v0"
BACKBONES = (
    *("mingru", "minlstm", "gru", "lstm", "attention", "aaren", "s4d", "mamba", "mlstm", "slstm"),
    *("rwkv", "mingru,attention"),
)
SMOKE = ("--preset", "smoke", "--env", DATA)
CASES: dict[str, tuple[str, ...]] = {
    **{
        f"smoke-{name}": (*SMOKE, "--model.num-layers", "2", "--model.backbone", name)
        for name in BACKBONES
    },
    "interleaved": (*SMOKE, "--model.tokens", "interleaved", "--model.prev-action"),
    "packed": (*SMOKE, "--data.rows", "packed"),
    "ema": (*SMOKE, "--optim.ema", "0.9", "--model.dropout", "0.1"),
    "window": (*SMOKE, "--eval.memory", "window", "--model.timestep-embedding", "1000"),
    "mixture": (*SMOKE[:3], f"{DATA},minrnn/hopper/expert-v0", "--data.weights", "1", "3"),
    "resumed": (
        *("--env", DATA, "--optim.updates", "600", "--eval.every", "200", "--eval.episodes", "2"),
        *("--eval.quick-episodes", "1", "--checkpoint.every", "50"),
    ),
    "default": (),
}
"""train.py's arguments by the name of the run; `resumed` is killed and resumed on the way."""


def run(checkout: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start one of a checkout's scripts, with its own code on the path."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a script; raise where it fails."""
    printed, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args}:\n{printed}")


def train(checkout: Path, name: str, folder: Path) -> None:
    """Train and evaluate one of CASES into `folder`, unless that is done."""
    if not (folder / "results.json").exists():
        if (folder / "config.json").exists():
            finish(run(checkout, "train.py", "--resume", folder))
        else:
            process = run(checkout, "train.py", *CASES[name], "--run-dir", folder)
            if name == "resumed":
                while process.poll() is None and not [*folder.glob("state/0*/SHA256SUMS")]:
                    time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                process.communicate()
                process = run(checkout, "train.py", "--resume", folder)
            finish(process)
    if not (folder / "report.json").exists():
        memory = ("--memory", "carry", "window") if name == "window" else ()
        finish(run(checkout, "evaluate.py", folder, "--episodes", 4, *memory))


def differences(old: Path, new: Path) -> Iterator[str]:
    """Yield a line for each figure of two run folders that differs."""
    for place in ("last", "best"):
        if (old / place).exists() != (new / place).exists():
            yield f"one of them has no {place}/"
        elif (old / place).exists():
            ours, theirs = (load_checkpoint(run / place)[0].state_dict() for run in (old, new))
            for tensor in ours.keys() | theirs.keys():
                a, b = ours[tensor], theirs[tensor]
                if a.shape != b.shape or a.numpy().tobytes() != b.numpy().tobytes():
                    yield f"{place}: {tensor}"
    for file in ("results.json", "report.json"):
        if _rows(old / file) != _rows(new / file):
            yield file
    if _metrics(old) != _metrics(new):
        yield "metrics.jsonl"


def _rows(path: Path) -> Any:
    return json.loads(path.read_text())["results"]


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in lines]


def main() -> int:
    """Compare; print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="checkout of the commit before")
    parser.add_argument("new", type=Path, help="checkout of the commit after")
    parser.add_argument("--out", type=Path, required=True, help="folder for both commits' runs")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="which runs")
    options = parser.parse_args()
    bad = 0
    for name in options.only:
        folders = [options.out.resolve() / which / name for which in ("old", "new")]
        for checkout, folder in zip((options.old, options.new), folders, strict=True):
            train(checkout.resolve(), name, folder)
        found = [*differences(*folders)]
        bad += bool(found)
        sys.stdout.write(f"{name}: {'identical' if not found else ', '.join(found)}\n")
        sys.stdout.flush()
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
