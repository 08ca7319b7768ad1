"""Ablations of the default agent: `python -m benchmarks.trials` makes the table of docs/trials.md.

One run of train.py for each variant of the default and each seed. A finished run is not repeated.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.runs import as_asked, calibration, failures, results
from envs import sources

VARIANTS = {
    "default": "",
    "linear return embedding, dropout 0.1 (Decision Transformer's)": (
        "--model.rtg-scales 0 --model.dropout 0.1"
    ),
    "linear return embedding": "--model.rtg-scales 0",
    "dropout 0.1": "--model.dropout 0.1",
    "windows of 20 x 64": "--data.length 20 --data.batch-size 64",
    "packed rows of 64 x 20": "--data.rows packed",
    "packed rows of 160 x 8": "--data.rows packed --data.length 160 --data.batch-size 8",
    "previous action shown": "--model.prev-action",
    "width 64": "--model.dim 64",
    "width 256": "--model.dim 256",
    "2000 updates": "--optim.updates 2000",
    "8000 updates": "--optim.updates 8000",
    "learning rate 5e-4": "--optim.lr 5e-4",
    "learning rate 2e-3": "--optim.lr 2e-3",
    "three tokens a step": "--model.tokens interleaved",
    "minLSTM, forget bias 3": "--model.backbone minlstm",
    "minLSTM, forget bias 0": "--model.backbone minlstm --model.forget-bias 0",
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    env: str = "minrnn/hopper/medium-replay-v0"
    """Id of the data set."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Names of the variants, or parts of them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    out: Path = Path("runs/trials")
    """Folder of the runs."""
    run: bool = True
    """With --no-run: train nothing, and print the table of the finished runs."""


def main() -> None:
    """Run what is missing, then print one row a run."""
    options = tyro.cli(Options, description=__doc__)
    best = float(sources.load(options.env).returns.max())
    header = False
    for name in choose(options.variants):
        flags = VARIANTS[name]
        for seed in options.seeds:
            folder = options.out / name.replace(" ", "-").replace("'", "") / f"seed{seed}"
            more = ["--env", options.env, "--seed", str(seed)]
            rows = results(folder, flags.split() + more, run=options.run)
            if rows is None:
                continue
            if not header:
                asked = " | ".join(f"{row['target']:.0f}" for row in rows)
                print(f"| variant | seed | {asked} | as asked |\n|---|---{'|---' * len(rows)}|---|")
                header = True
            cells = " | ".join(
                f"{row['mean']:.0f}" if as_asked(row, best) else f"*{row['mean']:.0f}*"
                for row in rows
            )
            hits = calibration(rows, best)[:6] + failures(rows)
            print(f"| {name} | {seed} | {cells} | {hits} |", flush=True)


def choose(wanted: tuple[str, ...]) -> list[str]:
    """Return the variant of that name, or, if there is none, those whose names contain it."""
    chosen = []
    for part in wanted:
        found = [part] if part in VARIANTS else [name for name in VARIANTS if part in name]
        if not found:
            sys.exit(f"error: no variant {part!r}: choose from {'; '.join(VARIANTS)}")
        chosen.extend(found)
    return list(dict.fromkeys(chosen))


if __name__ == "__main__":
    main()
