"""Train a return-conditioned minGRU agent on offline data and evaluate it: `python train.py`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

# Before torch is imported: threads that wait busily for microseconds, not for milliseconds, which
# would cost dearly where another process needs the core.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from agents.loggers import base as loggers
from agents.model.inputs import OPTIONAL
from configs import Config, cli
from envs.script import run_script

if TYPE_CHECKING:
    import torch

    from agents.evaluation.during_training import Evaluator
    from agents.machine.ranks import Ranks
    from agents.runs.run import Run

DESCRIPTION = f"""Train a return-conditioned recurrent agent (minGRU, minLSTM) on offline data, then
evaluate it over a sweep of target returns. With no arguments: Hopper, about three minutes.
Names for --log: {", ".join(loggers.LOGGERS)}. For --model.inputs: {", ".join(OPTIONAL)}."""

LOG_EVERY = 50


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, and train."""
    config = cli.parse(arguments, DESCRIPTION)

    from agents.runs.early_end import report_interrupt

    with report_interrupt(config.resume, config):
        begin(config)


def begin(config: Config) -> None:
    """Set up this process, alone or as one of several ranks, and train."""
    # Here and not above, so that --help is instant.
    from agents.loggers.console import say
    from agents.machine import device as runtime
    from agents.machine import ranks as distributed
    from agents.runs.folder import finished

    if config.resume and finished(config.resume):
        say(f"{config.resume} is finished: python evaluate.py {config.resume}")
        return
    loggers.find(config.log)  # a missing package shows now
    runtime.configure(config.threads)
    if config.deterministic:
        runtime.be_deterministic()
    resumes = bool(config.resume or config.resume_if_there)
    with distributed.join(config.device, seed=config.seed, resumes=resumes) as (ranks, device):
        train(config, device, ranks)


def train(config: Config, device: torch.device, ranks: Ranks) -> None:
    """Load the data, build the trainer, fit, report."""
    from agents.evaluation.during_training import Evaluator
    from agents.evaluation.evaluate import beyond_data
    from agents.loggers.console import say
    from agents.runs.run import Run
    from agents.training.build import build, describe, load_data, resolve

    with ranks.first():
        data = load_data(config)
    config = resolve(config, data)
    trainer = build(config, data, device, ranks)
    evaluator = Evaluator(config, data, device, ranks)
    # All input has been checked: nothing was written before.
    with Run(config, data, trainer, evaluator.metadata()) as run:
        say(describe(run.config, data, trainer))
        for note in data.notes:
            say(f"note   {note}")
        if warning := beyond_data(trainer.model, evaluator.spec.targets):
            say(f"note   targets {warning}")
        if trainer.update:
            say(f"resumed at update {trainer.update} of {config.optim.updates}")
        fit(run, evaluator)
        summary = report(run, evaluator)
    if ranks.writer:
        say(summary)


def fit(run: Run, evaluator: Evaluator) -> None:
    """Train to the end, with logging, checkpoints and evaluations."""
    trainer = run.trainer
    evaluate_if_due(run, evaluator)  # a kill may have interrupted it
    for update in trainer.fit():
        evaluation_due = due(run.config, update)
        if update % LOG_EVERY == 0 or evaluation_due:
            run.log.metrics(update, "train", trainer.metrics())
        if evaluation_due or run.state_due():
            run.save_state()
        run.stop_if_asked()
        evaluate_if_due(run, evaluator)


def evaluate_if_due(run: Run, evaluator: Evaluator) -> None:
    """Save the last checkpoint, evaluate it, and keep the best; unless that is done or not due."""
    update = run.trainer.update
    if not due(run.config, update) or run.evaluated == update:
        return
    run.save()
    if run.config.eval.episodes:
        with run.stop.at_once():
            metrics, score = evaluator.quick(run.trainer.acting_model)
        run.log.metrics(update, "eval", metrics)
        run.offer(score)
    run.evaluated = update
    run.save_state()


def due(config: Config, update: int) -> bool:
    """Whether to evaluate at `update`: at intervals, and after the last."""
    every = config.eval.every
    return update == config.optim.updates or (every > 0 and update % every == 0)


def report(run: Run, evaluator: Evaluator) -> str:
    """Run the final evaluation, write figures and results; return the summary to print."""
    from agents.loggers.console import say
    from agents.loggers.history import read_metrics
    from agents.report import plots, rows, table
    from agents.runs.folder import RESULTS
    from envs.files import write_json

    config, folder, last, best = run.config, run.folder, run.trainer.update, run.best_update
    if not config.eval.episodes:
        if run.ranks.writer:  # marks the run as finished
            protocols = {"last": evaluator.protocol("last", last)}
            write_json(folder / RESULTS, {"protocols": protocols, "results": {}})
        return f"\n{folder}: checkpoint last/; not evaluated, as --eval.episodes is 0"
    models, updates = {"last": run.trainer.acting_model}, {"last": last}
    say("\nevaluating last and best" if 0 < best < last else "\nevaluating")
    if 0 < best < last:
        models["best"], updates["best"] = run.best(), best
    with run.stop.at_once():
        final = evaluator.final(models)
    if not run.ranks.writer:
        return ""
    title = f"{run.data.name} · {config.model.backbone} · seed {config.seed}"
    run.log.figure("calibration", plots.calibration(final, run.data.returns, title))
    top = float(run.data.returns.max())
    run.log.figure("curve", plots.curve(read_metrics(folder), top, title))
    protocols = {name: evaluator.protocol(name, update) for name, update in updates.items()}
    returns = {f"{k}/return_asked_{r.target:.10g}": r.mean for k, v in final.items() for r in v}
    run.log.scores(returns)
    results = rows.as_json(final, protocols)
    write_json(folder / RESULTS, results)
    return (
        f"{table.text(results)}\n\n"
        f"{folder}: checkpoints last/{' best/' if best else ''}, calibration.png, curve.png, "
        "results.json\n"
        f"python evaluate.py {folder} --targets {max(evaluator.spec.targets):.10g}"
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
