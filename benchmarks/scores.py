"""Train and score: `python -m benchmarks.scores` makes the tables of docs/results.md.

One run of train.py for each data set, backbone and seed, one after another. A finished run is not
repeated, so that the command resumes where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.runs import MEDIUM_REPLAY, calibration, results
from envs import sources
from envs.scoring import references


@dataclass(frozen=True)
class Options:
    """What to run."""

    envs: tuple[str, ...] = MEDIUM_REPLAY
    """Ids of the data sets."""
    backbones: tuple[str, ...] = ("mingru", "minlstm")
    """Names of the backbones."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds."""
    out: Path = Path("runs/scores")
    """Folder of the runs."""
    run: bool = True
    """With --no-run: train nothing, and print the table of the finished runs."""


def main() -> None:
    """Run what is missing, then print one row a run and one a pair of data set and backbone."""
    options = tyro.cli(Options, description=__doc__)
    print("| data | backbone | seed | best in data | obtained | score | top 10 % | as asked |")
    print("|---|---|---|---|---|---|---|---|")
    for env in options.envs:
        data = sources.load(env)
        best = float(data.returns.max())
        top = float(np.sort(data.returns)[-max(1, data.num_episodes // 10) :].mean())
        for backbone in options.backbones:
            scores = []
            for seed in options.seeds:
                flags = ["--env", env, "--model.backbone", backbone, "--seed", str(seed)]
                folder = options.out / env.replace("/", "-") / f"{backbone}-seed{seed}"
                rows = results(folder, flags, run=options.run)
                if rows is None:
                    continue
                asked = max(rows, key=lambda row: row["target"])
                scores.append(asked["score"])
                print(
                    f"| {env} | {backbone} | {seed} | {best:.0f} | {asked['mean']:.0f} ± "
                    f"{asked['std']:.0f} | {asked['score']:.1f} | "
                    f"{references.normalized(top, data.env):.1f} | {calibration(rows, best)} |",
                    flush=True,
                )
            if len(scores) > 1:
                print(f"| {env} | {backbone} | mean | | | **{np.mean(scores):.1f}** | | |")


if __name__ == "__main__":
    main()
