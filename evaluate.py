"""Evaluate a trained agent: `python evaluate.py RUN --targets 3000 1500`."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see train.py

import tyro

from envs.errors import UserError
from envs.script import run_script

DESCRIPTION = """Play a run's checkpoints in its environment, asking for each target return.
Prints one table with its protocol and writes the same, every episode included, as JSON."""


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run (runs/...), or one of its checkpoints (runs/.../best)."""
    targets: tuple[float, ...] | None = None
    """Returns to ask for. Default: those the run was evaluated with."""
    checkpoint: Literal["last", "best", "both"] = "both"
    """Which checkpoint of the run."""
    episodes: int = 20
    """Episodes for each target; every one of them counts."""
    memory: Literal["carry", "window"] | None = None
    """`carry` the state through the episode, or re-run a `window` of the last steps each time.
    Default: as the run was evaluated."""
    window: int | None = None
    """Steps of the window. Default: as the run was evaluated, or 20."""
    seed: int = 10_000
    """Episode i starts from `env.reset(seed=seed + i)`, the same for every target."""
    num_envs: int = 120
    """Environments stepped together; it does not change which episodes are played."""
    device: str = "cpu"
    """auto, cpu, cuda, ... Acting with so small a model is fastest on the CPU."""
    json: Path | None = None
    """Where to write the results as JSON. Default: RUN/evaluation.json."""


def main(arguments: list[str] | None = None) -> None:
    """Load, play, report."""
    options = tyro.cli(Options, args=arguments, description=DESCRIPTION)
    check(options)

    from agents import checkpoint, evaluation, report, runtime
    from agents.runlog import episode_bar, say
    from envs import score

    runtime.configure(threads=1)
    device = runtime.select_device(options.device)
    window: int | None = None
    results: dict[str, list[evaluation.Result]] = {}
    notes, facts = [], {}
    for name, folder in checkpoints(options).items():
        model, facts = checkpoint.load_checkpoint(folder)
        targets = options.targets or tuple(facts["targets"])
        window = choose_window(options, facts["window"])
        if warning := evaluation.beyond_data(model, targets):
            say(f"note: targets {warning}")
        with episode_bar(name, len(targets) * options.episodes) as progress:
            results[name] = evaluation.evaluate(
                model,
                facts["env_id"],
                targets,
                episodes=options.episodes,
                seed=options.seed,
                num_envs=options.num_envs,
                env_kwargs=facts["env_kwargs"],
                obs_keys=facts["obs_keys"],
                window=window,
                device=device,
                progress=progress,
            )
        notes.append(f"{name} (update {facts['update']})")

    protocol = score.protocol(
        data=facts["data"],
        env_id=facts["env_id"],
        targets=[result.target for result in next(iter(results.values()))],
        episodes=options.episodes,
        seeds=[options.seed],
        checkpoint=", ".join(notes),
        env_kwargs=facts["env_kwargs"],
        own=facts["reference"],
        memory=evaluation.describe_memory(window),
    )
    target = options.json or options.run / "evaluation.json"
    checkpoint.write_json(target, report.as_json(results, protocol))
    say(report.table(results, protocol))
    say(f"\nevery episode: {target}")


def check(options: Options) -> None:
    """Refuse values that cannot be meant."""
    if min(options.episodes, options.window or 1, options.num_envs) < 1 or options.seed < 0:
        raise UserError("--episodes, --window and --num-envs must be positive, --seed not negative")
    if not all(math.isfinite(target) for target in options.targets or ()):
        raise UserError(f"--targets must be finite numbers, not {options.targets}")


def choose_window(options: Options, window_of_run: int | None) -> int | None:
    """Return the steps of the window, None to carry the state: as asked, or as in the run."""
    memory = options.memory or ("window" if options.window or window_of_run else "carry")
    return (options.window or window_of_run or 20) if memory == "window" else None


def checkpoints(options: Options) -> dict[str, Path]:
    """Return the folders to evaluate, by name."""
    run = options.run
    if (run / "agent.json").is_file():
        return {run.name: run}
    names = ["last", "best"] if options.checkpoint == "both" else [options.checkpoint]
    found = {name: run / name for name in names if (run / name / "agent.json").is_file()}
    if not found:
        raise UserError(
            f"{run} has no checkpoint ({' or '.join(names)}): give the folder of a run of "
            "train.py, which saves at each evaluation and at the end"
        )
    return found


if __name__ == "__main__":
    sys.exit(run_script(main))
