"""What benchmarks.data compares with: how others load data and make batches of it.

Minari: all episodes of `iterate_episodes`, which is its way to go through a data set. The loader
and the batches in the style of CORL (its Decision Transformer) are written anew after what it does:
every array of the file in memory, a loop over the steps that collects them episode by episode, and
a torch DataLoader over windows that are cut, normalised and padded one at a time. CORL has four
worker processes for that; here it runs in this one, and four are at most four times as fast.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def minari_episodes(dataset_id: str) -> list[Any]:
    """Return all episodes of a Minari set."""
    import minari

    return list(minari.load_dataset(dataset_id).iterate_episodes())


def step_by_step(path: Path) -> list[Arrays]:
    """Return the episodes of a file in D4RL's layout, collected step by step."""
    with h5py.File(path, "r") as file:
        data: Arrays = {key: file[key][()] for key in file}  # type: ignore[index,misc]
    names = ("observations", "actions", "rewards")
    episodes: list[Arrays] = []
    steps: dict[str, list[Any]] = {name: [] for name in names}
    for i in range(len(data["rewards"])):
        for name in names:
            steps[name].append(data[name][i])
        if data["terminals"][i] or data["timeouts"][i]:
            episode = {name: np.array(rows, np.float32) for name, rows in steps.items()}
            total, to_go = 0.0, np.empty_like(episode["rewards"])
            for t in reversed(range(len(to_go))):
                total += episode["rewards"][t]
                to_go[t] = total
            episodes.append(episode | {"returns": to_go})
            steps = {name: [] for name in names}
    return episodes


def windows(episodes: Sequence[Arrays], length: int, batch_size: int) -> Iterator:
    """Return batches of windows, each cut out by itself and collated by a torch DataLoader."""
    from torch.utils.data import DataLoader, IterableDataset

    lengths = np.array([len(episode["rewards"]) for episode in episodes])
    chance = lengths / lengths.sum()
    obs = np.concatenate([episode["observations"] for episode in episodes])
    mean, std = obs.mean(0, keepdims=True), obs.std(0, keepdims=True) + 1e-6

    class Windows(IterableDataset):
        def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
            while True:
                index = np.random.choice(len(episodes), p=chance)  # noqa: NPY002
                yield window(episodes[index], random.randrange(lengths[index]))

    def window(episode: Arrays, start: int) -> tuple[NDArray[Any], ...]:
        rows = slice(start, start + length)
        state = (episode["observations"][rows] - mean) / std
        missing = length - len(state)
        mask = np.hstack([np.ones(len(state)), np.zeros(missing)])
        parts = [state, episode["actions"][rows], episode["returns"][rows]]
        if missing:
            parts = [np.pad(p, [(0, missing)] + [(0, 0)] * (p.ndim - 1)) for p in parts]
        return (*parts, np.arange(start, start + length), mask)

    return iter(DataLoader(Windows(), batch_size=batch_size))
