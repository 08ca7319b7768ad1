"""Time of an update in another library: `python -m benchmarks.hosts`.

`RecurrentPPO.train()` of sb3-contrib with its LSTM, against the same rollouts read by our stacks:
in `StackPPO`, and in RecurrentPPO itself, which puts each episode into a row of its own and pads
all rows to the longest. The LSTM is timed with the rows of `StackPPO`, too. Actor and critic have a
memory each, of the same width as the LSTM's and about as many parameters.

Rollouts are noise with random ends of episodes, geometric with a mean of --episode steps, so that
most rows have resets. A batch is --batch-size consecutive steps, one environment after the other,
from a random one on, which is how the host cuts them: by default it is the whole rollout. All cases
have the same batches, and one epoch. Products are float32's, as the host leaves them. The last
line is JSON.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from sb3_contrib.ppo_recurrent import MlpLstmPolicy
from stable_baselines3.common.logger import Logger

from benchmarks import timing
from benchmarks.host_tasks import FromVector
from benchmarks.timing import Measuring
from minrnn.hosts.sb3 import MlpStackPolicy, RecurrentPPO, StackPPO

OBS, ACTION = 16, 4
LSTM = "LSTM, RecurrentPPO"
COLOURS = {"LSTM": "#d9480f", "mingru": "#1f6feb", "minlstm": "#2b8a3e"}


@dataclass(frozen=True)
class Options(Measuring):
    """What to measure."""

    steps: tuple[int, ...] = (128, 512, 2048)
    """Steps of each environment in a rollout: the longest sequence."""
    num_envs: int = 8
    """Environments."""
    batch_size: int = 0
    """Steps in a batch; 0 for the whole rollout."""
    episode: int = 100
    """Mean length of an episode."""
    width: int = 128
    """Width of the LSTM, and of the stacks."""
    backbones: tuple[str, ...] = ("mingru", "minlstm")
    """Backbones of one layer, with an MLP as wide as the stack."""
    plot: Path | None = None
    """Write a plot to this PNG."""


class Noise(VectorEnv):
    """An environment of random observations and rewards, whose episodes end at random."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (as in Gymnasium)
    render_mode = None

    def __init__(self, num_envs: int, episode: int) -> None:
        self.num_envs, self.episode = num_envs, episode
        self.single_observation_space = spaces.Box(-9, 9, (OBS,), np.float32)
        self.single_action_space = spaces.Box(-1, 1, (ACTION,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return noise."""
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        """Return noise."""
        done = self.np_random.random(self.num_envs) < 1 / self.episode
        reward = self.np_random.standard_normal(self.num_envs)
        obs = self._observe()
        return obs, reward, done, np.zeros(self.num_envs, bool), {"final_obs": obs}

    def _observe(self) -> Any:
        return self.np_random.standard_normal((self.num_envs, OBS), dtype=np.float32)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table for each length."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    machine = timing.start(options)
    torch.set_float32_matmul_precision("highest")
    rows = [row for steps in options.steps for row in measure(steps, options)]
    timing.table(
        f"One epoch of RecurrentPPO.train(), {options.num_envs} environments, "
        f"episodes of {options.episode} steps on average",
        ["steps", "memory", "parameters", "rows x longest", "ms", "times as fast"],
        (
            (
                f"{row['steps']}",
                row["memory"],
                f"{row['parameters']}",
                row["rows"],
                f"{row['ms']:.0f} ({row['low']:.0f} to {row['high']:.0f})",
                f"{row['speedup']:.2f}",
            )
            for row in rows
        ),
    )
    ours = [f"{name}, StackPPO" for name in options.backbones]
    at = [row["speedup"] for row in rows if row["memory"] in ours and row["steps"] == 512]
    found = timing.aims([("times as fast at 512", 4, at)])
    if options.plot is not None:
        draw(rows).savefig(options.plot, dpi=150)
        print(f"\nplot: {options.plot}")
    timing.finish({"machine": machine, "updates": rows, "aims": found}, options)


def measure(steps: int, options: Options) -> list[dict[str, Any]]:
    """Time the updates on one rollout of all memories in turns."""
    models = {
        f"{name}, {algorithm.__name__}": model(name, algorithm, steps, options)
        for algorithm in (RecurrentPPO, StackPPO)
        for name in ("LSTM", *options.backbones)
    }
    cases = {name: updates(made) for name, made in models.items()}
    timings = timing.interleaved(cases, options.budget, f"{steps} steps")
    return [
        {
            "steps": steps,
            "memory": name,
            "parameters": sum(p.numel() for p in models[name].policy.parameters()),
            "rows": shape(models[name]),
            "ms": found.ms,
            "low": found.low,
            "high": found.high,
            "speedup": timings[LSTM].ms / found.ms,
        }
        for name, found in timings.items()
    ]


def model(backbone: str, algorithm: type, steps: int, options: Options) -> RecurrentPPO:
    """Return an algorithm that has collected its rollout."""
    if backbone != "LSTM":
        stack = {"dim": options.width, "num_layers": 1, "mlp_ratio": 1.0, "backbone": backbone}
        policy, kwargs = MlpStackPolicy, {"stack": stack}
    else:
        policy, kwargs = MlpLstmPolicy, {"lstm_hidden_size": options.width}
    made = algorithm(
        policy,
        FromVector(Noise(options.num_envs, options.episode), seed=0),
        n_steps=steps,
        batch_size=options.batch_size or steps * options.num_envs,
        n_epochs=1,
        policy_kwargs=kwargs,
        device="cpu",
        seed=0,
    )
    made.set_logger(Logger(None, []))
    _, callback = made._setup_learn(steps * options.num_envs)
    made.collect_rollouts(made.env, callback, made.rollout_buffer, steps)
    return made


def updates(made: RecurrentPPO) -> Callable[[], None]:
    """Return a function that does an epoch; the n-th calls of all cases have the same batches."""
    calls = itertools.count()

    def update() -> None:
        np.random.seed(next(calls))  # noqa: NPY002 (the host draws from it where to cut)
        made.train()

    return update


def shape(made: RecurrentPPO) -> str:
    """Return the rows and the length, padding included, of the first batch."""
    np.random.seed(0)  # noqa: NPY002 (as above)
    samples = next(iter(made.rollout_buffer.get(made.batch_size)))
    rows = samples.lstm_states.pi[0].shape[1]
    return f"{rows} x {len(samples.mask) // rows}"


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw how many times as fast as the LSTM each memory is, over the lengths."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    names = [name for name in dict.fromkeys(row["memory"] for row in rows) if name != LSTM]
    for name in names:
        memory, algorithm = name.split(", ")
        found = [row for row in rows if row["memory"] == name]
        x, y = [row["steps"] for row in found], [row["speedup"] for row in found]
        style = "-" if algorithm == "StackPPO" else "--"
        axes.plot(
            x, y, style, color=COLOURS.get(memory, "#8a919c"), marker="o", markersize=4, label=name
        )
    axes.axhline(1, color=COLOURS["LSTM"], linewidth=1.2, linestyle=":", label=LSTM)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["steps"] for row in rows}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps of each environment in a rollout")
    axes.set_ylabel("updates: times as fast as the LSTM")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
