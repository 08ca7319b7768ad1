"""What every backbone costs: `python -m benchmarks.backbones`, in about five minutes.

Agents of three layers with as many parameters as the default one, to within 10 % by their width.
training: forward, loss, backward, clipping and AdamW on 4096 environment steps in rows of T, one
token a step, float32; kept: what autograd keeps for the backward pass, parameters left out, in
bytes a step.
acting: one step of the model, batch 1 and 16, under inference_mode and in full float32, as
evaluation does it; then the same at step 10, 100, ... of an episode. State: the numbers that are
carried, for each environment.

All that are compared are timed in turns. Tables, two plots (--plot), and JSON as the last line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

import minrnn
from agents.evaluation.evaluate import exact_matmul
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs
from agents.model.normaliser import Spaces
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import to_tensors
from benchmarks.timing import Measuring, finish, interleaved, start, table
from benchmarks.train_step import ACTION, OBS, OneBatch, contestant
from configs import ModelConfig

# The width at which each backbone has as many parameters as the default agent, to within 10 %.
WIDTHS = {
    "mingru": 128,
    "minlstm": 120,
    "gru": 104,
    "lstm": 104,
    "attention": 120,
    "aaren": 120,
    "s4d": 120,
    "mamba": 104,
    "mlstm": 112,
    "slstm": 112,
    "rwkv": 120,
}
SPACES = Spaces([0.0] * OBS, [1.0] * OBS, [-1.0] * ACTION, [1.0] * ACTION, 3000.0, 0.0, 3000.0)
STEPS = 4096  # environment steps of a batch
CALLS = 20  # steps of a model in a row: a single one would be timed with the caches of the others
LOOKS = ("C2", "C1", "C4", "C5", "C6", "C7", "C8", "C9", "black")  # colours of the others
Part = Literal["training", "acting"]


@dataclass(frozen=True)
class Options(Measuring):
    """What to measure."""

    backbones: tuple[str, ...] = tuple(WIDTHS)
    """Names of the backbones."""
    parts: tuple[Part, ...] = ("training", "acting")
    """Which of the parts to run."""
    lengths: tuple[int, ...] = (20, 256, 1000, 4096)
    """Row lengths T to train on."""
    times: tuple[int, ...] = (10, 100, 1000, 10_000)
    """Steps of an episode at which acting is timed again."""
    plot: Path | None = None
    """Write the plots to this PNG."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, draw, then the JSON line."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    report: dict[str, Any] = {"benchmark": "backbones", "machine": start(options)}
    report["sizes"] = sizes(options.backbones)
    if "training" in options.parts:
        report["training"] = training(options)
    if "acting" in options.parts:
        report["acting"] = acting(options)
    if options.plot is not None:
        draw(report, options).savefig(options.plot, dpi=150)
        print(f"\nplot: {options.plot}")
    finish(report, options)


def model_config(backbone: str) -> ModelConfig:
    """Return the default agent's configuration with another backbone, as many parameters."""
    return ModelConfig(backbone=backbone, dim=WIDTHS.get(backbone, 128))


def build(backbone: str) -> DecisionModel:
    """Return the model of the agent with that configuration."""
    torch.manual_seed(0)
    return DecisionModel(model_config(backbone), SPACES)


def sizes(backbones: Sequence[str]) -> list[dict[str, Any]]:
    """Print widths, parameters and states."""
    rows: list[dict[str, Any]] = []
    for name in backbones:
        model = build(name)
        parameters = sum(p.numel() for p in model.parameters())
        rows.append(
            {
                "name": name,
                "dim": model.config.dim,
                "parameters": parameters,
                "state": model.stack.state_size,
            }
        )
    table(
        "Three layers",
        ["", "width", "parameters", "state, numbers an environment"],
        [[r["name"], f"{r['dim']}", f"{r['parameters']:,}", f"{r['state']:,}"] for r in rows],
    )
    return rows


def training(options: Options) -> list[dict[str, Any]]:
    """Time the trainer's step on rows of each length, and count what it keeps."""
    rows: list[dict[str, Any]] = []
    for length in options.lengths:
        sampler = OneBatch(max(1, STEPS // length), length)
        cases: dict[str, Callable[[], object]] = {}
        kept: dict[str, float] = {}
        for name in options.backbones:
            one = contestant(model_config(name), sampler, "float32", 1)
            cases[name] = one.step
            kept[name] = kept_bytes(build(name), sampler)
        times = interleaved(cases, options.budget, f"training, T = {length}")
        steps = sampler.batch.mask.size
        rows += [
            {
                "name": name,
                "length": length,
                **asdict(timing),
                "microseconds_per_step": 1e3 * timing.ms / steps,
                "kept_bytes_per_step": kept[name],
            }
            for name, timing in times.items()
        ]
    for title, key, scale in (
        ("A training step: microseconds for each environment step", "microseconds_per_step", 1.0),
        ("Kept for the backward pass: kB for each environment step", "kept_bytes_per_step", 1e-3),
    ):
        table(
            title,
            ["", *(f"T = {length}" for length in options.lengths)],
            [
                [name, *(f"{scale * r[key]:.1f}" for r in rows if r["name"] == name)]
                for name in options.backbones
            ],
        )
    return rows


def kept_bytes(model: DecisionModel, sampler: OneBatch) -> float:
    """Return the bytes that autograd saves for a batch, per environment step."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        batch = to_tensors(sampler.batch, torch.device("cpu"))
        loss, _ = ReturnConditioned(model).loss(batch)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    assert loss.isfinite()
    return total / sampler.batch.mask.size


def acting(options: Options) -> list[dict[str, Any]]:
    """Time a step of the model at the start, and later in the episode."""
    rows: list[dict[str, Any]] = []
    for batch in (1, 16):
        actors = {name: Actor(build(name), batch) for name in options.backbones}
        for time in options.times if batch == 1 else options.times[:1]:
            found = step_times(actors, time, options.budget)
            rows += [{"name": n, "batch": batch, "time": time, "us": us} for n, us in found.items()]

    def cells(name: str, batch: int) -> list[str]:
        found = [r for r in rows if (r["name"], r["batch"]) == (name, batch)]
        return [f"{r['us']:.0f}" for r in found]

    table(
        "A step of the model: microseconds",
        ["", *(f"one environment, step {time:,}" for time in options.times), "16 environments"],
        [[name, *cells(name, 1), *cells(name, 16)] for name in options.backbones],
    )
    return rows


@torch.inference_mode()
@exact_matmul()
def step_times(actors: Mapping[str, Actor], time: int, seconds: float) -> dict[str, float]:
    """Return microseconds per step at that time of an episode."""
    for actor in actors.values():
        actor.reach(time)
    cases = {name: actor.repeat for name, actor in actors.items()}
    batch = next(iter(actors.values())).batch
    found = interleaved(cases, seconds, f"acting, batch {batch}, step {time}")
    return {name: 1e3 * timing.ms / CALLS for name, timing in found.items()}


class Actor:
    """A model in the middle of an episode."""

    def __init__(self, model: DecisionModel, batch: int) -> None:
        self.model, self.batch = model.eval(), batch
        self.time = 0
        self.state: minrnn.State | None = None
        self.inputs = torch.randn(batch, OBS), torch.ones(batch, 1), torch.zeros(batch, ACTION)
        self.resets = torch.zeros(batch, dtype=torch.bool)

    def reach(self, time: int) -> None:
        """Advance to that step of the episode."""
        while self.time < time:
            _, self.state = self.step()
            self.time += 1

    def repeat(self) -> None:
        """Do the next step a few times, without advancing."""
        for _ in range(CALLS):
            self.step()

    def step(self) -> tuple[Tensor, minrnn.State]:
        """Return the action and the state after it."""
        now = torch.full((self.batch,), self.time)
        return self.model.step(Inputs(*self.inputs, now, self.resets), self.state)


def draw(report: dict[str, Any], options: Options) -> Figure:
    """Plot the cost of training against T, and that of acting against time."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(options.backbones):
        ours = name in ("mingru", "minlstm")
        look = {
            "color": ("C0", "C3")[place % 2] if ours else LOOKS[place % len(LOOKS)],
            "marker": "os^Dv"[place % 5],
            "markersize": 4,
            "linewidth": 2.5 if ours else 1.2,
        }
        for axes, rows, x, y in (
            (left, report.get("training", []), "length", "microseconds_per_step"),
            (right, report.get("acting", []), "time", "us"),
        ):
            found = [r for r in rows if r["name"] == name and r.get("batch", 1) == 1]
            axes.plot([r[x] for r in found], [r[y] for r in found], label=name, **look)
    left.set(xlabel="T, environment steps in a row", ylabel="training, μs an environment step")
    left.set(xscale="log", yscale="log", xticks=options.lengths, yticks=[20, 50, 100, 200, 500])
    right.set(xlabel="step of the episode", ylabel="acting, μs a step", xscale="log")
    right.set(xticks=options.times, ylim=(0, None))
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_locator(NullLocator())
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


if __name__ == "__main__":
    main()
