"""Which checkpoints make up which data set, and how many episodes of each.

The counts are chosen so that returns spread from nearly random to the best (replay), and that the
largest set is rolled out in well under a minute on one core.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Stage:
    """Some episodes of one policy."""

    policy: str
    """The file's name without .npz; for the shipped ones, the training step of the checkpoint."""
    episodes: int
    noise: float = 1.0
    """Scale of the policy's own noise: 1 samples as in training, 0 takes the mode."""


ENVIRONMENTS = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}
LEVELS = ("medium-replay", "medium", "expert", "medium-expert")


def _stages(episodes: dict[int, int], noise: float = 1.0) -> tuple[Stage, ...]:
    return tuple(Stage(f"{step:08d}", count, noise) for step, count in episodes.items())


_REPLAY = {
    "hopper": _stages(
        {5_000: 40, 10_000: 40, 25_000: 40, 50_000: 50, 75_000: 50, 100_000: 50}
        | {150_000: 40, 200_000: 50, 325_000: 70, 375_000: 60, 450_000: 70}
    )
    + _stages({575_000: 60}, noise=0.5),
    "walker2d": _stages(
        {5_000: 20, 10_000: 30, 50_000: 40, 75_000: 40, 150_000: 45}
        | {175_000: 45, 200_000: 20, 325_000: 30, 425_000: 30, 600_000: 30}
    ),
    "halfcheetah": _stages(
        {10_000: 15, 25_000: 15, 50_000: 20, 75_000: 20, 100_000: 25, 150_000: 25}
        | {200_000: 25, 250_000: 25, 325_000: 25, 475_000: 25, 650_000: 25}
    ),
}
_MEDIUM = {
    "hopper": _stages({325_000: 250}),
    "walker2d": _stages({175_000: 150}),
    "halfcheetah": _stages({150_000: 100}),
}
_EXPERT = {
    "hopper": _stages({375_000: 100}, noise=0.25),
    "walker2d": _stages({600_000: 100}),
    "halfcheetah": _stages({650_000: 100}),
}


def stages(family: str, level: str) -> tuple[Stage, ...]:
    """Return the stages of a data set; medium-expert has the episodes of both."""
    if level == "medium-expert":
        return _MEDIUM[family] + _EXPERT[family]
    return {"medium-replay": _REPLAY, "medium": _MEDIUM, "expert": _EXPERT}[level][family]


def fingerprint(family: str, level: str, seed: int) -> str:
    """Return a digest of everything that decides a data set's contents: stages, weights, seed."""
    digest = hashlib.sha256(repr((stages(family, level), seed)).encode())
    for stage in stages(family, level):
        digest.update((WEIGHTS / ENVIRONMENTS[family] / f"{stage.policy}.npz").read_bytes())
    return digest.hexdigest()[:16]


def checkpoints(family: str) -> tuple[str, ...]:
    """Return the names of all checkpoints that a level of this family uses."""
    return tuple(sorted({stage.policy for level in LEVELS for stage in stages(family, level)}))
