"""Evaluate trained agents: `python evaluate.py RUN`, `python evaluate.py RUN1 RUN2 --video`."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see train.py

import tyro

from configs import cli
from envs.errors import UserError
from envs.script import run_script

if TYPE_CHECKING:
    from agents.evaluation.checkpoints import Checkpoint
    from agents.evaluation.compare import Plan

DEPTH = 3
"""How far below a report's folder its runs may lie: runs/<data set>/<run>."""
DESCRIPTION = """Play runs' checkpoints in their environment, asking for each target return.
Prints a table with its protocol; writes report.json (every episode), report.html (one page with
all figures) and figures/. Runs that differ by their seed alone are pooled; others are compared."""


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs (runs/...), or checkpoints of them (runs/.../best)."""
    targets: tuple[float, ...] | None = None
    """Returns to ask for. Default: those the run was evaluated with."""
    quantiles: tuple[float, ...] | None = None
    """Ask for these quantiles of the data's returns, 0 to 1, instead."""
    checkpoint: Literal["last", "best", "both"] = "both"
    """Which checkpoint of each run."""
    episodes: int = 20
    """Episodes for each target; every one of them counts."""
    memory: tuple[Literal["carry", "window"], ...] = ()
    """`carry` the state through the episode, or re-run a `window` of the last steps each time;
    name both to compare them. Default: as the run was evaluated."""
    window: int | None = None
    """Steps of the window. Default: as the run was evaluated, or 20."""
    seed: int = 10_000
    """Episode i starts from `env.reset(seed=seed + i)`, the same for every target."""
    num_envs: int = 120
    """Environments stepped together; it does not change which episodes are played."""
    num_procs: int | None = None
    """Processes that share those environments. Default: as many as pay, of the cores that there are
    (one, unless the engine is numba, which acts the same whatever the processes)."""
    device: str = "cpu"
    """auto, cpu, cuda, ... Acting with so small a model is fastest on the CPU."""
    engine: Literal["auto", "numba", "compiled", "onnx", "eager"] = "auto"
    """What runs the model's step while the state is carried; `auto` is the fastest that starts
    within seconds."""
    out: Path | None = None
    """Folder of the report, or of what is exported. Default: the run's; for a report on several
    runs, the folder that holds them all."""
    figures: Literal["png", "pdf", "svg"] = "png"
    """Format of the files in figures/; pdf and svg are sharp at any size, for a paper."""
    video: bool = False
    """Film the best, the median and the worst episode of the largest target, for report.html."""
    watch: bool = False
    """Show one episode of the largest target, or of each in --targets, as it is played; no report.
    In a window where there is a display, and in the terminal."""
    export: tuple[Literal["onnx", "pt2"], ...] = ()
    """Write each checkpoint's step as one file, to act without this code; no report."""


def main(arguments: list[str] | None = None) -> None:
    """Load, then show, export, or play and report."""
    options = cli.command_line(Options, arguments, DESCRIPTION)
    check(options)

    from agents.evaluation import checkpoints, compare
    from agents.machine import device as runtime

    runtime.configure(threads=1)
    found = checkpoints.find(options.runs, options.checkpoint)
    plan = compare.Plan(
        targets=options.targets,
        quantiles=options.quantiles,
        memory=options.memory,
        window=options.window,
        episodes=options.episodes,
        seed=options.seed,
        num_envs=options.num_envs,
        num_procs=options.num_procs,
        device=runtime.select_device(options.device),
        engine=options.engine,
        record=options.video,
    )
    if options.export:
        export(found, options)
    elif options.watch:
        watch(found[0], plan)
    else:
        report(found, plan, options)


def report(found: list[Checkpoint], plan: Plan, options: Options) -> None:
    """Play every episode; write and print what came of them."""
    from agents.evaluation import compare, latency
    from agents.loggers.console import say
    from agents.report import table, write
    from agents.report.media import video

    folder = out(found, options)
    if options.video:
        video.check(found)  # before hours of playing
    # What has been played is kept, whatever comes after.
    lines = compare.play(found, plan, lambda lines: write.write_results(lines, folder))
    films: dict[str, list[video.Video]] = {}
    for line in lines if options.video else ():
        try:
            films[line.name] = video.film(line, plan.seed)
        except UserError as error:
            say(f"note: {line.name} was not filmed: {error}")
    entries = write.write_report(
        lines,
        folder,
        seconds={line.name: latency.measure(line, plan) for line in lines},
        videos=films,
        format=options.figures,
    )
    say(table.text(entries))
    say(f"\n{folder}: report.html, report.json, figures/")


def watch(checkpoint: Checkpoint, plan: Plan) -> None:
    """Show an episode of each target that was named, or of the largest."""
    from agents.evaluation import checkpoints, compare
    from agents.loggers.console import say
    from agents.report.media import watch

    data = checkpoints.data_returns(checkpoint) if plan.quantiles else None
    targets = compare.choose_targets([checkpoint], plan, data)
    (window, *_) = compare.choose_windows(plan, checkpoint.facts["window"])
    for target in targets if plan.targets or plan.quantiles else [max(targets)]:
        played = watch.watch(
            checkpoint,
            target,
            seed=plan.seed,
            window=window,
            engine=plan.engine,
            device=plan.device,
        )
        say(f"asked {target:g}, got {played.returns[0]:.1f} in {played.lengths[0]} steps")


def export(found: list[Checkpoint], options: Options) -> None:
    """Write the step of each checkpoint as one file of each format."""
    from agents.acting import export
    from agents.loggers.console import say

    write = {"onnx": export.export_onnx, "pt2": export.export_pt2}
    several = len({checkpoint.run for checkpoint in found}) > 1
    places: dict[Path, Checkpoint] = {}
    for checkpoint in found:
        folder = options.out or checkpoint.run
        if options.out is not None and several:
            folder /= checkpoint.run.name
        if (other := places.setdefault(folder / checkpoint.name, checkpoint)) is not checkpoint:
            raise UserError(
                f"{other.run} and {checkpoint.run} would both be written to {folder}: export one "
                f"at a time"
            )
    for place, checkpoint in places.items():
        for format in options.export:
            target = place.with_name(f"{place.name}.{format}")
            write[format](checkpoint.model, target, checkpoint.facts)
            say(str(target))


def out(found: list[Checkpoint], options: Options) -> Path:
    """Return the folder of the report, once something can be written there."""
    from envs.files import write_file

    folder = options.out or common([checkpoint.run for checkpoint in found])
    write_file(folder / ".writable", b"")
    (folder / ".writable").unlink()
    return folder


def common(runs: list[Path]) -> Path:
    """Return the folder of a run, or the one that holds several.

    Raises UserError where they lie so far apart that nobody would look there.
    """
    if len(set(runs)) == 1:
        return runs[0]
    try:
        folder = Path(os.path.commonpath(runs))
    except ValueError:  # on two drives
        folder = Path("/")
    if max(len(run.parts) for run in runs) - len(folder.parts) > DEPTH or folder == folder.parent:
        raise UserError("these runs have no folder in common: name one for the report with --out")
    return folder


def check(options: Options) -> None:
    """Refuse values that cannot be meant."""
    counts = options.episodes, options.window, options.num_envs, options.num_procs
    if min(1 if count is None else count for count in counts) < 1 or options.seed < 0:
        raise UserError(
            "--episodes, --window, --num-envs and --num-procs must be positive, --seed not negative"
        )
    if not options.runs:
        raise UserError("name the folder of a run: python evaluate.py runs/...")
    if not all(math.isfinite(target) for target in options.targets or ()):
        raise UserError(f"--targets must be finite numbers, not {options.targets}")
    if not all(0 <= share <= 1 for share in options.quantiles or ()):
        raise UserError(f"--quantiles must be in [0, 1], not {options.quantiles}")
    if options.targets and options.quantiles:
        raise UserError("--targets and --quantiles both say what to ask for: give one of them")
    if options.window and options.memory == ("carry",):
        raise UserError("--window is for --memory window, not for carry alone: leave one out")
    if options.engine != "auto" and options.memory == ("window",):
        raise UserError("--engine is for --memory carry, not for a window: leave one out")
    if options.watch and (options.export or options.video or len(options.runs) > 1):
        raise UserError("--watch shows one run, and neither exports nor films: leave the rest out")
    if options.export and options.video:
        raise UserError("--export writes no report, so --video has none to be in: leave one out")


if __name__ == "__main__":
    sys.exit(run_script(main))
