"""From a configuration and data to a trainer."""

from __future__ import annotations

import dataclasses

import torch

import configs
from agents.machine.ranks import ALONE, Ranks
from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from agents.training import objectives
from agents.training.trainer import Trainer
from configs import Config
from envs import sources
from envs.data.sampler import PackedSampler, WindowSampler
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.rollout import envpool
from envs.worlds.make import time_limit


def load_data(config: Config) -> Trajectories:
    """Return the data set; its environment has been looked at, where there will be evaluations."""
    data = sources.load(
        config.env,
        env_id=config.data.env_id,
        weights=config.data.weights,
        download=config.data.download,
        cache=config.data.cache,
        evaluate=config.eval.episodes > 0,
        env_kwargs=config.data.env_kwargs,
        reset_options=config.data.reset_options,
        obs_keys=config.data.obs_keys,
    )
    if config.eval.episodes:
        data = dataclasses.replace(data, notes=(*data.notes, *sources.check_env(data)))
        if config.eval.stepper == "envpool":
            envpool.check_supported(data.env)
    return data


def resolve(config: Config, data: Trajectories) -> Config:
    """Make every choice that depends on the data."""
    info = configs.DataInfo(
        env_id=data.env_id,
        returns=tuple(data.returns.tolist()),
        max_length=int(data.lengths.max()),
        horizon=time_limit(data.env),
    )
    try:
        return configs.resolve(config, info)
    except ValueError as error:
        raise UserError(str(error)) from None


def build(
    config: Config, data: Trajectories, device: torch.device, ranks: Ranks = ALONE
) -> Trainer:
    """Return the trainer of a resolved configuration: weights, batches and dropout of its seed."""
    torch.manual_seed(config.seed)
    model, optim = build_model(config, data), config.optim
    objective = objectives.make(optim.objective, model, optim.objective_options)
    kind = PackedSampler if config.data.rows == "packed" else WindowSampler
    size = config.data.batch_size, config.data.length
    more = {"transitions": objective.transitions, "inputs": config.model.inputs}
    sampler = kind(data, *size, seed=config.seed, **more)
    return Trainer(objective, sampler, optim, device, ranks)


def build_model(config: Config, data: Trajectories) -> DecisionModel:
    """Return the model for `data`, its normaliser set from the data's statistics."""
    rtg = data.returns_to_go()
    spaces = Spaces(
        data.obs_mean().tolist(),
        data.obs_std().tolist(),
        data.action_low.tolist(),
        data.action_high.tolist(),
        config.data.return_scale or 1.0,
        float(rtg.min()),
        float(rtg.max()),
        () if data.obs_offset is None else data.obs_offset.tolist(),
    )
    try:
        return DecisionModel(config.model, spaces)
    except ValueError as error:
        raise UserError(str(error)) from None


def describe(config: Config, data: Trajectories, trainer: Trainer) -> str:
    """Say what is about to be trained, in three lines, and which observations are not scaled."""
    parameters = sum(p.numel() for p in trainer.objective.parameters() if p.requires_grad)
    m, d, o = config.model, config.data, config.optim
    shared = f", shared by {trainer.ranks.size} processes," if trainer.ranks.size > 1 else ""
    return (
        f"data   {data.name}: {data.num_episodes} episodes, {data.num_steps} steps of "
        f"{data.env_id}, best return {data.returns.max():.0f}\n"
        f"agent  {m.backbone} {m.num_layers} x {m.dim}, {m.tokens} tokens, {parameters:,} "
        f"parameters, {trainer.device}\n"
        f"train  {o.updates} updates of {d.batch_size} {d.rows} x {d.length} steps{shared} -> "
        f"{config.run_dir}" + _constants(data)
    )


def _constants(data: Trajectories) -> str:
    found = data.constant_obs()
    some = ", ".join(map(str, found[:12])) + (", ..." if len(found) > 12 else "")
    return f"\nnote   constant in the data, and so not scaled: observations {some}" if found else ""
