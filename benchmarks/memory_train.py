"""Train one model on one memory task and test it, for `benchmarks.memory_tasks`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import minrnn
from agents.machine import device
from agents.training.optimiser import param_groups
from benchmarks.memory_data import TASKS, Task

WARMUP = 0.05  # of the updates
POINTS = 25  # of a learning curve


@dataclass(frozen=True)
class Recipe:
    """Training settings of a task, the same for every model."""

    length: int
    """Positions of a training sequence (copying: before those that ask)."""
    test_lengths: tuple[int, ...]
    """Lengths of the sequences of the test; the learning curve is at the first."""
    updates: int
    """Number of updates."""
    rows: int
    """Batch size: sequences in an update."""
    lrs: tuple[float, ...]
    """Learning rates: a run for each."""
    seeds: tuple[int, ...]
    """Seeds of weights and data: a run for each."""
    dim: int = 64
    """Width of every model."""
    conv: int = 0
    """Width of a causal convolution before each cell; 0 for none."""
    weight_decay: float = 0.01
    """Decay of the matrices, but not of what a cell names in no_weight_decay()."""
    clip: float = 1.0
    """Largest norm of the gradient; larger ones are clipped."""
    test_rows: int = 512
    """Sequences of each length in the test."""


@dataclass(frozen=True)
class Run:
    """Settings of one run."""

    task: str
    backbone: str
    num_layers: int
    lr: float
    seed: int
    recipe: Mapping[str, Any]  # without the grid
    cell: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Model(nn.Module):
    """Embedding, stack of blocks, linear head."""

    def __init__(self, run: Run, vocab: int) -> None:
        super().__init__()
        dim = run.recipe["dim"]
        config = minrnn.StackConfig(
            dim=dim,
            num_layers=run.num_layers,
            backbone=run.backbone,
            cell=run.cell,
            conv=run.recipe["conv"],
        )
        self.embedding = nn.Embedding(vocab, dim)
        self.stack = minrnn.Stack(config)
        self.head = nn.Linear(dim, vocab)

    def forward(self, tokens: Tensor, answers: int) -> Tensor:
        """Read tokens (B, L); return logits (B, answers, vocab) at the last positions."""
        y, _ = self.stack(self.embedding(tokens))
        return self.head(y[:, -answers:])


def fulfil(run: Run, path: Path, bar: bool) -> None:
    """Train and test on one thread; write settings and result to `path` in one atomic step.

    bar: show the updates on stderr, where that is a terminal.
    """
    device.configure(1)
    report = {"run": asdict(run), "result": train(run, bar)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(report) + "\n", encoding="utf-8")
    unfinished.replace(path)


def train(run: Run, bar: bool = False) -> dict[str, Any]:
    """Return accuracies by length, the learning curve, sizes, and the process's own seconds."""
    task, recipe = TASKS[run.task], run.recipe
    start = time.process_time()
    torch.manual_seed(run.seed)
    data = torch.Generator().manual_seed(run.seed)
    model = Model(run, task.vocab)
    groups = param_groups(model, recipe["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=run.lr, fused=True)
    updates, every = recipe["updates"], max(1, recipe["updates"] // POINTS)
    curve: list[tuple[int, float]] = []
    name = f"{run.task}, {run.backbone}"
    hidden = None if bar else True  # None: hidden unless on a terminal
    for update in tqdm(range(1, updates + 1), name, leave=False, file=sys.stderr, disable=hidden):
        for group in optimizer.param_groups:
            group["lr"] = run.lr * schedule(update, updates)
        tokens, answers = task.sample(recipe["rows"], recipe["length"], data)
        logits = model(tokens, answers.shape[1])
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        optimizer.step()
        if update % every == 0 or update == updates:
            rows = min(128, recipe["test_rows"])
            curve.append((update, test(model, task, rows, recipe["test_lengths"][0])))
    seconds = time.process_time() - start
    return {
        "accuracy": {
            str(length): test(model, task, recipe["test_rows"], length)
            for length in recipe["test_lengths"]
        },
        "curve": curve,
        "parameters": sum(p.numel() for p in model.stack.parameters()),
        "state": model.stack.state_size,
        "seconds": seconds,
    }


def schedule(update: int, updates: int) -> float:
    """Return the factor of the learning rate: a linear warm-up, then half a cosine down to 0."""
    warm = max(1, round(WARMUP * updates))
    rest = max(0, update - warm) / max(1, updates - warm)
    return min(1.0, update / warm) * 0.5 * (1 + math.cos(math.pi * rest))


@torch.no_grad()
def test(model: Model, task: Task, rows: int, length: int) -> float:
    """Return the share of right answers, on the same unseen sequences for every model."""
    model.eval()
    data = torch.Generator().manual_seed(2**40 + length)  # differs from all training seeds
    asked, right = task.tested(length), 0
    for first in range(0, rows, 64):
        tokens, answers = task.sample(min(64, rows - first), length, data)
        found = model(tokens, asked).argmax(-1)
        right += int((found == answers[:, -asked:]).sum())
    model.train()
    return right / (rows * asked)
