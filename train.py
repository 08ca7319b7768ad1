"""Train a return-conditioned minGRU agent on offline data and evaluate it: `python train.py`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: threads that wait busily for microseconds, not for milliseconds, which
# would cost dearly where another process needs the core.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import configs
from configs import cli
from envs.errors import UserError
from envs.script import run_script

if TYPE_CHECKING:
    from envs.trajectories import Trajectories

DESCRIPTION = """Train a return-conditioned recurrent agent (minGRU, minLSTM) on offline data, then
evaluate it over a sweep of target returns. With no arguments: Hopper, within five minutes."""

LOG_EVERY = 50
QUICK_SEEDS = 1_000_000


def main(arguments: list[str] | None = None) -> None:
    """Parse, load, build, fit, report."""
    config = cli.parse(arguments, DESCRIPTION)

    # Here and not above, so that --help is instant.
    import torch

    from agents import checkpoint, evaluation, plots, report, runs, runtime
    from agents.decision import DecisionModel
    from agents.runlog import RunLog, episode_bar, read_metrics, say
    from agents.trainer import Trainer
    from envs import pool, score, sources

    runtime.configure(config.threads)
    device = runtime.select_device(config.device)
    data = sources.load(
        config.env,
        env_id=config.data.env_id,
        weights=config.data.weights,
        download=config.data.download,
        cache=config.data.cache,
        evaluate=config.eval.episodes > 0,
    )
    if config.eval.episodes:
        sources.check_env(data)
        if config.eval.stepper == "envpool":
            pool.check(data.env_id, obs_keys=data.obs_keys, env_kwargs=data.env_kwargs)
    config = resolve(config, data)
    torch.manual_seed(config.seed)
    model = build_model(config, data)
    trainer = Trainer(model, make_sampler(config, data), config.optim, device)
    # Nothing is written before everything that could be wrong with the input has been looked at.
    folder = make_run_dir(config)
    config = dataclasses.replace(config, run_dir=folder)
    checkpoint.write_json(folder / "config.json", configs.to_dict(config))
    returns = {"name": data.name, "returns": data.returns.tolist()}
    checkpoint.write_json(folder / runs.DATA_FILE, returns)
    say(describe(config, data, model, device))

    targets = config.eval.targets or ()
    window = config.data.length if config.eval.memory == "window" else None
    world = {"env_kwargs": data.env_kwargs, "obs_keys": list(data.obs_keys)}
    facts = {"env_id": data.env_id, **world, "data": data.name, "targets": list(targets)}
    facts |= {"window": window, "reference": data.reference}
    for note in data.notes:
        say(f"note   {note}")
    if warning := evaluation.beyond_data(model, targets):
        say(f"note   targets {warning}")
    best_score, best_update = -float("inf"), 0

    def play(
        acting: DecisionModel, episodes: int, seed: int, stepper: configs.Stepper = "gymnasium"
    ) -> list[evaluation.Result]:
        with episode_bar("evaluate", len(targets) * episodes) as progress:
            return evaluation.evaluate(
                acting,
                data.env_id,
                targets,
                episodes=episodes,
                seed=seed,
                num_envs=config.eval.num_envs,
                **world,
                window=window,
                device=device,
                stepper=stepper,
                progress=progress,
            )

    def save(name: str) -> None:
        checkpoint.save_checkpoint(
            folder / name, trainer.acting_model, {**facts, "update": trainer.update}
        )

    with RunLog(folder, config.optim.updates) as log:
        for metrics in trainer.fit(lambda update: update % LOG_EVERY == 0 or due(config, update)):
            log.metrics(trainer.update, "train", metrics)
            log.advance(trainer.update, metrics["loss"])
            if not due(config, trainer.update):
                continue
            save("last")
            if not config.eval.episodes:
                continue
            # Other episodes than those of the report: the best of several is lucky with its own.
            quick_seed = config.eval.seed + QUICK_SEEDS
            results = play(
                trainer.acting_model, config.eval.quick_episodes, quick_seed, config.eval.stepper
            )
            asked = {f"return_asked_{r.target:g}": r.mean for r in results}
            top = max(results, key=lambda r: r.target)
            rates = {f"success_asked_{r.target:g}": r.success_rate for r in results}
            asked |= {name: rate for name, rate in rates.items() if rate is not None}
            log.metrics(trainer.update, "eval", {**asked, **relative_error(results, data)})
            # Of equals the later: returns of 0 and 1 tie early, in so few episodes.
            if top.mean >= best_score:
                best_score, best_update = top.mean, trainer.update
                save("best")

        if not config.eval.episodes:
            say(f"\n{folder}: checkpoint last/; not evaluated, as --eval.episodes is 0")
            return
        say("\nevaluating last and best" if best_update < trainer.update else "\nevaluating")
        final = {"last": play(trainer.acting_model, config.eval.episodes, config.eval.seed)}
        if best_update < trainer.update:
            best, _ = checkpoint.load_checkpoint(folder / "best")
            final["best"] = play(best, config.eval.episodes, config.eval.seed)
        chooser = "" if config.eval.stepper == "gymnasium" else f" of {config.eval.stepper}'s"
        protocol = score.protocol(
            data=data.name,
            env_id=data.env_id,
            targets=targets,
            episodes=config.eval.episodes,
            seeds=[config.eval.seed],
            checkpoint=f"last: update {trainer.update}; best: update {best_update}, chosen by "
            f"{config.eval.quick_episodes} other episodes{chooser} asked for {max(targets):g}",
            env_kwargs=data.env_kwargs,
            own=data.reference,
            memory=evaluation.describe_memory(window),
            training_seed=config.seed,
        )
        title = f"{data.name} · {config.model.backbone} · seed {config.seed}"
        log.figure("calibration", plots.calibration(final, data.returns, title))
        log.figure("curve", plots.curve(read_metrics(folder), float(data.returns.max()), title))
    checkpoint.write_json(folder / "results.json", report.as_json(final, protocol))
    say(report.table(final, protocol))
    say(f"\n{folder}: checkpoints last/ best/, calibration.png, curve.png, results.json")
    say(f"python evaluate.py {folder} --targets {max(targets):g}")


def resolve(config: configs.Config, data: Trajectories) -> configs.Config:
    """Make every choice that depends on the data."""
    from envs.make import time_limit

    info = configs.DataInfo(
        env_id=data.env_id,
        returns=tuple(data.returns.tolist()),
        max_length=int(data.lengths.max()),
        horizon=time_limit(data.env_id, data.env_kwargs),
    )
    try:
        return configs.resolve(config, info)
    except ValueError as error:
        raise UserError(str(error)) from None


def build_model(config: configs.Config, data: Trajectories):
    """Return the model for `data`, its normaliser set from the data's statistics."""
    from agents.decision import DecisionModel, Spaces

    rtg = data.returns_to_go()
    spaces = Spaces(
        data.obs_mean().tolist(),
        data.obs_std().tolist(),
        data.action_low.tolist(),
        data.action_high.tolist(),
        config.data.return_scale or 1.0,
        float(rtg.min()),
        float(rtg.max()),
    )
    try:
        return DecisionModel(config.model, spaces)
    except ValueError as error:
        raise UserError(str(error)) from None


def make_sampler(config: configs.Config, data: Trajectories):
    """Return the sampler that `config.data` asks for."""
    from envs.sampler import PackedSampler, WindowSampler

    kind = PackedSampler if config.data.rows == "packed" else WindowSampler
    return kind(data, config.data.batch_size, config.data.length, seed=config.seed)


def make_run_dir(config: configs.Config) -> Path:
    """Create the run's folder: a fresh one by default, the given one if it is empty."""
    if config.run_dir is not None:
        folder = config.run_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{folder} runs into a file: choose another --run-dir") from None
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: choose another --run-dir, or remove it")
        return folder
    name = config.env.replace(",", "+").strip("/.").replace("/", "-")[-100:]
    base = Path("runs") / name / f"{config.model.backbone}-seed{config.seed}"
    for attempt in range(1, 10_000):
        folder = base if attempt == 1 else base.with_name(f"{base.name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{base} and 9998 more exist: name a --run-dir")


def due(config: configs.Config, update: int) -> bool:
    """Whether to evaluate at `update`: at intervals, and at the last."""
    if update == config.optim.updates:
        return True
    return bool(config.eval.every) and update % config.eval.every == 0


def relative_error(results, data: Trajectories) -> dict[str, float]:
    """Return the mean distance between asked and obtained, over the data's best return."""
    best = abs(float(data.returns.max())) or 1.0
    return {"calibration_error": sum(abs(r.mean - r.target) for r in results) / len(results) / best}


def describe(config: configs.Config, data: Trajectories, model, device) -> str:
    """Say what is about to be trained, in three lines."""
    parameters = sum(p.numel() for p in model.parameters())
    m, d, o = config.model, config.data, config.optim
    return (
        f"data   {data.name}: {data.num_episodes} episodes, {data.num_steps} steps of "
        f"{data.env_id}, best return {data.returns.max():.0f}\n"
        f"agent  {m.backbone} {m.num_layers} x {m.dim}, {m.tokens} tokens, {parameters:,} "
        f"parameters, {device}\n"
        f"train  {o.updates} updates of {d.batch_size} {d.rows} x {d.length} steps -> "
        f"{config.run_dir}"
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
