"""Kill training runs at random moments, resume them, and compare with uninterrupted runs.

    python -m tests.tools.kills --count 200

Every run is a real `python train.py`. Its files must equal those of an uninterrupted run bit for
bit; then the number of kills is printed, and what the runs were doing when they were killed.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.compare_runs import differences

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = "test/hopper/kills-v0"
SETTINGS = {
    "packed": ["--model.backbone", "mingru", "--data.rows", "packed"],
    "windows": ["--model.backbone", "minlstm", "--data.rows", "windows", "--data.weights", "1"],
}
FLAGS = [
    *("--preset", "smoke", "--env", DATA, "--optim.updates", "240", "--optim.ema", "0.9"),
    *("--model.dropout", "0.2", "--eval.every", "80", "--eval.targets", "20", "60"),
    *("--checkpoint.every", "7", "--checkpoint.seconds", "0"),
]
POLL = 2e-4
"""Seconds between looks at the folder of a run that is to be killed in the middle of a save."""
Moment = Callable[[subprocess.Popen[str], Path, random.Random], None]


def make_data() -> None:
    """Write random episodes of Hopper to $MINARI_DATASETS_PATH, unless they are there."""
    import numpy as np

    from envs.rollout import rollout
    from envs.sources import minari
    from envs.sources.minari import folder

    if folder.exists(DATA):
        return
    rng = np.random.default_rng(0)

    def act(obs: np.ndarray, *_: np.ndarray) -> np.ndarray:
        return rng.uniform(-1, 1, (len(obs), 3))

    played = rollout("Hopper-v5", act, seeds=range(20), num_envs=4, record=True)
    minari.write(DATA, played.episodes, env="Hopper-v5", algorithm="random", description="test")


def start(folder: Path, setting: str) -> subprocess.Popen[str]:
    """Start the run in `folder`, or resume it."""
    begun = (folder / "config.json").exists()
    flags = ["--resume", folder] if begun else [*FLAGS, *SETTINGS[setting], "--run-dir", folder]
    return subprocess.Popen(
        [sys.executable, "train.py", *map(str, flags)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, setting: str) -> None:
    """Start or resume the run in `folder`, and finish it."""
    process = start(folder, setting)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def anywhere(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Wait for a while, as long as a run may take from its start."""
    with_deadline(process, rng.uniform(0, 8))


def in_training(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Wait until the run trains, and a while longer."""
    logs = set(folder.glob("tensorboard/*"))
    while process.poll() is None and set(folder.glob("tensorboard/*")) <= logs:
        time.sleep(0.01)
    with_deadline(process, rng.uniform(0, 2))


def in_a_save(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Wait for one of the saves, and a moment longer."""
    state, skip, seen = folder / "state", rng.randrange(8), set()
    while process.poll() is None:
        for place in (folder, state):
            names = os.listdir(place) if place.is_dir() else []
            seen.update(place / name for name in names if name.startswith(".writing-"))
        if len(seen) > skip:
            time.sleep(rng.uniform(0, 0.01))
            return
        time.sleep(POLL)


def with_deadline(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait for the process, no longer than so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


MOMENTS: dict[Moment, int] = {anywhere: 1, in_training: 4, in_a_save: 4}
SIGNALS = {signal.SIGKILL: 8, signal.SIGTERM: 1, signal.SIGINT: 1}


def kill(folder: Path, setting: str, rng: random.Random) -> str | None:
    """Start or resume, and kill; return what the run was doing, None if it finished first."""
    begun = (folder / "config.json").exists()
    process = start(folder, setting)
    (moment,) = rng.choices([*MOMENTS], [*MOMENTS.values()])
    (number,) = rng.choices([*SIGNALS], [*SIGNALS.values()])
    moment(process, folder, rng)
    process.send_signal(number)
    printed, errors = process.communicate()
    if process.returncode == 0:
        return None
    assert process.returncode in (-number, 128 + number), errors
    saved = "stopped at update" in printed
    told = f"--resume {folder}" in printed + errors
    # Before a run can save, Ctrl-C names the run folder only if there was a state to resume.
    early = process.returncode == 130 and "interrupted" in errors
    assert saved or early == (process.returncode == 128 + number), (printed, errors)
    assert told == (saved or (early and begun)), (printed, errors)
    if saved:
        return f"{signal.Signals(number).name}, saved"
    saves = [*folder.glob(".writing-*"), *folder.glob("state/.writing-*")]
    if saves or [*folder.glob("**/.old-*"), *folder.glob(".next-*")]:
        return "in the middle of a save"
    return "in between" if (folder / "state").exists() else "before the first save"


def trial(work: Path, setting: str, kills: int, rng: random.Random) -> collections.Counter[str]:
    """Kill a run up to `kills` times, finish it, compare; count what it was doing at each kill.

    Raises AssertionError if anything differs from the uninterrupted run, which `work` keeps.
    """
    alone = work / f"{setting}-alone"
    if not alone.exists():
        finish(alone, setting)
    struck: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name) / "run"
        while struck.total() < kills and (where := kill(folder, setting, rng)):
            struck[where] += 1
        if not (folder / "results.json").exists():
            finish(folder, setting)
        found = differences(alone, folder)
        assert not found, "\n".join(found)
    return struck


def main() -> None:
    """Kill as often as asked, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="total number of kills")
    parser.add_argument("--each", type=int, default=20, help="most kills of one run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    rng, begun = random.Random(options.seed), time.perf_counter()
    struck: collections.Counter[str] = collections.Counter()
    runs = 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["MINARI_DATASETS_PATH"] = str(Path(name) / "minari")
        make_data()
        while struck.total() < options.count:
            setting = [*SETTINGS][runs % len(SETTINGS)]
            left = min(options.each, options.count - struck.total())
            struck += trial(Path(name), setting, left, rng)
            runs += 1
            minutes = (time.perf_counter() - begun) / 60
            sys.stdout.write(
                f"{struck.total()} kills of {runs} runs, all identical to uninterrupted runs: "
                f"{dict(struck)} ({minutes:.0f} min)\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
