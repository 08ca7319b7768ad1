"""Turn policies into a Minari data set: roll each of them out, in the order of their file names.

python -m envs.sources.policies --policies FOLDER --env-id Hopper-v5 --id NAME/SPACE-v0 \
    --steps 200000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from envs.behaviour.generate import progress_bar, run_policy
from envs.behaviour.policy import Policy, fit_bounds, load_policy
from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.script import run_script
from envs.sources import minari
from envs.worlds.make import action_bounds, env_sizes


def generate_from(
    files: Sequence[Path],
    env_id: str,
    steps: int,
    *,
    seed: int = 0,
    num_envs: int = 16,
    progress: bool = True,
) -> list[Episode]:
    """Roll out policy files in the order given, each for about steps / len(files) steps.

    Where the environment's action bounds are not -1 and 1, actions are rescaled or clipped to them
    as SB3 does (see `fit_bounds`); UserError where it has none. Every policy contributes the fewest
    episodes, in the order of their seeds, that reach its share of the steps.
    """
    if steps < len(files):
        raise UserError(f"{steps} steps for {len(files)} policies; ask for at least one step each")
    policies = [(file, load_policy(file)) for file in files]
    sizes = env_sizes(env_id)
    for file, policy in policies:
        if policy.sizes != sizes:
            raise UserError(
                f"{file} takes {policy.sizes[0]} observations and gives {policy.sizes[1]} "
                f"actions, {env_id} has {sizes[0]} and {sizes[1]}; choose another --env-id"
            )
    low, high = action_bounds(env_id)
    share = -(-steps // len(files))
    episodes: list[Episode] = []
    with progress_bar(
        share * len(files), f"running {len(files)} policies", "steps", progress
    ) as bar:
        for i, (_, policy) in enumerate(policies):
            fitted = fit_bounds(policy, low, high)
            episodes += _reach(fitted, env_id, share, (seed, i), num_envs, bar)
    return episodes


def _reach(
    policy: Policy, env_id: str, steps: int, seed: tuple[int, int], num_envs: int, bar: tqdm[Any]
) -> list[Episode]:
    # Episodes run in waves with seeds of their own; a wave's size follows from the lengths so far.
    taken: list[Episode] = []
    done, wave, size = 0, 0, 16
    while done < steps:
        for episode in run_policy(policy, env_id, size, (*seed, wave), num_envs=num_envs):
            if done < steps:
                taken.append(episode)
                done += len(episode.reward)
                bar.update(min(len(episode.reward), steps - done + len(episode.reward)))
        wave += 1
        size = int(np.clip((steps - done) * len(taken) / max(done, 1) + 1, 1, 1024))
    return taken


def main(argv: Sequence[str] | None = None) -> int:
    """Run as python -m envs.sources.policies."""
    parser = argparse.ArgumentParser(
        description="Roll out a folder of policies, in the order of their file names, into a "
        "Minari data set. envs/behaviour/policy.py describes the two file formats."
    )
    parser.add_argument(
        "--policies", type=Path, required=True, help="a policy file, or a folder of them"
    )
    parser.add_argument("--env-id", required=True, help="such as Hopper-v5")
    parser.add_argument("--id", required=True, help="the new data set's id: NAME/SPACE-v0")
    parser.add_argument("--steps", type=int, default=200_000, help="approximate number of steps")
    parser.add_argument("--pattern", default="*.npz", help="pattern of the files in the folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-envs", type=int, default=16)
    return run_script(lambda: _generate(parser.parse_args(argv)))


def _generate(args: argparse.Namespace) -> None:
    folder: Path = args.policies
    files = [folder] if folder.is_file() else sorted(folder.glob(args.pattern))
    if not files:
        raise UserError(f"no {args.pattern} in {folder}; give the folder of the policies")
    minari.check_new(args.id)
    episodes = generate_from(files, args.env_id, args.steps, seed=args.seed, num_envs=args.num_envs)
    path = minari.write(
        args.id,
        episodes,
        env=args.env_id,
        algorithm="sampled policies",
        description=f"{len(episodes)} episodes of {len(files)} policies, in the order of their "
        f"file names ({files[0].stem} to {files[-1].stem}), seed {args.seed}.",
    )
    steps = sum(len(episode.reward) for episode in episodes)
    sys.stdout.write(f"{args.id}: {len(episodes)} episodes, {steps} steps in {path}\n")


if __name__ == "__main__":
    sys.exit(main())
