"""Evaluate checkpoints side by side: each one, with each way to remember that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.acting import engines
from agents.evaluation.checkpoints import Checkpoint, data_returns, group
from agents.evaluation.evaluate import beyond_data, check_env, evaluate, other_actions
from agents.evaluation.protocol import describe_checkpoint, engine_version, line_protocol
from agents.evaluation.result import Result, merge_runs
from agents.evaluation.spec import EvalSpec, Plan
from agents.loggers.console import episode_bar, say
from configs import legible
from envs.errors import UserError
from envs.worlds.spec import EnvSpec

DEFAULT_WINDOW = 20


@dataclass(frozen=True)
class Line:
    """One line of a report: seeds of one setting, one kind of checkpoint, one way to remember."""

    name: str
    setting: str
    """What sets its runs apart from the others of the report; "" if there is one setting."""
    members: tuple[Checkpoint, ...]
    spec: EvalSpec
    results: list[Result]
    """One for each target, over all members."""
    protocol: dict[str, Any]
    data: np.ndarray | None = None
    """Returns of the data's episodes, if they are known."""

    @property
    def env(self) -> EnvSpec:
        """The environment."""
        return self.members[0].env

    @property
    def top(self) -> Result:
        """The result of the largest target."""
        return max(self.results, key=lambda result: result.target)


def evaluate_checkpoints(
    checkpoints: Sequence[Checkpoint],
    plan: Plan,
    after_line: Callable[[list[Line]], object] = lambda lines: None,
) -> list[Line]:
    """Evaluate checkpoints as planned; return the lines in the order of the checkpoints.

    after_line: called after each line, with all lines so far. Raises UserError if targets cannot be
    chosen, and as `evaluate` does.
    """
    grouped = group(checkpoints)
    data = {key: data_returns(members[0]) for key, members in grouped.items()}
    # Before any episode: a report of hours is not to end in an error about its last run.
    specs = {key: choose_specs(members, plan, data[key]) for key, members in grouped.items()}
    for key, members in grouped.items():
        for member in members:
            check_env(member.model, member.env)
            if any(spec.window is None for spec in specs[key]):
                engines.choose(member.model, plan.engine, plan.device)
    lines: list[Line] = []
    for key, members in grouped.items():
        if warning := beyond_data(members[0].model, specs[key][0].targets):
            say(f"note: targets {warning}")
        how = other_actions(members[0].model, members[0].env)
        if how:
            say(f"note: {how}")
        more = {"actions": how} if how else {}
        for spec in specs[key]:
            memory = "carry" if spec.window is None else "window"
            name = " ".join(filter(None, [*key, memory if len(specs[key]) > 1 else ""]))
            runs = [_evaluate(name, member, spec) for member in members]
            results = [merge_runs(same) for same in zip(*runs, strict=True)]
            protocol = _protocol(members, spec, results[0].engine) | more
            lines.append(Line(name, key[0], tuple(members), spec, results, protocol, data[key]))
            after_line(lines)
    return lines


def choose_specs(
    members: Sequence[Checkpoint], plan: Plan, data: np.ndarray | None
) -> list[EvalSpec]:
    """Return an EvalSpec for each way to remember; UserError if targets or memory are unclear."""
    windows = {member.metadata["window"] for member in members}
    if len(windows) > 1 and not plan.memory:
        folders = ", ".join(str(member.run) for member in members)
        raise UserError(f"{folders} were evaluated with different memories: give --memory")
    targets = choose_targets(members, plan, data)
    chosen = choose_windows(plan, max(windows, key=lambda window: window or 0))
    return [dataclasses.replace(plan, targets=targets, window=window) for window in chosen]


def choose_targets(
    members: Sequence[Checkpoint], plan: Plan, data: np.ndarray | None
) -> tuple[float, ...]:
    """Return the returns to ask for: as planned, or those of the runs."""
    metadata = members[0].metadata
    if plan.targets:
        return plan.targets
    if plan.quantiles:
        if data is None:
            raise UserError(
                f"--quantiles needs the returns of {metadata['data']}, which is not on this disk: "
                f"python -m envs.inspect {metadata['data']} fetches it, or give --targets"
            )
        chosen = np.quantile(data, plan.quantiles)
        return tuple(dict.fromkeys(legible(target) for target in chosen))
    if any(member.metadata["targets"] != metadata["targets"] for member in members):
        folders = ", ".join(str(member.run) for member in members)
        raise UserError(f"{folders} were evaluated with different targets: give --targets")
    return tuple(metadata["targets"])


def choose_windows(plan: Plan, window_of_run: int | None) -> list[int | None]:
    """Return the window of each way to remember, None to carry: as planned, or as in the run."""
    kinds = plan.memory or ("window" if plan.window or window_of_run else "carry",)
    window = plan.window or window_of_run or DEFAULT_WINDOW
    return [window if kind == "window" else None for kind in dict.fromkeys(kinds)]


def _evaluate(name: str, member: Checkpoint, spec: EvalSpec) -> list[Result]:
    with episode_bar(name, len(spec.targets) * spec.episodes) as progress:
        return evaluate(member.model, member.env, spec, progress=progress)


def _protocol(members: Sequence[Checkpoint], spec: EvalSpec, engine: str) -> dict[str, Any]:
    first, updates = members[0], [member.metadata["update"] for member in members]
    return line_protocol(
        first.metadata,
        spec,
        describe_checkpoint(first.name, updates, [member.config for member in members]),
        backbone=first.backbone,
        training_seeds=[member.seed for member in members if member.seed is not None],
        torch=torch.__version__,
        runs=[member.run.name for member in members],
        engine=engine_version(engine),
        device=spec.device,
    )
