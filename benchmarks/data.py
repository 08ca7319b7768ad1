"""Loading and sampling of large data sets: `python -m benchmarks.data`.

Writes a synthetic data set of 17 observations and 6 actions in Minari's and in D4RL's layout into a
temporary folder (1.5 GB for two million steps). Each load runs in a process of its own, after its
imports, with the files in the system's page cache. Its time is the CPU time of the process
(wall-clock time is in the JSON), its peak is the largest growth of the process's memory, compared
with the bytes of observations, actions and rewards in float32. "first batch" is the time from the
start of the load to the first batch of 64 windows of 20 steps. Batches are made by one process and
without workers, and timed in turns, also in seconds of a core. The last line is JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import data_files, data_peers

LONG, SHORT = 1000, 200  # steps of an episode
MINARI, MINARI_SHORT, D4RL = "bench/long-v0", "bench/short-v0", "bench.hdf5"
AIM_SECONDS, AIM_PEAK, AIM_CACHED = 10.0, 1.5, 0.5
BATCH, TURNS = 64, 5


@dataclass(frozen=True)
class Options:
    """What to measure."""

    steps: int = 2_000_000
    """Steps of each data set."""
    lengths: tuple[int, ...] = (20, 1000)
    """Steps of the windows that are sampled, in batches of 64."""
    repeats: int = 3
    """Processes for each load; their median time and their largest peak are reported."""
    seconds: float = 3.0
    """Seconds to sample for in each case."""
    quick: bool = False
    """A tenth of the steps and of the time, one process for each load; no aims, as small sets have
    the same fixed costs."""
    peers: bool = True
    """With --no-peers: measure this project alone."""
    folder: Path | None = None
    """Where the temporary folder is made. Default: the system's temporary folder."""
    json: Path | None = None
    """Also write the JSON line to this file."""
    load: str | None = None
    """Do one load and print its figures; used by the processes that this command starts."""

    @property
    def episodes(self) -> int:
        """Long episodes in a data set."""
        steps = self.steps // 10 if self.quick else self.steps
        return max(1, steps // LONG)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, then the JSON line."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    if options.load is not None:
        print(json.dumps(measure(options.load)))
        return
    from benchmarks.timing import Measuring, finish, start

    measuring = Measuring(json=options.json)
    report: dict[str, Any] = {"benchmark": "data", "machine": start(measuring)}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        os.environ["MINRNN_CACHE"] = str(Path(folder) / "cache")
        os.environ["MINRNN_BENCH"] = folder
        write(Path(folder), options.episodes)
        report["loads"] = loads(options)
        report["aims"] = [] if options.quick else check(report["loads"])
        report["sampling"] = sampling(options)
    finish(report, measuring)


def write(folder: Path, episodes: int) -> None:
    """Write the data sets."""
    sys.stderr.write("writing the data sets\n")
    data_files.write_minari(folder, MINARI, episodes, LONG)
    data_files.write_minari(folder, MINARI_SHORT, episodes * LONG // SHORT, SHORT)
    data_files.write_d4rl(folder / D4RL, episodes, LONG)


def _ours(dataset_id: str, cache: bool = False) -> Any:
    from envs.sources import minari

    return minari.read(dataset_id, cache=cache)


def _ours_d4rl() -> Any:
    from envs.sources import d4rl

    path = Path(os.environ["MINRNN_BENCH"]) / D4RL
    return d4rl.read_file(path, name=D4RL, env=data_files.ENV_ID, cache=False)


def _their_d4rl() -> Any:
    return data_peers.step_by_step(Path(os.environ["MINRNN_BENCH"]) / D4RL)


LOADS: dict[str, tuple[bool, str, Callable[[], Any]]] = {
    "minrnn, Minari, episodes of 1000": (True, "envs.sources", lambda: _ours(MINARI)),
    "minrnn, Minari, episodes of 200": (True, "envs.sources", lambda: _ours(MINARI_SHORT)),
    "minrnn, D4RL": (True, "envs.sources", _ours_d4rl),
    "minrnn, first start, kept": (True, "envs.sources", lambda: _ours(MINARI, cache=True)),
    "minrnn, second start": (True, "envs.sources", lambda: _ours(MINARI, cache=True)),
    "iterate_episodes, episodes of 1000": (
        *(False, "minari"),
        lambda: data_peers.minari_episodes(MINARI),
    ),
    "iterate_episodes, episodes of 200": (
        *(False, "minari"),
        lambda: data_peers.minari_episodes(MINARI_SHORT),
    ),
    "CORL's style, D4RL": (False, "torch.utils.data", _their_d4rl),
}
"""name -> whether it is ours, what is imported first, and the load."""


def measure(name: str) -> dict[str, float]:
    """Do one load in this process: seconds, and the bytes by which it grew."""
    ours, module, load = LOADS[name]
    importlib.import_module(module)
    if ours:
        from envs.data.sampler import WindowSampler
        from envs.worlds.make import action_bounds

        action_bounds(data_files.ENV_ID)  # which imports MuJoCo
    before = _memory("VmRSS")
    start, clock = time.process_time(), time.perf_counter()
    loaded = load()
    found = {
        "seconds": time.process_time() - start,
        "clock": time.perf_counter() - clock,
        "peak": _memory("VmHWM") - before,
    }
    if ours:
        WindowSampler(loaded, BATCH, 20).sample()
        found["first_batch"] = time.process_time() - start
    return found


def _memory(field: str) -> int:
    """Return a field of this process's memory in bytes, or 0 where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def loads(options: Options) -> list[dict[str, Any]]:
    """Run every load in processes of its own, and print the table."""
    from benchmarks.timing import table

    size = 4 * options.episodes * LONG * (data_files.OBS + data_files.ACTION + 1)
    rows: list[dict[str, Any]] = []
    for name, (ours, _, _) in LOADS.items():
        if not ours and not options.peers:
            continue
        once = options.quick or name == "minrnn, first start, kept"
        found = [_in_process(name) for _ in range(1 if once else options.repeats)]
        row = {key: statistics.median(f[key] for f in found) for key in found[0]}
        row["peak"] = max(f["peak"] for f in found)
        rows.append({"name": name, **row, "peak_over_size": row["peak"] / size})
    table(
        f"{options.episodes * LONG:,} steps, {size / 1e6:.0f} MB: one load",
        ["", "seconds", "peak, MB", "peak / size", "first batch, seconds"],
        [
            [
                row["name"],
                f"{row['seconds']:.3g}",
                f"{row['peak'] / 1e6:.0f}",
                f"{row['peak_over_size']:.2f}",
                f"{row['first_batch']:.3g}" if "first_batch" in row else "-",
            ]
            for row in rows
        ],
    )
    return rows


def _in_process(name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data", "--load", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def check(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print which aims are met."""
    from benchmarks.timing import aims

    ours = [row for row in rows if row["name"].startswith("minrnn")]
    whole = [row for row in ours if "start" not in row["name"]]
    cached = [row["seconds"] for row in ours if "second start" in row["name"]]
    return aims(
        [
            ("seconds to load <=", AIM_SECONDS, [row["seconds"] for row in whole]),
            ("peak over size <=", AIM_PEAK, [row["peak_over_size"] for row in ours]),
            ("seconds of the second start <=", AIM_CACHED, cached),
        ]
    )


def sampling(options: Options) -> list[dict[str, Any]]:
    """Time batches of windows as tensors, and print the table."""
    from benchmarks.timing import table

    episodes = _their_d4rl() if options.peers else []
    rows: list[dict[str, Any]] = []
    for length in options.lengths:
        rates = _rates(dict(_samplers(options, length, episodes)), options)
        rows += [{"length": length, "name": name, "rate": rate} for name, rate in rates.items()]
    names = list(dict.fromkeys(row["name"] for row in rows))
    table(
        f"batches of {BATCH} windows per second",
        ["", *(f"K = {length}" for length in options.lengths)],
        [[name, *(f"{row['rate']:,.0f}" for row in rows if row["name"] == name)] for name in names],
    )
    return rows


def _samplers(
    options: Options, length: int, episodes: list[data_peers.Arrays]
) -> Iterator[tuple[str, Callable[[], object]]]:
    import torch

    from agents.training.trainer import to_tensors
    from envs.data.sampler import PackedSampler, Sampler, WindowSampler

    def ours(sampler: Sampler) -> Callable[[], object]:
        return lambda: to_tensors(sampler.sample(), torch.device("cpu"))

    for source, data in (("memory", _ours(MINARI)), ("cache", _ours(MINARI, cache=True))):
        yield f"minrnn, windows, from {source}", ours(WindowSampler(data, BATCH, length))
        yield f"minrnn, packed rows, from {source}", ours(PackedSampler(data, BATCH, length))
    if episodes:
        batches = data_peers.windows(episodes, length, BATCH)
        yield "CORL's style", lambda: next(batches)


def _rates(cases: dict[str, Callable[[], object]], options: Options) -> dict[str, float]:
    """Return calls per second, the median of several turns of each case."""
    seconds = options.seconds / (10 if options.quick else 1) / TURNS
    turns: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(TURNS):
        for name, case in cases.items():
            case()
            start, calls = time.process_time(), 0
            while (passed := time.process_time() - start) < seconds:
                case()
                calls += 1
            turns[name].append(calls / passed)
    return {name: statistics.median(found) for name, found in turns.items()}


if __name__ == "__main__":
    main()
