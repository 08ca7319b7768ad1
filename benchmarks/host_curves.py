"""Learning curves of agents with memory in another library: `python -m benchmarks.host_curves`.

--figure docs/host_curves.png makes the plot of the documentation.

RecurrentPPO of sb3-contrib with our stacks and with its own LSTM, and memoryless PPO, on tasks that
cannot be solved from one observation. All memories of a task have the same recipes, which were
chosen by trials of the LSTM; where there are several learning rates, the plot has each memory at
its best, and the table has all. Our stacks run in `StackPPO`, whose updates are RecurrentPPO's. One
file for each run in --out: a finished run is not repeated, so that the command resumes where it was
stopped.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from tqdm import tqdm

from benchmarks.host_curves_plot import plot, rate
from benchmarks.host_tasks import make, scaled
from benchmarks.timing import table
from minrnn.hosts.sb3 import RecurrentPPO, StackPPO

LSTM = {"lstm_hidden_size": 128}
STACK = {"dim": 128, "num_layers": 1, "mlp_ratio": 1.0}
MEMORIES: dict[str, tuple[type, str, dict[str, Any]]] = {
    "minGRU": (StackPPO, "MlpStackPolicy", {"stack": STACK | {"backbone": "mingru"}}),
    "minLSTM": (StackPPO, "MlpStackPolicy", {"stack": STACK | {"backbone": "minlstm"}}),
    "LSTM": (RecurrentPPO, "MlpLstmPolicy", LSTM),
    "none": (PPO, "MlpPolicy", {}),
}
BINS = 25


@dataclass(frozen=True)
class Recipe:
    """Settings that all memories of a task share: the arguments of PPO, and the number of steps."""

    steps: int
    num_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    learning_rate: float
    gamma: float
    scaled: bool
    """Whether observations and rewards are normalised by running statistics."""
    decay: bool = False
    """Whether the learning rate falls to zero, linearly."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the algorithm."""
        own = ("steps", "num_envs", "scaled", "decay")
        found = {key: value for key, value in asdict(self).items() if key not in own}
        if self.decay:
            found["learning_rate"] = lambda left: self.learning_rate * left
        return found


REPEAT = Recipe(120_000, 16, 104, 832, 8, 3e-3, 0.5, False)
PENDULUM = Recipe(100_000, 8, 256, 512, 10, 1e-3, 0.9, True)
HOPPER = Recipe(200_000, 8, 256, 512, 5, 3e-4, 0.99, True)
RECIPES = {
    "repeat-first": (REPEAT, replace(REPEAT, learning_rate=1e-2)),
    "Pendulum-v1": (PENDULUM, replace(PENDULUM, decay=True)),
    "Hopper-v5": (HOPPER, replace(HOPPER, decay=True)),
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    tasks: tuple[Literal["repeat-first", "Pendulum-v1", "Hopper-v5"], ...] = tuple(RECIPES)
    """Names of the tasks; velocities are masked out of Pendulum and Hopper."""
    memories: tuple[Literal["minGRU", "minLSTM", "LSTM", "none"], ...] = tuple(MEMORIES)
    """Memories of actor and critic."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the networks and of the environments."""
    steps: int = 0
    """Environment steps; 0 for the task's own number."""
    episodes: int = 50
    """Episodes of the final evaluation, with the most likely actions."""
    out: Path = Path("runs/host_curves")
    """Folder of the results."""
    figure: Path | None = None
    """Where the plot goes, a PNG; by default curves.png in --out."""
    run: bool = True
    """With --no-run: train nothing, and show the finished runs."""


class Returns(BaseCallback):
    """Records the return of each episode, and the number of steps at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.found.append((self.num_timesteps, float(info["episode"]["r"])))
        return True


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then plot and print a table; the last line is JSON."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    wanted = [
        (task, recipe, memory, seed)
        for task in options.tasks
        for seed in options.seeds
        for recipe in RECIPES[task]
        for memory in options.memories
    ]
    rows: list[dict[str, Any]] = []
    for task, recipe, memory, seed in tqdm(wanted, "runs", disable=None):
        row = fulfil(task, recipe, memory, seed, options)
        if row is not None:
            rows.append(row)
    if not rows:
        raise SystemExit(f"error: there is no such run in {options.out}; leave --no-run out")
    plot(best(rows), options.figure or options.out / "curves.png")
    report(rows)


def fulfil(
    task: str, recipe: Recipe, memory: str, seed: int, options: Options
) -> dict[str, Any] | None:
    """Return a run's result: from its file if that has the same settings, else by training."""
    _, policy, kwargs = MEMORIES[memory]
    recipe = replace(recipe, steps=options.steps or recipe.steps)
    asked = json.loads(
        json.dumps(
            {"task": task, "memory": memory, "seed": seed, "policy": policy, "options": kwargs}
            | asdict(recipe)
            | {"episodes": options.episodes}
        )
    )
    path = options.out / f"{task}-{rate(asdict(recipe), '-to-')}-{memory}-{seed}.json"
    if path.exists():
        row = json.loads(path.read_text(encoding="utf-8"))
        if {key: row.get(key) for key in asked} == asked:
            return row
    if not options.run:
        return None
    row = asked | train(task, recipe, memory, seed, options.episodes)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row), encoding="utf-8")
    part.replace(path)
    return row


def train(task: str, recipe: Recipe, memory: str, seed: int, episodes: int) -> dict[str, Any]:
    """Train once; return the curve of training returns and the return of the final policy."""
    torch.set_num_threads(1)  # otherwise torch's defaults: no bfloat16 products
    algorithm, policy, kwargs = MEMORIES[memory]
    envs = make(task, recipe.num_envs, seed)
    if recipe.scaled:
        envs = scaled(envs, recipe.gamma)
    arguments = recipe.arguments()
    model = algorithm(
        policy, envs, seed=seed, device="cpu", policy_kwargs=dict(kwargs), **arguments
    )
    returns, start = Returns(), time.process_time()
    model.learn(recipe.steps, callback=returns)
    seconds = time.process_time() - start
    if recipe.scaled:
        envs.training = False
    final, _ = evaluate_policy(model, envs, n_eval_episodes=episodes, deterministic=True)
    envs.close()
    return {
        "parameters": sum(p.numel() for p in model.policy.parameters()),
        "seconds": seconds,
        "curve": curve(returns.found, recipe.steps),
        "final": float(final),
    }


def curve(found: Sequence[tuple[int, float]], steps: int) -> list[tuple[float, float]]:
    """Return (steps at the middle, mean return of the episodes that ended) for each bin."""
    edges = np.linspace(0, steps, BINS + 1)
    places = np.clip(np.searchsorted(edges, [at for at, _ in found]) - 1, 0, BINS - 1)
    sums: list[list[float]] = [[] for _ in range(BINS)]
    for place, (_, value) in zip(places, found, strict=True):
        sums[place].append(value)
    middles = (edges[:-1] + edges[1:]) / 2
    return [(float(m), statistics.fmean(s)) for m, s in zip(middles, sums, strict=True) if s]


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of the returns, and all results as one line of JSON."""
    lines = []
    for runs in groups(rows):
        first, final = runs[0], [row["final"] for row in runs]
        lines.append(
            (
                f"{first['task']}, {first['steps']} steps",
                rate(first),
                first["memory"],
                f"{first['parameters']}",
                f"{statistics.fmean(final):.4g} ({min(final):.4g} to {max(final):.4g})",
                f"{statistics.fmean(last_fifth(row) for row in runs):.4g}",
                f"{len(runs)}",
                f"{statistics.fmean(row['seconds'] for row in runs):.0f}",
            )
        )
    header = ["task", "learning rate", "memory", "parameters", "final return"]
    table("Returns", [*header, "last fifth of training", "seeds", "core seconds a run"], lines)
    print(f"\n{json.dumps({'runs': list(rows)})}", flush=True)


def last_fifth(row: dict[str, Any]) -> float:
    """Return the mean of the last fifth of a curve, which varies less than one final policy."""
    return statistics.fmean(value for _, value in row["curve"][-BINS // 5 :])


def groups(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the seeds of each task, learning rate and memory."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["task"], rate(row), row["memory"]), []).append(row)
    return [found[key] for key in sorted(found, key=lambda key: list(RECIPES).index(key[0]))]


def best(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of each memory's best learning rate, by the mean of the final returns."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for runs in groups(rows):
        key = runs[0]["task"], runs[0]["memory"]
        found[key] = max(found.get(key, runs), runs, key=score)
    return [row for runs in found.values() for row in runs]


def score(runs: Sequence[dict[str, Any]]) -> float:
    """Return the mean of the final returns."""
    return statistics.fmean(row["final"] for row in runs)


if __name__ == "__main__":
    main()
