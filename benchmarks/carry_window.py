"""Carry a state, or re-run a window? `python -m benchmarks.carry_window`, two hours on one core.

The same trained agents act in two ways: with a state that is carried through the whole episode,
and with the last steps re-run from an empty state at each step, as Decision Transformer acts. One
run of train.py for each data set, backbone and seed; then evaluate.py for each data set and way.
Finished runs are not repeated, so that the command resumes where it was stopped.

The score is that of the best return in the data, mean of all episodes and seeds with its 95 %
bootstrap interval; the error of calibration is the mean distance between target and obtained return
over all targets, in percent of that return.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.backbones import model_config
from benchmarks.runs import MEDIUM_REPLAY, results


@dataclass(frozen=True)
class Options:
    """What to run."""

    envs: tuple[str, ...] = MEDIUM_REPLAY
    """Ids of the data sets."""
    backbones: tuple[str, ...] = ("mingru", "minlstm", "attention")
    """Backbones; their widths give all about as many parameters."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds."""
    windows: tuple[int, ...] = (20,)
    """Steps of the windows that are re-run."""
    episodes: int = 20
    """Episodes for each target and seed."""
    out: Path = Path("runs/carry-window")
    """Folder of runs and reports."""


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then print one row for each data set and backbone."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    ways = {"carried": ["--memory", "carry"]}
    for steps in options.windows:
        ways[f"window of {steps}"] = ["--memory", "window", "--window", str(steps)]
    columns = [f"{way}: {what}" for what in ("score", "calibration error") for way in ways]
    print("| " + " | ".join(["data", "backbone", *columns]) + " |")
    print("|---" * (2 + len(columns)) + "|")
    for env in options.envs:
        folder = options.out / env.replace("/", "-")
        runs = [
            trained(folder, env, name, seed) for name in options.backbones for seed in options.seeds
        ]
        found = {
            way: swept(folder / way.replace(" ", "-"), runs, [*flags, *sizes(options)])
            for way, flags in ways.items()
        }
        for name in options.backbones:
            rows = [of_backbone(swept, name) for swept in found.values()]
            cells = [scored(row) for row in rows] + [f"{missed(row):.1%}" for row in rows]
            print("| " + " | ".join([env, name, *cells]) + " |", flush=True)


def sizes(options: Options) -> list[str]:
    """Return the options of evaluate.py that set how much is played."""
    return ["--episodes", str(options.episodes)]


def trained(folder: Path, env: str, name: str, seed: int) -> Path:
    """Return the folder of a run, after training it if it is not there."""
    run = folder / f"{name}-seed{seed}"
    flags = ["--env", env, "--seed", str(seed), "--model.backbone", name]
    results(run, [*flags, "--model.dim", str(model_config(name).dim)])
    return run


def swept(folder: Path, runs: list[Path], flags: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a report by line, after evaluating if there is no report."""
    report = folder / "report.json"
    if not report.exists():
        command = [sys.executable, "evaluate.py", *map(str, runs), "--checkpoint", "last"]
        command += ["--out", str(folder), *flags]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)} ended with {done.returncode}")
    return json.loads(report.read_text(encoding="utf-8"))["results"]


def of_backbone(lines: dict[str, list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """Return the rows of a backbone; a report on a single backbone does not name it."""
    return next(rows for line, rows in lines.items() if len(lines) == 1 or line.split()[0] == name)


def scored(rows: list[dict[str, Any]]) -> str:
    """Write the score of the largest target."""
    top = max(rows, key=lambda row: row["target"])
    low, high = top["score_interval_95"]
    return f"{top['score']:.1f} ({low:.1f} to {high:.1f})"


def missed(rows: list[dict[str, Any]]) -> float:
    """Return the mean distance between target and obtained return, over the largest target."""
    best = max(row["target"] for row in rows)
    return float(np.mean([abs(row["mean"] - row["target"]) for row in rows]) / abs(best))


if __name__ == "__main__":
    main()
