"""The kinds of folders that are saved, and what changed in them from version to version.

1 has no checksums; 2 has SHA256SUMS; in 3 the normaliser, the head and the objective have names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class FolderFormat(NamedTuple):
    """A kind of folder: what it is called in messages, its files, and how they are read."""

    what: str
    metadata: str
    """The file of JSON."""
    tensors: str
    version: int
    """The version that is written, and the newest that is read; "format" in the metadata."""
    largest: int
    """Bytes of JSON; parsed, they may take thirty times as much memory."""
    renames: Mapping[int, Mapping[str, str]]
    """By the version that changed them: old and new names of tensors, or what names begin with, up
    to a dot. The first that matches counts."""

    def renamed(self, name: str, version: int) -> str:
        """Return the present name of a tensor in a folder of `version`."""
        for since in sorted(self.renames):
            if version < since <= self.version:
                for old, new in self.renames[since].items():
                    if f"{name}.".startswith(f"{old}."):
                        name = new + name.removeprefix(old)
                        break
        return name


_MODEL = {
    "obs_mean": "normaliser.obs_mean",
    "obs_std": "normaliser.obs_std",
    "return_scale": "normaliser.return_scale",
    "rtg_low": "normaliser.rtg_low",
    "rtg_high": "normaliser.rtg_high",
    "action_low": "head.action_low",
    "action_high": "head.action_high",
    "head.weight": "head.mean.weight",
    "head.bias": "head.mean.bias",
}
_PARTS = {"model": "model", "average.module": "average.module", "optimizer": "optimizer.model"}
_STATE = {
    **{f"{old}.{a}": f"{new}.{b}" for old, new in _PARTS.items() for a, b in _MODEL.items()},
    "optimizer.model": "optimizer.model",  # new names stay
    "optimizer": "optimizer.model",
    "losses": "pending.loss",
    "norms": "pending.grad_norm",
}
AGENT = FolderFormat("checkpoint", "agent.json", "model.safetensors", 3, 1_000_000, {3: _MODEL})
STATE = FolderFormat(
    "training state", "state.json", "state.safetensors", 3, 16_000_000, renames={3: _STATE}
)
