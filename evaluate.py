"""Evaluate trained agents: `python evaluate.py RUN`, `python evaluate.py RUN1 RUN2 --video`."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see train.py

import tyro

from agents.evaluation.spec import Plan
from configs import cli
from envs.errors import UserError
from envs.files import CannotWrite, write_file
from envs.script import run_script

if TYPE_CHECKING:
    from agents.evaluation.checkpoints import Checkpoint

DEPTH = 3
"""The most levels between the folder of a report and its runs: runs/<data set>/<run>."""
DESCRIPTION = """Play runs' checkpoints in their environment, asking for each target return.
Prints a table with its protocol; writes report.json (every episode), report.html (one page with
all figures) and figures/. Runs that differ by their seed alone are pooled; others are compared."""


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What to evaluate, and how; Plan and EvalSpec have the options of the episodes."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs (runs/...), or checkpoints of them (runs/.../best)."""
    checkpoint: Literal["last", "best", "both"] = "both"
    """Which checkpoint of each run."""
    out: Path | None = None
    """Folder of the report, or of exported files. Default: the run's; for a report on several
    runs, the folder that holds them all."""
    figures: Literal["png", "pdf", "svg"] = "png"
    """Format of the files in figures/; pdf and svg are sharp at any size, for a paper."""
    video: bool = False
    """Film the best, the median and the worst episode of the largest target, for report.html."""
    watch: bool = False
    """Show one episode of the largest target, or of each in --targets, as it is played; no report.
    In a window if there is a display, and in the terminal."""
    export: tuple[Literal["onnx", "pt2"], ...] = ()
    """Write each checkpoint's step as one file, to act without this code; no report."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the options, and do what they ask for."""
    options = cli.command_line(Options, arguments, DESCRIPTION)
    check(options)
    try:
        run(options)
    except CannotWrite as error:
        raise UserError(f"{error.what}; free some space or name another folder: --out") from None


def run(options: Options) -> None:
    """Load the checkpoints; export or show them, or play every episode and write the report."""
    # Here and not above, so that --help is instant.
    from agents.acting import export
    from agents.evaluation import checkpoints, compare, latency
    from agents.loggers.console import say
    from agents.machine import device
    from agents.report import table, write
    from agents.report.media import video, watch

    device.configure(threads=1)
    found = checkpoints.find(options.runs, options.checkpoint)
    selected = str(device.select_device(options.device))
    plan = dataclasses.replace(options, device=selected, record=options.video)

    if options.export:
        exporters = {"onnx": export.export_onnx, "pt2": export.export_pt2}
        for path, checkpoint in export_paths(found, options.out).items():
            for format in options.export:
                target = path.with_name(f"{path.name}.{format}")
                exporters[format](checkpoint.model, target, checkpoint.metadata)
                say(str(target))
            if window := checkpoint.metadata["window"]:
                say(f"note: it carries its state; the run was evaluated with a window of {window}")
        return

    if options.watch:
        data = checkpoints.data_returns(found[0]) if plan.quantiles else None
        spec = compare.choose_specs(found[:1], plan, data)[0]
        named = plan.targets or plan.quantiles
        for target in spec.targets if named else [max(spec.targets)]:
            played = watch.watch(found[0], target, spec)
            say(f"asked {target:.10g}, got {played.returns[0]:.1f} in {played.lengths[0]} steps")
        return

    folder = report_folder(found, options.out)
    if options.video:
        video.check(found)  # before hours of playing
    lines = compare.evaluate_checkpoints(
        found, plan, after_line=lambda lines: write.write_results(lines, folder)
    )
    films: dict[str, list[video.Video]] = {}
    for line in lines if options.video else ():
        try:
            films[line.name] = video.film(line)
        except UserError as error:
            say(f"note: {line.name} was not filmed: {error}")
    report = write.write_report(
        lines,
        folder,
        seconds={line.name: latency.measure(line) for line in lines},
        videos=films,
        format=options.figures,
    )
    say(table.text(report))
    say(f"\n{folder}: report.html, report.json, figures/")


def export_paths(found: list[Checkpoint], out: Path | None) -> dict[Path, Checkpoint]:
    """Return the path of each checkpoint's exported files, without the suffix of their format."""
    several = len({checkpoint.run for checkpoint in found}) > 1
    paths: dict[Path, Checkpoint] = {}
    same: dict[str, Checkpoint] = {}  # macOS and Windows take names for equal that differ in case
    for checkpoint in found:
        folder = out or checkpoint.run
        if out is not None and several:
            folder /= checkpoint.run.name
        path = folder / checkpoint.name
        paths[path] = checkpoint
        if (other := same.setdefault(str(path).casefold(), checkpoint)) is not checkpoint:
            raise UserError(
                f"{other.run} and {checkpoint.run} would both be written to {folder}: export one "
                f"at a time"
            )
    return paths


def report_folder(found: list[Checkpoint], out: Path | None) -> Path:
    """Return the folder of the report, after a test that it can be written to."""
    folder = out or common([checkpoint.run for checkpoint in found])
    write_file(folder / ".writable", b"")
    (folder / ".writable").unlink()
    return folder


def common(runs: list[Path]) -> Path:
    """Return the folder of a run, or the one that holds several.

    Raises UserError if they are so far apart that nobody would look for the report there.
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
    """Raise UserError for values and combinations that make no sense."""
    counts = options.episodes, options.window, options.num_envs, options.num_procs
    if min(1 if count is None else count for count in counts) < 1 or options.seed < 0:
        raise UserError(
            "--episodes, --window, --num-envs and --num-procs must be positive, --seed not negative"
        )
    if not options.runs:
        raise UserError("name the folder of a run: python evaluate.py runs/...")
    if not all(math.isfinite(target) for target in options.targets):
        raise UserError(f"--targets must be finite numbers, not {options.targets}")
    if not all(0 <= share <= 1 for share in options.quantiles):
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
