"""Train SAC on one MuJoCo task and keep actor checkpoints: the recipe of the shipped policies.

python -m envs.behaviour.train_sac Hopper-v5 600000 --seed 0 --out checkpoints/Hopper-v5

Needs: pip install sbx-rl. About 200 steps/s on one core (1M steps in 1.4 h). The checkpoints are
packed into the project with `python -m envs.behaviour.pack`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.script import run_script
from envs.worlds.make import make_env

EVERY = 25_000
EARLY = (5_000, 10_000)
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return a nested mapping of arrays as one of paths, such as params/Dense_0/kernel."""
    flat: dict[str, NDArray[Any]] = {}
    for key, value in tree.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = np.asarray(value)
    return flat


def train(env_id: str, steps: int, seed: int, out: Path) -> None:
    """Train and write out/NNNNNNNN.npz at 5k, 10k and every 25k steps.

    A file holds the actor's weights and, as __eval, the returns of five deterministic episodes.
    """
    os.environ.setdefault("XLA_FLAGS", _ONE_THREAD)  # must be set before jax is imported
    try:
        jax = importlib.import_module("jax")
        sac = importlib.import_module("sbx").SAC
        callbacks = importlib.import_module("stable_baselines3.common.callbacks")
    except ImportError as error:
        raise UserError(f"training SAC needs: pip install sbx-rl ({error})") from error

    test_env, start = make_env(env_id), time.time()

    def evaluate(model: Any, seed: int) -> float:
        obs, _ = test_env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = test_env.step(action)
            total, done = total + float(reward), terminated or truncated
        return total

    def keep(values: Mapping[str, Any], _globals: Mapping[str, Any]) -> bool:
        """Save a checkpoint if one is due; called after every step."""
        model = values["self"]
        step = int(model.num_timesteps)
        if step % EVERY == 0 or step in EARLY:
            returns = np.array([evaluate(model, 1000 + i) for i in range(5)])
            weights = flatten(jax.device_get(model.policy.actor_state.params))
            np.savez_compressed(
                out / f"{step:08d}.npz", allow_pickle=False, **weights, __eval=returns
            )
            sys.stdout.write(
                f"{step} steps: return {returns.mean():.0f} ± {returns.std():.0f}, "
                f"{step / (time.time() - start):.0f} steps/s\n"
            )
            sys.stdout.flush()
        return True

    out.mkdir(parents=True, exist_ok=True)
    model = sac(
        "MlpPolicy",
        make_env(env_id),
        seed=seed,
        learning_starts=5000,
        batch_size=256,
        learning_rate=3e-4,
        policy_kwargs={"net_arch": [256, 256]},
    )
    model.learn(steps, callback=callbacks.ConvertCallback(keep))


def main() -> int:
    """Run as python -m envs.behaviour.train_sac."""
    parser = argparse.ArgumentParser(description="Train SAC and keep checkpoints of its actor.")
    parser.add_argument("env_id", help="such as Hopper-v5")
    parser.add_argument("steps", type=int, nargs="?", default=600_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    return run_script(lambda: train(**vars(parser.parse_args())))


if __name__ == "__main__":
    sys.exit(main())
