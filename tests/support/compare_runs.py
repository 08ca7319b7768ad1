"""Compare all that two runs left, to the bit: what differs is only where and how fast they ran."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

CLOCK = {"seconds", "train/updates_per_second"}
"""Metrics that the clock makes."""
ELSEWHERE = {"run_dir", "log", "seconds"}
"""Facts that name a folder, the sizes of logs that hold the clock's metrics, or the clock's."""


def differences(one: Path, two: Path) -> list[str]:
    """Return a line for each difference of two runs' folders; none where they are the same run."""
    found = [f"left behind: {path}" for path in two.rglob(".*") if path.name != ".lock"]
    files = [_names(folder, "*.safetensors") for folder in (one, two)]
    if files[0] != files[1]:
        found.append(f"files {files[0]} and {files[1]}")
    for name in files[0] & files[1]:
        found += [f"{name}: {line}" for line in _tensors(one / name, two / name)]
    for name in _names(one, "*.json") | _names(two, "*.json"):
        ours, theirs = _metadata(one / name), _metadata(two / name)
        for key in ours.keys() | theirs.keys():
            if ours.get(key) != theirs.get(key):
                found.append(f"{name}: {key} is {ours.get(key)!r:.300}, {theirs.get(key)!r:.300}")
    if (lines := [_metrics(folder) for folder in (one, two)])[0] != lines[1]:
        found.append(f"metrics.jsonl: {len(lines[0])} and {len(lines[1])} lines, which differ")
    scalars = [collections.Counter(events(folder)) for folder in (one, two)]
    for tag, step, _ in (scalars[0] - scalars[1]) + (scalars[1] - scalars[0]):
        found.append(f"TensorBoard's {tag} at {step} differs")
    return found


def events(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield (tag, step, value) of each event in all of TensorBoard's files, but for the clock's."""
    for path in sorted(folder.glob("tensorboard/*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag not in CLOCK:
                    yield value.tag, event.step, value.tensor.SerializeToString()


def _names(folder: Path, pattern: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern)}


def _tensors(one: Path, two: Path) -> Iterator[str]:
    ours, theirs = load_file(one), load_file(two)
    if ours.keys() != theirs.keys():
        yield f"tensors {ours.keys() ^ theirs.keys()}"
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape) or a.numpy().tobytes() != b.numpy().tobytes():
            yield f"{name} differs"


def _metadata(path: Path) -> dict[str, Any]:
    metadata = json.loads(path.read_text()) if path.exists() else {}
    return {key: value for key, value in metadata.items() if key not in ELSEWHERE}


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]
