"""Train and score: `python -m benchmarks.scores` makes the tables of docs/results.md.

One run of train.py for each data set, backbone and seed, one after another. A finished run (it has
`results.json`) is not repeated, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from envs import score, sources


@dataclass(frozen=True)
class Options:
    """What to run."""

    envs: tuple[str, ...] = (
        "minrnn/hopper/medium-replay-v0",
        "minrnn/walker2d/medium-replay-v0",
        "minrnn/halfcheetah/medium-replay-v0",
    )
    """Data sets."""
    backbones: tuple[str, ...] = ("mingru", "minlstm")
    """Backbones."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds."""
    out: Path = Path("runs/scores")
    """Folder of the runs."""
    threads: int | None = None
    """CPU threads of each run; 1 lets several of these commands share a machine."""
    table_only: bool = False
    """Print the table of the runs that are there, and run nothing."""


def main() -> None:
    """Run what is missing, then print one row a run and one a pair of data set and backbone."""
    options = tyro.cli(Options, description=__doc__)
    print("data | backbone | seed | asked for best | obtained | score | top 10 % | as asked")
    print("---|---|---|---|---|---|---|---")
    for env in options.envs:
        data = sources.load(env)
        best = float(data.returns.max())
        top = np.sort(data.returns)[-max(1, data.num_episodes // 10) :].mean()
        for backbone in options.backbones:
            scores = []
            for seed in options.seeds:
                folder = options.out / env.replace("/", "-") / f"{backbone}-seed{seed}"
                if not (folder / "results.json").exists():
                    if options.table_only:
                        continue
                    train(env, backbone, seed, folder, options.threads)
                rows = json.loads((folder / "results.json").read_text())["results"]["last"]
                asked = max(rows, key=lambda row: row["target"])
                scores.append(asked["score"])
                print(
                    f"{env} | {backbone} | {seed} | {best:.0f} | {asked['mean']:.0f} | "
                    f"{asked['score']:.1f} | {top:.0f} "
                    f"({float(score.normalized(top, data.env_id) or np.nan):.1f}) | "  # type: ignore
                    f"{calibration(rows, best)}",
                    flush=True,
                )
            if len(scores) > 1:
                mean = np.mean(scores)
                print(f"{env} | {backbone} | mean | | | {mean:.1f} ± {np.std(scores):.1f} | |")


def calibration(rows: list[dict[str, Any]], best: float) -> str:
    """Say for how many targets the mean return is as asked, and which are not.

    As asked: within 15 % of the target, or within 5 % of the data's best return where that is more;
    for the best return itself: at least 85 % of it.
    """
    missed = []
    for row in rows:
        target, mean = row["target"], row["mean"]
        if target >= best - 1:
            fine = mean >= 0.85 * best
        else:
            fine = abs(mean - target) <= max(0.15 * abs(target), 0.05 * best)
        if not fine:
            missed.append(f"{target:.0f} -> {mean:.0f}")
    hits = f"{len(rows) - len(missed)} of {len(rows)}"
    return f"{hits} ({', '.join(missed)})" if missed else hits


def train(env: str, backbone: str, seed: int, folder: Path, threads: int | None) -> None:
    """Run train.py; what an earlier, unfinished run left in `folder` is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "train.py", "--env", env, "--model.backbone", backbone]
    command += ["--seed", str(seed), "--run-dir", str(folder)]
    if threads is not None:
        command += ["--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}")


if __name__ == "__main__":
    main()
