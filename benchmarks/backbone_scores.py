"""Every backbone on the same data: `python -m benchmarks.backbone_scores`, in two to four hours.

The default agent with each backbone, as many parameters (to within 10 %, by the width), the same
data, updates and seeds; one run of train.py for each. A finished run is not repeated, so that the
command resumes where it was stopped. Then an update at the default batch, and a step of acting at
batch 1, timed in turns (milliseconds and microseconds; --no-time leaves them out).

The score is that of the highest target, the data's best return, at the last update; the error of
calibration is the mean distance between target and obtained return over all targets, in percent of
the data's best return.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.backbones import WIDTHS, Actor, build, model_config, step_times
from benchmarks.runs import Row, calibration, results
from benchmarks.timing import Measuring, finish, interleaved, start, table
from benchmarks.train_step import OneBatch, contestant
from configs import DataConfig
from envs import sources


@dataclass(frozen=True)
class Options(Measuring):
    """What to run."""

    env: str = "minrnn/hopper/medium-replay-v0"
    """Id of the data set."""
    backbones: tuple[str, ...] = tuple(WIDTHS)
    """Names of the backbones."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds."""
    out: Path = Path("runs/backbones")
    """Folder of the runs."""
    run: bool = True
    """With --no-run: train nothing, and print the table of the finished runs."""
    time: bool = True
    """Also time updates and steps of acting."""


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then print the table and the JSON line."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    report: dict[str, Any] = {"benchmark": "backbone_scores", "machine": start(options)}
    best = float(sources.load(options.env).returns.max())
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:  # every backbone once, before any twice
        for name in options.backbones:
            flags = ["--env", options.env, "--seed", str(seed), "--model.backbone", name]
            flags += ["--model.dim", str(model_config(name).dim)]
            found = results(options.out / f"{name}-seed{seed}", flags, run=options.run)
            if found is not None:
                rows.append({"name": name, "seed": seed, **summary(found, best)})
    timed = times(options) if options.time else {}
    table(
        f"{options.env}: the best return in the data is {best:.0f}",
        ["backbone", "width", "parameters", "score (seeds)", "calibration error", "as asked"]
        + ["update, ms", "step, μs"] * bool(timed),
        [
            _row(name, [r for r in rows if r["name"] == name], timed.get(name))
            for name in options.backbones
            if any(r["name"] == name for r in rows)
        ],
    )
    finish({**report, "env": options.env, "best": best, "runs": rows, "times": timed}, options)


def summary(found: list[Row], best: float) -> dict[str, Any]:
    """Return the results of one run: the score at the highest target, errors, targets missed."""
    top = max(found, key=lambda row: row["target"])
    errors = [abs(row["mean"] - row["target"]) / abs(best) for row in found]
    return {
        "score": top["score"],
        "calibration_error": float(np.mean(errors)),
        "as_asked": calibration(found, best),
    }


def times(options: Options) -> dict[str, tuple[float, float]]:
    """Return milliseconds of an update and microseconds of a step, for each backbone."""
    data = DataConfig()
    sampler = OneBatch(data.batch_size, data.length)
    names = options.backbones
    updates = interleaved(
        {n: contestant(model_config(n), sampler, "float32", 1).step for n in names},
        options.budget,
        "updates",
    )
    steps = step_times({name: Actor(build(name), 1) for name in names}, 10, options.budget)
    return {name: (updates[name].ms, steps[name]) for name in names}


def _row(name: str, runs: list[dict[str, Any]], timed: tuple[float, float] | None) -> list[str]:
    scores = [run["score"] for run in runs]
    error = np.mean([run["calibration_error"] for run in runs])
    parameters = sum(p.numel() for p in build(name).parameters())
    return [
        name,
        f"{model_config(name).dim}",
        f"{parameters:,}",
        f"{np.mean(scores):.1f} ({', '.join(f'{score:.1f}' for score in scores)})",
        f"{error:.1%}",
        "; ".join(run["as_asked"] for run in runs),
        *([f"{timed[0]:.1f}", f"{timed[1]:.0f}"] if timed else []),
    ]


if __name__ == "__main__":
    main()
