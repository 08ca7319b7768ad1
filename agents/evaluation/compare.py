"""Play what a report is about: every checkpoint, remembering in every way that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.acting import engines
from agents.evaluation import checkpoints as runs
from agents.evaluation import evaluator
from agents.evaluation.checkpoints import Checkpoint
from agents.evaluation.evaluator import Result
from agents.evaluation.protocol import describe_checkpoint, engine_version
from agents.loggers.console import episode_bar, say
from configs import legible
from envs.errors import UserError
from envs.scoring.protocol import score_protocol
from envs.worlds.spec import EnvSpec

DEFAULT_WINDOW = 20


@dataclass(frozen=True)
class Plan:
    """How to play; see the options of evaluate.py."""

    targets: tuple[float, ...] | None = None
    quantiles: tuple[float, ...] | None = None
    memory: tuple[str, ...] = ()
    window: int | None = None
    episodes: int = 20
    seed: int = 10_000
    num_envs: int = 120
    num_procs: int | None = None
    device: torch.device | str = "cpu"
    engine: str = "auto"
    record: bool = False
    """Keep each episode's actions."""


@dataclass(frozen=True)
class Line:
    """One line of a report: seeds of one setting, one kind of checkpoint, one way to remember."""

    name: str
    setting: str
    """What sets its runs apart from the others of the report; "" where there is one setting."""
    members: tuple[Checkpoint, ...]
    window: int | None
    """Steps of the window that is re-run; None where the state is carried."""
    results: list[Result]
    """One for each target, over all members."""
    protocol: dict[str, Any]
    data: np.ndarray | None = None
    """Returns of the data's episodes, where they are known."""

    @property
    def env(self) -> EnvSpec:
        """The environment."""
        return EnvSpec.from_json(self.members[0].facts)

    @property
    def top(self) -> Result:
        """The result of the largest target."""
        return max(self.results, key=lambda result: result.target)


def play(
    checkpoints: Sequence[Checkpoint],
    plan: Plan,
    played: Callable[[list[Line]], object] = lambda lines: None,
) -> list[Line]:
    """Play every episode of the plan; return the lines in the order of the checkpoints.

    played: called after each line, with all that there are. Raises UserError where targets cannot
    be chosen, and as evaluator.evaluate does.
    """
    grouped = runs.group(checkpoints)
    data = {key: runs.data_returns(members[0]) for key, members in grouped.items()}
    # Before anything is played: a report of hours does not end in an error about its last run.
    targets = {key: choose_targets(members, plan, data[key]) for key, members in grouped.items()}
    ways = {key: _windows(members, plan) for key, members in grouped.items()}
    for key, members in grouped.items():
        for member in members:
            evaluator.check_env(member.model, EnvSpec.from_json(member.facts))
            if None in ways[key]:
                engines.choose(member.model, plan.engine, plan.device)
    lines: list[Line] = []
    for (setting, checkpoint), members in grouped.items():
        asked, returns = targets[setting, checkpoint], data[setting, checkpoint]
        if warning := evaluator.beyond_data(members[0].model, asked):
            say(f"note: targets {warning}")
        windows = ways[setting, checkpoint]
        for window in windows:
            how = "" if len(windows) == 1 else "carry" if window is None else "window"
            name = " ".join(part for part in (setting, checkpoint, how) if part)
            each = [_play(name, member, asked, window, plan) for member in members]
            results = [evaluator.pool(same) for same in zip(*each, strict=True)]
            protocol = _protocol(members, asked, window, plan)
            protocol |= {"engine": engine_version(results[0].engine), "device": str(plan.device)}
            lines.append(Line(name, setting, tuple(members), window, results, protocol, returns))
            played(lines)
    return lines


def choose_targets(
    members: Sequence[Checkpoint], plan: Plan, data: np.ndarray | None
) -> tuple[float, ...]:
    """Return the returns to ask for: as planned, or those of the runs."""
    facts = members[0].facts
    if plan.targets:
        return plan.targets
    if plan.quantiles:
        if data is None:
            raise UserError(
                f"--quantiles needs the returns of {facts['data']}, which is not on this disk: "
                f"python -m envs.inspect {facts['data']} fetches it, or give --targets"
            )
        chosen = np.quantile(data, plan.quantiles)
        return tuple(dict.fromkeys(legible(target) for target in chosen))
    if any(member.facts["targets"] != facts["targets"] for member in members):
        folders = ", ".join(str(member.run) for member in members)
        raise UserError(f"{folders} were evaluated with different targets: give --targets")
    return tuple(facts["targets"])


def choose_windows(plan: Plan, window_of_run: int | None) -> list[int | None]:
    """Return the window of each way to remember, None to carry: as planned, or as in the run."""
    kinds = plan.memory or ("window" if plan.window or window_of_run else "carry",)
    window = plan.window or window_of_run or DEFAULT_WINDOW
    return [window if kind == "window" else None for kind in dict.fromkeys(kinds)]


def _windows(members: Sequence[Checkpoint], plan: Plan) -> list[int | None]:
    of_runs = {member.facts["window"] for member in members}
    if len(of_runs) > 1 and not plan.memory:
        folders = ", ".join(str(member.run) for member in members)
        raise UserError(f"{folders} were evaluated with different memories: give --memory")
    return choose_windows(plan, max(of_runs, key=lambda window: window or 0))


def _play(
    name: str, member: Checkpoint, targets: Sequence[float], window: int | None, plan: Plan
) -> list[Result]:
    facts = member.facts
    with episode_bar(name, len(targets) * plan.episodes) as progress:
        return evaluator.evaluate(
            member.model,
            EnvSpec.from_json(facts),
            targets,
            episodes=plan.episodes,
            seed=plan.seed,
            num_envs=plan.num_envs,
            num_procs=plan.num_procs,
            window=window,
            device=plan.device,
            engine=plan.engine,
            record=plan.record,
            progress=progress,
        )


def _protocol(
    members: Sequence[Checkpoint], targets: Sequence[float], window: int | None, plan: Plan
) -> dict[str, Any]:
    facts = members[0].facts
    return score_protocol(
        data=facts["data"],
        env=EnvSpec.from_json(facts),
        targets=targets,
        episodes=plan.episodes,
        seeds=[plan.seed],
        checkpoint=describe_checkpoint(
            members[0].name,
            (member.facts["update"] for member in members),
            (member.config for member in members),
        ),
        own=facts["reference"],
        memory=evaluator.describe_memory(window),
        backbone=members[0].backbone,
        training_seeds=[m.seed for m in members if m.seed is not None],
        torch=torch.__version__,
        runs=[member.run.name for member in members],
    )
