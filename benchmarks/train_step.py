"""Our training step against Decision Transformer's: `python -m benchmarks.train_step`.

A step is everything from a batch in NumPy to new weights: forward, loss, backward, clipping, AdamW.
Ours is the `Trainer` of train.py on one synthetic batch. The peer is Hugging Face's
DecisionTransformerModel of the same width and depth, one head, ReLU, no dropout, on the same batch,
with the same clipping and AdamW, threads and matmul precision; it reads three tokens a step, and
the batch has no padding, so that its causal attention needs no mask. "interleaved" is ours on the
peer's terms: the same three tokens and the same embedding of time.

With --profile: a profile of our default step instead.
The last line is JSON. The peer is optional: pip install transformers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import nn

from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from agents.training.objectives import ReturnConditioned
from agents.training.optimiser import param_groups
from agents.training.trainer import Trainer, to_tensors
from benchmarks.timing import Measuring, aims, finish, interleaved, optional, parse_shape, start
from benchmarks.timing import table as print_table
from configs import DataConfig, ModelConfig, OptimConfig
from envs.data.sampler import Batch

Precision = Literal["float32", "bfloat16"]
OBS, ACTION = 11, 3  # Hopper's
FASTEST = "minGRU, fused, bfloat16"
AIM = {20: 8.0, 256: 14.0, 1000: 28.0}  # env steps/s over the peer's in float32, by K


@dataclass(frozen=True)
class Options(Measuring):
    """What to measure."""

    shapes: tuple[str, ...] = ("64x20", "16x256", "4x1000")
    """Rows x environment steps of the batches."""
    dim: int = 128
    """Width of the agents."""
    num_layers: int = 3
    """Number of layers."""
    matmul: Literal["highest", "medium"] = "medium"
    """Precision of float32 products, for all. The trainer's is medium, which on CPUs with AMX
    multiplies in bfloat16."""
    profile: bool = False
    """Print torch.profiler's table of our default step on the default batch, in both precisions."""


class OneBatch:
    """A sampler whose batches are all the same."""

    def __init__(self, rows: int, steps: int) -> None:
        rng = np.random.default_rng(0)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal((rows, steps, *shape), dtype=np.float32)

        action = np.tanh(normal(ACTION))
        before = np.roll(action, 1, axis=1)
        before[:, 0] = 0
        timestep = np.broadcast_to(np.arange(steps), (rows, steps)).copy()
        mask = np.ones((rows, steps), np.bool_)
        rtg = 1000 + 300 * normal(1)
        self.batch = Batch(normal(OBS), action, before, rtg, timestep, timestep == 0, mask)

    def sample(self) -> Batch:
        """Return the batch."""
        return self.batch

    def state_dict(self) -> dict[str, object]:
        """Return an empty state: every batch is the same."""
        return {}


@dataclass(frozen=True)
class Contestant:
    """A model in training: `step` does one update."""

    step: Callable[[], object]
    model: nn.Module
    tokens_per_step: int


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, then the JSON line."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    shapes = [parse_shape(text, "B x K") for text in options.shapes]
    report: dict[str, Any] = {"benchmark": "train_step", "machine": start(options)}
    torch.set_float32_matmul_precision(options.matmul)
    report["matmul"] = options.matmul
    if options.profile:
        report["profile"] = {p: profile(p, options) for p in ("float32", "bfloat16")}
    else:
        report["steps"], report["aims"] = compare(shapes, options)
    finish(report, options)


def compare(
    shapes: Sequence[tuple[int, ...]], options: Options
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Time all contestants on batches of every shape."""
    peer = optional("transformers", "transformers") if options.peers else None
    rows: list[dict[str, Any]] = []
    checks: list[tuple[str, float, Sequence[float]]] = []
    for batch, length in shapes:
        sampler = OneBatch(batch, length)
        contestants = ours(sampler, length, options)
        if peer is not None:
            contestants |= theirs(peer, sampler, length, options)
        steps = {name: contestant.step for name, contestant in contestants.items()}
        times = interleaved(steps, options.budget, f"K = {length}")
        attention = {name: timing.ms for name, timing in times.items() if name.startswith("DT")}
        float32 = min((ms for name, ms in attention.items() if "float32" in name), default=math.nan)
        best = min(attention.values(), default=math.nan)
        for name, contestant in contestants.items():
            ms = times[name].ms
            env_steps = 1e3 * batch * length / ms
            rows.append(
                {
                    "batch": batch,
                    "length": length,
                    "name": name,
                    **asdict(times[name]),
                    "env_steps_per_second": env_steps,
                    "tokens_per_second": env_steps * contestant.tokens_per_step,
                    **sizes(contestant.model),
                }
            )
            if attention:
                rows[-1] |= {"over_peer_float32": float32 / ms, "over_peer_best": best / ms}
        here = rows[-len(contestants) :]
        show(f"K = {length}, B = {batch}: a training step", here)
        if attention and length in AIM:
            fused = [row["over_peer_float32"] for row in here if row["name"] == FASTEST]
            checks.append((f"{FASTEST} over DT float32, K = {length} >=", AIM[length], fused))
    return rows, aims(checks)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print one table."""
    print_table(
        title,
        [
            "",
            "ms",
            "env steps/s",
            "tokens/s",
            "over DT float32",
            "over DT's best",
            "parameters (of embedding tables)",
        ],
        [
            [
                row["name"],
                f"{row['ms']:.1f}",
                f"{row['env_steps_per_second']:,.0f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row.get('over_peer_float32', math.nan):.2f}",
                f"{row.get('over_peer_best', math.nan):.2f}",
                f"{row['parameters']:,} ({row['in_tables']:,})",
            ]
            for row in rows
        ],
    )


def sizes(model: nn.Module) -> dict[str, int]:
    """Count the parameters, and those of them in tables of which a step reads a few rows."""
    tables = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "in_tables": sum(tables),
    }


def ours(sampler: OneBatch, length: int, options: Options) -> dict[str, Contestant]:
    """Return our models: fused tokens are the default agent, interleaved ones the peer's."""
    found: dict[str, Contestant] = {}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for backbone, name in (("mingru", "minGRU"), ("minlstm", "minLSTM")):
        for precision in precisions:
            model = ModelConfig(backbone=backbone, dim=options.dim, num_layers=options.num_layers)
            found[f"{name}, fused, {precision}"] = contestant(model, sampler, precision, 1)
    for precision in precisions:
        model = ModelConfig(
            dim=options.dim,
            num_layers=options.num_layers,
            tokens="interleaved",
            prev_action=True,
            rtg_scales=0,
            timestep_embedding=max(length, 1000),
        )
        found[f"minGRU, interleaved, {precision}"] = contestant(model, sampler, precision, 3)
    return found


def contestant(
    model: ModelConfig, sampler: OneBatch, precision: Precision, tokens_per_step: int
) -> Contestant:
    """Return a model of ours with its trainer."""
    torch.manual_seed(0)
    # So many updates that training never ends.
    optim = OptimConfig(
        updates=1_000_000, lr=1e-4, warmup=0, schedule="constant", precision=precision
    )
    spaces = Spaces([0.0] * OBS, [1.0] * OBS, [-1.0] * ACTION, [1.0] * ACTION, 3000.0, 0.0, 3000.0)
    built = DecisionModel(model, spaces)
    trainer = Trainer(ReturnConditioned(built), sampler, optim, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    updates = trainer.fit()
    return Contestant(lambda: next(updates), built, tokens_per_step)


def theirs(
    transformers: ModuleType, sampler: OneBatch, length: int, options: Options
) -> dict[str, Contestant]:
    """Return the peer's models, with either of its implementations of attention."""
    found: dict[str, Contestant] = {}
    for precision in ("float32", "bfloat16"):
        for attention in ("eager", "sdpa"):
            torch.manual_seed(0)
            config = transformers.DecisionTransformerConfig(
                state_dim=OBS,
                act_dim=ACTION,
                hidden_size=options.dim,
                max_ep_len=max(length, 1000),
                n_layer=options.num_layers,
                n_head=1,
                n_positions=1024,  # it reads row 0 alone, for any length
                activation_function="relu",
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                use_cache=False,
                attn_implementation=attention,
            )
            model = transformers.DecisionTransformerModel(config).train()
            step = peer_step(model, sampler, precision)
            found[f"DT, {attention}, {precision}"] = Contestant(step, model, 3)
    return found


def peer_step(model: nn.Module, sampler: OneBatch, precision: str) -> Callable[[], object]:
    """Return the peer's update, the same as the Trainer's."""
    config = OptimConfig()
    optimizer = torch.optim.AdamW(
        param_groups(model, config.weight_decay), lr=1e-4, betas=(0.9, 0.999), fused=True
    )

    def step() -> float:
        batch = to_tensors(sampler.sample(), torch.device("cpu"))
        low = precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16) if low else contextlib.nullcontext():
            predicted = model(
                states=batch.obs,
                actions=batch.action,
                returns_to_go=batch.rtg / 3000,
                timesteps=batch.timestep,
            ).action_preds
            error = (predicted - batch.action).square().mean(-1)
            loss = (error * batch.mask).sum() / batch.mask.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        return loss.item()

    return step


def profile(precision: Precision, options: Options) -> list[dict[str, Any]]:
    """Print a profile of the default agent's step, and return its most expensive operators."""
    data = DataConfig()
    sampler = OneBatch(data.batch_size, data.length)
    model = ModelConfig(dim=options.dim, num_layers=options.num_layers)
    step = contestant(model, sampler, precision, 1).step
    for _ in range(10):
        step()
    count = 10 if options.quick else 50
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(count):
            step()
    averages = found.key_averages()
    print(f"\n{count} steps of {data.batch_size} x {data.length}, {precision}\n")
    print(averages.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    total = sum(event.self_cpu_time_total for event in averages)
    dearest = sorted(averages, key=lambda event: event.self_cpu_time_total, reverse=True)[:25]
    return [
        {
            "name": event.key,
            "ms_per_step": event.self_cpu_time_total / count / 1e3,
            "calls_per_step": event.count / count,
            "share": event.self_cpu_time_total / total,
        }
        for event in dearest
    ]


if __name__ == "__main__":
    main()
