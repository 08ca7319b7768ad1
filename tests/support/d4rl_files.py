"""Files in D4RL's layout, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode
from envs.sources.d4rl.table import ENTRIES


def arrays(episodes: Sequence[Episode]) -> dict[str, NDArray[Any]]:
    """Return what D4RL's -v2 files hold of episodes that have T + 1 observations."""
    over = np.cumsum([len(e.reward) for e in episodes]) - 1
    ends = np.zeros(over[-1] + 1, np.bool_)
    ends[over] = True
    terminal = np.zeros_like(ends)
    terminal[over] = [e.terminated for e in episodes]
    return {
        "observations": np.concatenate([e.obs[:-1] for e in episodes]).astype(np.float32),
        "actions": np.concatenate([e.action for e in episodes]).astype(np.float32),
        "next_observations": np.concatenate([e.obs[1:] for e in episodes]).astype(np.float32),
        "rewards": np.concatenate([e.reward for e in episodes]).astype(np.float32),
        "terminals": terminal,
        "timeouts": ends & ~terminal,
    }


def write(path: Path, given: dict[str, Any]) -> Path:
    """Write arrays as D4RL does: gzip, and metadata with scalars beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in given.items():
            packed = {"compression": "gzip"} if np.ndim(values) else {}
            file.create_dataset(name, data=values, **packed)
        file["metadata/algorithm"] = np.bytes_(b"SAC")
        file["metadata/iteration"] = 3
        file["metadata/policy/fc0/bias"] = np.zeros(4)
        file["infos/action_log_probs"] = np.zeros(len(given.get("rewards", ())))
    return path


def random_arrays(name: str, lengths: Sequence[int], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return random episodes of the sizes of one of D4RL's sets; the odd ones terminate."""
    rng, (obs, action) = np.random.default_rng(seed), ENTRIES[name].sizes
    return arrays(
        [
            Episode(
                rng.normal(size=(length + 1, obs)),
                rng.uniform(-1, 1, (length, action)),
                rng.normal(size=length),
                i % 2 == 1,
            )
            for i, length in enumerate(lengths)
        ]
    )
