"""The protocol of a line of results: how it was played, which scores are reported with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from agents.evaluation.spec import EvalSpec
from envs.scoring.protocol import score_protocol
from envs.worlds.spec import EnvSpec

_PACKAGES = {"numba": "numba", "onnx": "onnxruntime"}
"""Packages whose versions belong to an engine; the other engines are torch's own."""


def line_protocol(
    metadata: Mapping[str, Any], spec: EvalSpec, checkpoint: str, **more: Any
) -> dict[str, Any]:
    """Return a score_protocol from the metadata of a checkpoint, and from its description."""
    return score_protocol(
        data=metadata["data"],
        env=EnvSpec.from_json(metadata),
        targets=spec.targets,
        episodes=spec.episodes,
        seeds=[spec.seed],
        checkpoint=checkpoint,
        own=metadata["reference"],
        memory=describe_memory(spec.window),
        **({"data_notes": "; ".join(notes)} if (notes := metadata.get("notes")) else {}),
        **more,
    )


def describe_memory(window: int | None) -> str:
    """Return how an agent remembers while it acts, as text."""
    return "state carried through the episode" if window is None else f"window of {window} re-run"


FEW_RUNS = 10
_HOLDS = {2: 50, 3: 70, 4: 80, 5: 85, 7: 90}
"""How often (%) an interval over so many runs that differ much holds the truth."""


def intervals(num_runs: int, successes: bool) -> str:
    """Return what the 95 % intervals of a line are computed over, as text."""
    over = "the episodes of one run, not training seeds"
    if num_runs > 1:
        over = f"{num_runs} runs, and the episodes of each"
        if num_runs < FEW_RUNS:
            over += " (few: where runs differ more than episodes do, it is nearer to"
            over += f" {_HOLDS[min(_HOLDS, key=lambda runs: abs(runs - num_runs))]} %)"
    wilson = "; of success, Wilson's" + " where wider" * (num_runs > 1) if successes else ""
    return f"95 %, bootstrap over {over}{wilson}"


def engine_version(engine: str) -> str:
    """Return the engines of a Result with the versions of the packages that they run in."""
    return ", ".join(_versioned(name) for name in engine.split(", "))


def describe_checkpoint(
    name: str, updates: Iterable[int], configs: Iterable[Mapping[str, Any]]
) -> str:
    """Return a checkpoint's name with the runs' updates and, for the best, how it was chosen."""
    listed = ", ".join(dict.fromkeys(str(update) for update in updates))
    chosen = how_chosen(configs) if name == "best" else ""
    return f"{name} (update {listed})" + (f", {chosen}" if chosen else "")


def how_chosen(configs: Iterable[Mapping[str, Any]]) -> str:
    """Return by which episodes, none of those reported, the best was chosen; "" if not known."""
    found: dict[str, None] = {}
    for config in configs:
        options = config.get("eval", {})
        if options.get("quick_episodes") and options.get("targets"):
            stepper = options.get("stepper", "gymnasium")
            of = "" if stepper == "gymnasium" else f" of {stepper}'s"
            count, top = options["quick_episodes"], float(max(options["targets"]))
            episodes = f"{count} other episode{'s' * (count != 1)}"
            found[f"chosen by {episodes}{of} asked for {top:.10g}"] = None
    return " or ".join(found)


def _versioned(name: str) -> str:
    package = _PACKAGES.get(name)
    if package is None:
        return name
    try:
        number = version(package)
    except PackageNotFoundError:
        return name
    return f"{name} {number}" if name == package else f"{name} ({package} {number})"
