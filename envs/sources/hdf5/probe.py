"""Open HDF5 files of newer formats in another process first.

HDF5 2.0 reads the index of an array's chunks as a whole and trusts it: a crafted one takes all
memory, never ends, or kills the process. The files of D4RL and Minari are in the oldest format,
which needs no probe.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

MEMORY = 2**30  # bytes that the other process may take
SECONDS, BYTES_A_SECOND = 20.0, 10e6
_SUPERBLOCK = 8  # offset of its version behind the signature


def probe(path: Path, start: int) -> bool:
    """Return whether HDF5 can open every array of a file; True for the oldest formats.

    start: the offset of the file's signature. Takes half a second, to start a process.
    """
    with open(path, "rb") as file:
        file.seek(start + _SUPERBLOCK)
        if file.read(1) in (b"\0", b"\1", b""):
            return True
    limit = SECONDS + path.stat().st_size / BYTES_A_SECOND
    command = [sys.executable, "-I", __file__, str(path.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main(path: str) -> None:
    """Visit all groups of a file, and the storage of each array."""
    import h5py

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except ImportError:  # Windows
        pass
    with h5py.File(path, "r", locking=False) as file:
        groups, seen = [cast(h5py.Group, file["/"])], set[int]()
        while groups:
            group = groups.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    continue
                try:
                    found = group[name]
                except (KeyError, OSError, RuntimeError, ValueError):
                    continue  # its reader will report it
                if isinstance(found, h5py.Dataset):
                    found.id.get_storage_size()  # fails, or kills this process
                elif isinstance(found, h5py.Group) and hash(found.id) not in seen:
                    seen.add(hash(found.id))
                    groups.append(found)


if __name__ == "__main__":
    main(sys.argv[1])
