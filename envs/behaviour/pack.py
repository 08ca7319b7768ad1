"""Pack training checkpoints into the small weight files that the project ships.

python -m envs.behaviour.pack FOLDER Hopper-v5 copies the checkpoints that `mixes` names from a
folder that `train_sac` wrote, as float16, into weights/Hopper-v5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from envs.behaviour.mixes import ENVIRONMENTS, WEIGHTS, checkpoints
from envs.errors import UserError


def pack(source: Path, target: Path, names: tuple[str, ...]) -> int:
    """Write the named checkpoints into `target` as float16; return the number of bytes written."""
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for name in names:  # float16 changes an action by about 1e-3, less than the policy's own noise
        if not (source / f"{name}.npz").is_file():
            raise UserError(f"{source} has no {name}.npz; train it, or change envs/behaviour/mixes")
        with np.load(source / f"{name}.npz", allow_pickle=False) as file:
            arrays = {k: file[k].astype(np.float16) for k in file.files if k.startswith("params/")}
        if not all(np.isfinite(values).all() for values in arrays.values()):
            raise UserError(f"{source / name}.npz does not fit float16; leave it out of the mix")
        np.savez_compressed(target / f"{name}.npz", allow_pickle=False, **arrays)
        total += (target / f"{name}.npz").stat().st_size
    return total


def main() -> None:
    """Run as python -m envs.behaviour.pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with NNNNNNNN.npz from train_sac")
    parser.add_argument("env_id", choices=sorted(ENVIRONMENTS.values()))
    args = parser.parse_args()
    family = next(f for f, env_id in ENVIRONMENTS.items() if env_id == args.env_id)
    target = WEIGHTS / args.env_id
    names = checkpoints(family)
    size = pack(args.source, target, names)
    for stale in target.glob("*.npz"):
        if stale.stem not in names:
            stale.unlink()
    parser.exit(0, f"{len(names)} checkpoints, {size / 1e6:.2f} MB in {target}\n")


if __name__ == "__main__":
    main()
