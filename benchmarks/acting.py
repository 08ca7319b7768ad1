"""How fast an agent acts: `python -m benchmarks.acting`.

1. One environment step of each engine, for one environment and for several, with fused tokens (one
   a step) and interleaved ones, against Hugging Face's DecisionTransformerModel of the same width
   and depth, whose window of the last 20 steps is run again at each step (full, without a mask).
   Numbers are random; weights stay as near as the cache keeps them from call to call.
2. Whether a step costs the same late in an episode, in time and in memory.
3. Whole episodes in MuJoCo, making of environments included, against the bare `mj_step` of the same
   actions from the same starts, one environment after the other, in turns with it; and what share
   of the closed loop's time MuJoCo takes. The agent is not trained: Hopper's episodes go on when it
   falls, as otherwise they would be resets (--hopper: the folder of a run, whose episodes end as
   they do).
4. The same over several processes, in wall-clock time: the rate for a long queue of episodes, and
   how long the other processes take to start.
5. An evaluation during training (six targets with eight episodes each), on the clock, by each
   `--eval.stepper`.

The last line is JSON. The peers are optional: pip install transformers envpool.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mujoco
import numpy as np
import torch
import tyro

from agents.acting import engines
from agents.acting.policy import Policy
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs
from agents.model.normaliser import Spaces
from agents.storage.checkpoint import load_checkpoint
from benchmarks import timing
from benchmarks.timing import Measuring, Timing
from configs import ModelConfig
from envs.rollout import Rollout, rollout
from envs.rollout.envpool import pool_rollout
from envs.worlds.make import env_sizes, make_env
from envs.worlds.spec import EnvSpec

Part = Literal["steps", "late", "loops", "processes", "pool"]
OBS, ACTION = 11, 3  # Hopper's
BURST = 20  # steps in a timed call
LATE = 10_000
WINDOW = 20
FALLING = {"terminate_when_unhealthy": False}
WORLDS: dict[str, dict[str, Any]] = {"Hopper-v5": FALLING, "HalfCheetah-v5": {}}


@dataclass(frozen=True)
class Options(Measuring):
    """What to measure."""

    parts: tuple[Part, ...] = ("steps", "late", "loops", "processes", "pool")
    """Which of the five parts to run."""
    engines: tuple[str, ...] | None = None
    """Acting engines to time. Default: all that are installed."""
    batches: tuple[int, ...] = (1, 16)
    """Batch sizes: environments that the agent acts in together."""
    dim: int = 128
    """Width of the agent."""
    num_layers: int = 3
    """Number of layers of the agent."""
    episodes: int = 100
    """Episodes of each environment."""
    num_envs: int = 50
    """Environments stepped together in the closed loop."""
    num_procs: int = 2
    """Number of processes in part 4."""
    hopper: Path | None = None
    """Run whose last checkpoint plays Hopper for its highest target return; in part 5, for all."""


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    machine = timing.start(options)
    torch.set_float32_matmul_precision("highest")  # as agents.evaluation.evaluate acts
    parts = options.parts
    steps = latencies(options) if "steps" in parts else []
    late = lateness(options) if "late" in parts else None
    loops = {w: closed_loop(w, options) for w in WORLDS} if "loops" in parts else {}
    spread = over_processes(options) if "processes" in parts else None
    pool = steppers(options) if "pool" in parts else None
    found = timing.aims(
        [
            ("one environment, fused tokens, µs <=", 30, _fastest(steps, "fused", 1)),
            ("one environment, interleaved tokens, µs <=", 60, _fastest(steps, "interleaved", 1)),
            ("16 environments, µs for each <=", 15, _fastest(steps, "fused", 16)),
            ("times as fast as Decision Transformer", 20, _speedups(steps)),
            (f"a step at {LATE} over one at 10 <=", 1.1, [late["ratio"]] if late else []),
            (f"KiB of memory for {LATE} steps <=", 64, [late["grown_kib"]] if late else []),
            *(
                (f"{world}: share of the rate of mj_step", 0.6, [loop["rate"]])
                for world, loop in loops.items()
            ),
            ("2 processes over 1", 1.8, [spread["speedup"]] if spread else []),
        ]
    )
    report = {"steps": steps, "late": late, "loops": loops, "processes": spread, "pool": pool}
    timing.finish({"machine": machine, **report, "aims": found}, options)


def agent(tokens: str, options: Options, obs: int = OBS, action: int = ACTION) -> DecisionModel:
    """Return an untrained agent."""
    torch.manual_seed(0)
    spaces = Spaces([0.0] * obs, [1.0] * obs, [-1.0] * action, [1.0] * action, 1000.0, 0.0, 3200.0)
    config = ModelConfig(tokens=tokens, dim=options.dim, num_layers=options.num_layers)  # type: ignore[arg-type]
    return DecisionModel(config, spaces).eval()


def acting(engine: engines.Engine, rows: int) -> Callable[[], None]:
    """Return a function that does BURST steps in the middle of an episode."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((rows, OBS), dtype=np.float32)
    rtg, before = np.full((rows, 1), 2000, np.float32), np.zeros((rows, ACTION), np.float32)
    inputs = Inputs(obs, rtg, before, np.full(rows, 50), np.zeros(rows, np.bool_))
    engine.start(rows)

    def act() -> None:
        for _ in range(BURST):
            engine.step(inputs)

    return act


def peer(rows: int, options: Options) -> Callable[[], None] | None:
    """Return the same for Decision Transformer, or None where it is not installed."""
    transformers = timing.optional("transformers", "transformers") if options.peers else None
    if transformers is None:
        return None
    config = transformers.DecisionTransformerConfig(
        state_dim=OBS,
        act_dim=ACTION,
        hidden_size=options.dim,
        n_layer=options.num_layers,
        n_head=1,
        n_positions=1024,
        activation_function="relu",
        use_cache=False,
    )
    model = transformers.DecisionTransformerModel(config).eval()
    given = {
        "states": torch.randn(rows, WINDOW, OBS),
        "actions": torch.randn(rows, WINDOW, ACTION),
        "returns_to_go": torch.ones(rows, WINDOW, 1),
        "timesteps": torch.arange(WINDOW).repeat(rows, 1),
    }

    @torch.inference_mode()
    def act() -> None:
        for _ in range(BURST):
            model(**given).action_preds[:, -1].numpy()

    return act


def latencies(options: Options) -> list[dict[str, Any]]:
    """Time one step of each engine, and of the peer."""
    found: list[dict[str, Any]] = []
    for rows in options.batches:
        cases: dict[tuple[str, str], Callable[[], object]] = {}
        for tokens in ("fused", "interleaved"):
            model = agent(tokens, options)
            for name in options.engines or engines.available(model):
                cases[name, tokens] = acting(engines.make(model, name), rows)
        if dt := peer(rows, options):
            cases["Decision Transformer", "window"] = dt
        named = {f"{name}, {tokens}": case for (name, tokens), case in cases.items()}
        timings = timing.interleaved(named, options.budget, f"{rows} environments")
        for (name, tokens), took in zip(cases, timings.values(), strict=True):
            found.append({"engine": name, "tokens": tokens, "batch": rows, **_micro(took, rows)})
        timing.table(
            f"One step of {rows} environment(s), {options.num_layers} x {options.dim}",
            ["engine", "tokens", "µs", "quartiles", "µs for each environment"],
            (
                [
                    row["engine"],
                    row["tokens"],
                    f"{row['us']:.1f}",
                    f"{row['low']:.1f} - {row['high']:.1f}",
                    f"{row['each']:.1f}",
                ]
                for row in found
                if row["batch"] == rows
            ),
        )
    return found


def _micro(took: Timing, rows: int) -> dict[str, float]:
    us, low, high = (1e3 * ms / BURST for ms in (took.ms, took.low, took.high))
    return {"us": us, "low": low, "high": high, "each": us / rows}


def _fastest(steps: list[dict[str, Any]], tokens: str, rows: int) -> list[float]:
    each = [s["each"] for s in steps if (s["tokens"], s["batch"]) == (tokens, rows)]
    return [min(each)] if each else []


def _speedups(steps: list[dict[str, Any]]) -> list[float]:
    peers = [s["us"] for s in steps if (s["tokens"], s["batch"]) == ("window", 1)]
    return [peers[0] / best for best in _fastest(steps, "fused", 1)] if peers else []


def lateness(options: Options) -> dict[str, float]:
    """Time the fastest engine early and late in an episode, and measure its memory's growth."""
    model = agent("fused", options)
    early, late = engines.make(model), engines.make(model)
    begin, act = acting(early, 1), acting(late, 1)
    act()
    before = _memory()
    for _ in range(LATE // BURST):
        act()
    grown = _memory() - before

    def start() -> None:
        early.start(1)
        begin()

    timings = timing.interleaved({"early": start, "late": act}, options.budget, "late steps")
    ratio = timings["late"].ms / timings["early"].ms
    print(
        f"\n{late.name}: a step after {LATE} takes {ratio:.2f} x the time of one after 10; "
        f"memory grew by {grown} KiB"
    )
    return {"ratio": ratio, "grown_kib": grown}


def _memory() -> int:
    # Resident memory in KiB; where the system does not report it, its maximum so far.
    try:
        import resource
    except ImportError:  # Windows
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * resource.getpagesize() // 1024
    except (OSError, ValueError):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used // 1024 if sys.platform == "darwin" else used


def closed_loop(env_id: str, options: Options) -> dict[str, Any]:
    """Play episodes, and repeat their actions in MuJoCo alone."""
    policy, spec, seeds = _player(env_id, options)
    few = seeds[: max(2, len(seeds) // 10)]
    recorded = rollout(spec, policy(few), few, record=True)
    assert recorded.episodes is not None
    actions = [episode.action for episode in recorded.episodes]
    loops: list[float] = []
    physics: list[float] = []
    for _ in range(1 if options.quick else 3):
        physics.append(_bare(spec, few, actions))
        actor = policy(seeds)
        start = time.process_time()
        played = rollout(spec, actor, seeds, num_envs=options.num_envs)
        loops.append((time.process_time() - start) / played.lengths.sum())
    share = _share(spec, seeds, policy(seeds), options)
    loop, bare = float(np.median(loops)), float(np.median(physics))
    found = {
        "loop_us": 1e6 * loop,
        "mj_step_us": 1e6 * bare,
        "rate": bare / loop,
        "physics_share": share,
        "steps": int(played.lengths.sum()),
        "engine": policy(few).engine.name,
    }
    timing.table(
        f"{env_id}: {len(seeds)} episodes, {found['steps']} steps, engine {found['engine']}",
        ["", "steps/s", "µs a step"],
        [
            ["closed loop", f"{1 / loop:.0f}", f"{1e6 * loop:.1f}"],
            ["mj_step alone", f"{1 / bare:.0f}", f"{1e6 * bare:.1f}"],
        ],
    )
    print(
        f"\nThe loop has {found['rate']:.2f} x the rate of mj_step alone; within it, where the "
        f"caches are others' too, mj_step has {found['physics_share']:.0%} of the time."
    )
    return found


def _player(
    env_id: str, options: Options
) -> tuple[Callable[[list[int]], Policy], EnvSpec, list[int]]:
    count = max(2, options.episodes // 10) if options.quick else options.episodes
    seeds, spec = list(range(count)), EnvSpec(env_id, WORLDS[env_id])
    if env_id == "Hopper-v5" and options.hopper is not None:
        model, metadata = load_checkpoint(options.hopper / "last")
        spec, target = EnvSpec.from_json(metadata), max(metadata["targets"])
    else:
        model, target = agent("fused", options, *env_sizes(env_id)), 3000.0
    return lambda queue: Policy(model, [target] * len(queue)), spec, seeds


def _bare(spec: EnvSpec, seeds: list[int], actions: list[np.ndarray]) -> float:
    """Return the seconds that MuJoCo alone takes for one environment step with the same actions."""
    env = make_env(spec)
    walker: Any = env.unwrapped
    model, data, skip, ctrl = walker.model, walker.data, walker.frame_skip, walker.data.ctrl
    seconds = 0.0
    for seed, taken in zip(seeds, actions, strict=True):
        env.reset(seed=seed)
        start = time.process_time()
        for action in taken:
            ctrl[:] = action
            mujoco.mj_step(model, data, skip)
        seconds += time.process_time() - start
    env.close()
    return seconds / sum(map(len, actions))


def _share(spec: EnvSpec, seeds: list[int], actor: Policy, options: Options) -> float:
    """Return the share of a closed loop's time that is spent in mj_step."""
    step, inside = mujoco.mj_step, 0.0

    def timed(*arguments: Any, **named: Any) -> None:
        nonlocal inside
        start = time.perf_counter()
        step(*arguments, **named)
        inside += time.perf_counter() - start

    mujoco.mj_step = timed
    try:
        start = time.perf_counter()
        rollout(spec, actor, seeds, num_envs=options.num_envs)
        return inside / (time.perf_counter() - start)
    finally:
        mujoco.mj_step = step


def over_processes(options: Options) -> dict[str, float]:
    """Play HalfCheetah in one process and in several, in wall-clock time, as it uses several cores.

    The rate is that of the second half of the queue, in which all of them play. Episodes of 100
    steps, as many as make 400 whole ones: they do not all end at once.
    """
    policy, _, seeds = _player("HalfCheetah-v5", options)
    queue = [*seeds] * 40

    def play(procs: int) -> tuple[float, float]:
        told: list[float] = []
        start = time.perf_counter()
        rollout(
            EnvSpec("HalfCheetah-v5", {"max_episode_steps": 100}),
            policy(queue),
            queue,
            num_envs=16 * procs,
            num_procs=procs,
            progress=lambda done, total: told.append(time.perf_counter()),
        )
        middle = len(queue) // 2
        rate = (len(queue) - middle) / (told[-1] - told[middle - 1])
        return rate, time.perf_counter() - start

    (one, alone), (several, together) = play(1), play(options.num_procs)
    found = {
        "speedup": several / one,
        "seconds_one": alone,
        "seconds_all": together,
        "start_seconds": together - len(queue) / several,
    }
    print(
        f"\n{100 * len(queue)} steps of HalfCheetah-v5: {alone:.1f} s in one process, "
        f"{together:.1f} s in {options.num_procs}; once all play, {found['speedup']:.2f} x as fast"
    )
    return found


def steppers(options: Options) -> dict[str, dict[str, float]] | None:
    """Time evaluations during training, in turns, in wall-clock and in CPU seconds."""
    if timing.optional("envpool", "envpool") is None:
        return None
    if options.hopper is None:
        model, targets = agent("fused", options), [3000.0] * 6
        spec = EnvSpec("Hopper-v5", FALLING)
    else:
        model, metadata = load_checkpoint(options.hopper / "last")
        spec, targets = EnvSpec.from_json(metadata), metadata["targets"]
    each = 1 if options.quick else 8
    asked, seeds = np.repeat(targets, each), [*range(1_010_000, 1_010_000 + each)] * len(targets)
    cases: dict[str, Callable[[Policy], Rollout]] = {
        "gymnasium": lambda actor: rollout(spec, actor, seeds, num_envs=120),
        **{
            f"envpool, {n} thread(s)": lambda actor, n=n: pool_rollout(
                spec, actor, seeds, num_threads=n, num_envs=120
            )
            for n in (1, 2)
        },
    }
    times: dict[str, list[tuple[float, float, int]]] = {name: [] for name in cases}
    for _ in range(1 if options.quick else 7):
        for name, play in cases.items():
            clock, cores = time.perf_counter(), time.process_time()
            steps = int(play(Policy(model, asked)).lengths.sum())
            spent = time.perf_counter() - clock, time.process_time() - cores
            times[name].append((*spent, steps))
    found: dict[str, dict[str, float]] = {}
    for name, taken in times.items():
        seconds, cores, steps = np.median(np.array(taken), axis=0).tolist()
        best = min(clock for clock, *_ in taken)  # excludes the CPU time that other programs took
        found[name] = {"seconds": seconds, "best": best, "core_seconds": cores, "steps": steps}
    timing.table(
        f"{len(seeds)} episodes of Hopper-v5",
        ["stepped by", "s", "s at best", "s of cores", "steps"],
        (
            [
                name,
                f"{row['seconds']:.2f}",
                f"{row['best']:.2f}",
                f"{row['core_seconds']:.2f}",
                f"{row['steps']:.0f}",
            ]
            for name, row in found.items()
        ),
    )
    return found


if __name__ == "__main__":
    main()
