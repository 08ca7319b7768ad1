"""Load mutated checkpoints: `python -m tests.agents.fuzz_checkpoints --count 10000`.

Each has to be loaded or refused with UserError: no other exception, no code run, no more memory
than MEMORY, no more time than SECONDS. A child process loads them, so that nothing goes unseen.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY = 200_000_000
"""Bytes of address space that all loads together may add to what torch takes."""
SECONDS = 10
GOOD = ("loaded", "refused")
FORBIDDEN = (
    "pickle.",
    "subprocess.",
    "socket.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "ctypes.",
)
"""Audit events (PEP 578) of code that has no place in loading."""
FACTS = {"env_id": "Toy-v0", "data": "toy/toy-v0", "targets": [1.0, 2.0], "update": 3}
FACTS |= {"window": None, "env_kwargs": {"speed": 2}, "obs_keys": ["a"], "reference": [0, 1, "x"]}
MODELS: dict[str, dict[str, Any]] = {
    "mingru": {},
    "minlstm": {"backbone": "minlstm", "learn_initial_state": True, "rtg_scales": 0},
    "attention": {"backbone": "attention,mingru", "tokens": "interleaved", "prev_action": True},
    "learned": {"backbone": "attention", "cell": {"window": 8, "positions": "learned"}},
    "mamba": {"backbone": "mamba", "conv": 4, "timestep_embedding": 50},
    "s4d": {"backbone": "s4d", "mlp_ratio": 0.0},
    "mlstm": {"backbone": "mlstm"},
    "slstm": {"backbone": "slstm"},
    "rwkv": {"backbone": "rwkv", "norm": "rmsnorm"},
}


def make_bases(folder: Path) -> None:
    """Write a checkpoint of each of MODELS."""
    import torch

    from agents.checkpoint import save_checkpoint
    from agents.decision import DecisionModel, Spaces
    from configs import ModelConfig

    torch.manual_seed(0)
    spaces = Spaces([0.0] * 3, [1.0] * 3, [-1.0] * 2, [1.0] * 2, 10.0, 0.0, 50.0)
    for name, options in MODELS.items():
        model = DecisionModel(ModelConfig(**{"dim": 8, "num_layers": 2} | options), spaces)
        save_checkpoint(folder / name, model, FACTS)


def run(seed: int, first: int, count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Give a result for each case: index, outcome, what was done, message, seconds."""
    make_bases(folder / "bases")
    end = first + count
    while first < end:
        command = [sys.executable, "-m", "tests.agents.fuzz_checkpoints", "--worker", str(folder)]
        command += ["--seed", str(seed), "--first", str(first), "--count", str(end - first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                result = json.loads(line)
                first = result["index"] + 1
                yield result
        code = process.returncode
        if first < end:
            yield {"index": first, "outcome": "crash", "about": "", "message": f"exit code {code}"}
            first += 1


def work(seed: int, first: int, count: int, folder: Path) -> None:
    """Load cases one after the other, with bounded memory, and tell of each."""
    import resource

    from agents.checkpoint import load_checkpoint
    from envs.errors import UserError
    from tests.agents.fuzz_mutations import mutate

    bases = sorted((folder / "bases").iterdir())
    for base in bases:  # what is imported at first use is imported now
        act(load_checkpoint(base)[0])
    events: list[str] = []
    watching = False

    def hook(event: str, _: object) -> None:
        if watching and event.startswith(FORBIDDEN):
            events.append(event)

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    sys.addaudithook(hook)
    signal.signal(signal.SIGALRM, late)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    case, canary = folder / "case", folder / "canary"
    for index in range(first, first + count):
        rng = random.Random(f"{seed} {index}")
        about = mutate(rng.choice(bases), case, rng, canary)
        start, watching, message = time.perf_counter(), True, ""
        signal.alarm(SECONDS)
        try:
            model, _ = load_checkpoint(case)
            watching = False
            act(model)
            outcome = "loaded"
        except UserError as error:
            outcome, message = "refused", str(error)
            if "alloc" in message or "MemoryError" in message or "\n" in message:
                outcome = "memory"
        except BaseException:
            outcome, message = "error", traceback.format_exc()
        finally:
            watching = False
            signal.alarm(0)
        if canary.exists() or (folder / "escaped").exists() or events:
            outcome, message = "code", f"{events}"
        result = {"index": index, "outcome": outcome, "about": about, "message": message}
        sys.stdout.write(json.dumps(result | {"seconds": time.perf_counter() - start}) + "\n")
        sys.stdout.flush()
        shutil.rmtree(case)


def act(model: Any) -> None:
    """Take a step with a model, so that one that was loaded is whole."""
    import torch

    with torch.no_grad():
        now, start = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
        obs, last = torch.zeros(1, model.obs_dim), torch.zeros(1, model.action_dim)
        model.step(obs, torch.ones(1, 1), last, now, resets=start)


def main() -> None:
    """Print what came of the cases; exit with 1 where one was neither loaded nor refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.seed, options.first, options.count, options.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = list(run(options.seed, options.first, options.count, Path(folder)))
    import resource

    bad = [result for result in results if result["outcome"] not in GOOD]
    lines = [f"{result}" for result in bad[:20]]
    outcomes = collections.Counter(result["outcome"] for result in results)
    slowest = max(results, key=lambda result: result.get("seconds", 0))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    lines += [
        f"{len(results)} checkpoints: " + ", ".join(f"{n} {o}" for o, n in outcomes.items()),
        f"slowest {slowest['seconds']:.2f} s ({slowest['about']}); peak memory {peak / 1e3:.0f} MB",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
