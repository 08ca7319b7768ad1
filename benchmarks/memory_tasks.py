"""Tests of a state's memory: `python -m benchmarks.memory_tasks`, for docs/memory_tasks.md.

Selective copying (arXiv:2410.01201, Table 1, at a smaller scale), and parity, which no recurrence
with decays in (0, 1) computes (arXiv:2411.12537). One run for each model, learning rate and seed;
all models of a task have the same recipe. A finished run is not repeated, so that the command
resumes where it was stopped. The last line is JSON; the plot goes to --figure.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm import tqdm

from benchmarks.memory_data import TASKS
from benchmarks.memory_plot import plot
from benchmarks.memory_train import Recipe, Run, fulfil
from benchmarks.timing import table

# The forget bias of the code released with the paper, and a state of twice the width.
MINIMAL = {"expansion": 2.0, "forget_bias": 3.0}
Model = tuple[str, int, dict[str, Any]]  # backbone, layers, options of the cell
MODELS: dict[str, dict[str, Model]] = {
    "copying": {
        "minGRU, 1 layer": ("mingru", 1, MINIMAL),
        "minGRU, 2 layers": ("mingru", 2, MINIMAL),
        "minGRU, 3 layers": ("mingru", 3, MINIMAL),
        "minLSTM, 1 layer": ("minlstm", 1, MINIMAL),
        "minLSTM, 2 layers": ("minlstm", 2, MINIMAL),
        "minLSTM, 3 layers": ("minlstm", 3, MINIMAL),
        "S4D, 2 layers": ("s4d", 2, {}),
        "Aaren, 2 layers": ("aaren", 2, {}),
        "LSTM, 2 layers": ("lstm", 2, {}),
        "Mamba, 2 layers": ("mamba", 2, {}),
        # Ablations of the forget bias and the expansion.
        "LSTM, 2 layers, as minLSTM": ("lstm", 2, MINIMAL),
        "minGRU, 2 layers, forget bias 0": ("mingru", 2, {"expansion": 2.0}),
    },
    "parity": {
        "minGRU": ("mingru", 1, {}),
        "minLSTM": ("minlstm", 1, {}),
        "minGRU, signed": ("mingru", 1, {"signed": True}),
        "minLSTM, signed": ("minlstm", 1, {"signed": True}),
        "Mamba": ("mamba", 1, {}),
        "mLSTM": ("mlstm", 1, {}),
        "RWKV": ("rwkv", 1, {}),
        "Aaren": ("aaren", 1, {}),
        "LSTM": ("lstm", 1, {}),
        "sLSTM": ("slstm", 1, {}),
    },
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    tasks: tuple[Literal["copying", "parity"], ...] = ("copying", "parity")
    """Tasks to run."""
    models: tuple[str, ...] = ()
    """Models whose names contain one of these; all, if none is given."""
    copying: Recipe = field(
        default_factory=lambda: Recipe(
            length=256, test_lengths=(256,), updates=4000, rows=16, lrs=(3e-3,), seeds=(0, 1)
        )
    )
    parity: Recipe = field(
        default_factory=lambda: Recipe(
            length=40,
            test_lengths=(40, 256, 1024),
            updates=600,
            rows=64,
            lrs=(3e-3, 1e-2),
            seeds=(0, 1, 2),
        )
    )
    out: Path = Path("runs/memory_tasks")
    """Folder of the runs: a JSON file for each that is finished."""
    jobs: int = 1
    """Number of processes, of one thread each."""
    run: bool = True
    """With --no-run: train nothing; tables and plot of the finished runs."""
    quick: bool = False
    """Three updates, one seed, one learning rate, ten sequences a test: a smoke test."""
    figure: Path | None = None
    """Also draw learning curves and accuracies into this PNG."""
    json: Path | None = None
    """Also write the JSON line to this file."""

    def recipe(self, task: str) -> Recipe:
        """Return a task's recipe."""
        recipe: Recipe = getattr(self, task)
        if not self.quick:
            return recipe
        lrs, seeds = recipe.lrs[:1], recipe.seeds[:1]
        return replace(recipe, updates=3, rows=4, lrs=lrs, seeds=seeds, test_rows=10)


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then print the tables and the JSON line."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    runs = {
        (task, name, lr, seed): run
        for task in dict.fromkeys(options.tasks)
        for name, model in chosen(task, options.models)
        for lr, seed, run in grid(task, model, options.recipe(task))
    }
    paths = {key: options.out / f"{file_name(run)}.json" for key, run in runs.items()}
    found = {key: load(paths[key], run) for key, run in runs.items()}
    if options.run:
        missing = [(runs[key], paths[key]) for key in runs if found[key] is None]
        complete(missing, options.jobs)
        found = {key: load(paths[key], run) for key, run in runs.items()}
    rows = [
        {"task": task, "model": name, "layers": runs[key].num_layers, "lr": lr, "seed": seed}
        | result
        for key, result in found.items()
        if result is not None
        for task, name, lr, seed in [key]
    ]
    for task in dict.fromkeys(row["task"] for row in rows):
        show(task, [row for row in rows if row["task"] == task])
    if options.figure is not None:
        plot(rows, options.figure)
    line = json.dumps({"benchmark": "memory_tasks", "runs": rows})
    if options.json is not None:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(f"\n{line}", flush=True)


def chosen(task: str, parts: Sequence[str]) -> Iterable[tuple[str, Model]]:
    """Yield the models asked for, by name."""
    for name, model in MODELS[task].items():
        if not parts or any(part.lower() in name.lower() for part in parts):
            yield name, model


def grid(task: str, model: Model, recipe: Recipe) -> Iterable[tuple[float, int, Run]]:
    """Yield a run for each learning rate and seed."""
    backbone, num_layers, cell = model
    fixed = {name: value for name, value in asdict(recipe).items() if name not in ("lrs", "seeds")}
    fixed["data"] = asdict(TASKS[task])
    for lr in recipe.lrs:
        for seed in recipe.seeds:
            yield lr, seed, Run(task, backbone, num_layers, lr, seed, fixed, cell)


def file_name(run: Run) -> str:
    """Return a readable name: one for each run of a recipe."""
    cell = [f"{name}={value}" for name, value in run.cell.items()]
    parts = [run.task, run.backbone, *cell, f"{run.num_layers}-layers", f"lr={run.lr:g}"]
    return "-".join([*parts, f"seed{run.seed}"])


def load(path: Path, run: Run) -> dict[str, Any] | None:
    """Return the result of a finished run, or None; a run with another recipe is an error."""
    if not path.exists():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    if report["run"] != json.loads(json.dumps(asdict(run))):
        sys.exit(f"error: {path} was made with another recipe: give another --out, or remove it")
    return report["result"]


def complete(missing: Sequence[tuple[Run, Path]], jobs: int) -> None:
    """Train the missing runs, a process for each job; a single job runs in this process."""
    if jobs == 1 or len(missing) < 2:
        for run, path in tqdm(missing, "runs", file=sys.stderr, disable=None):
            fulfil(run, path, bar=True)
        return
    # A forked child would hang in its first matrix product.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(fulfil, run, path, False) for run, path in missing]
        for done in tqdm(
            as_completed(waiting), "runs", len(waiting), file=sys.stderr, disable=None
        ):
            done.result()


def show(task: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a task's table: a row for each model and learning rate, the mean over the seeds."""
    lengths = list(rows[0]["accuracy"])
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["lr"]), []).append(row)
    table(
        f"{task}: accuracy in %, chance {100 * TASKS[task].chance:.1f}",
        [
            "model",
            "learning rate",
            *(f"length {length}" for length in lengths),
            "parameters",
            "state",
            "CPU s",
        ],
        (
            [
                name,
                f"{lr:g}",
                *(spread([row["accuracy"][length] for row in group]) for length in lengths),
                f"{group[0]['parameters']:,}",
                f"{group[0]['state']:,}",
                f"{statistics.fmean(row['seconds'] for row in group):.0f}",
            ]
            for (name, lr), group in groups.items()
        ),
    )


def spread(shares: Sequence[float]) -> str:
    """Return the mean in percent, and in parentheses the range where there is one."""
    mean = f"{100 * statistics.fmean(shares):.1f}"
    low, high = (f"{100 * share:.1f}" for share in (min(shares), max(shares)))
    return mean if low == high else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    main()
