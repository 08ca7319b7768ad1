"""The single-file recurrent PPO: resets in every autoreset mode, parity, learning."""

import copy
import re
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("tyro")

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import minrnn
from minrnn.hosts.cleanrl import Agent, Args, main, rollout, start, train, update
from tests.support.recall import Recall

MODES = list(AutoresetMode)
SMALL = {"dim": 8, "num_envs": 4, "num_steps": 40}


class Drift(Recall):
    """Rewards are noise, whatever the actions."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(obs[2]), *rest


class FromOne(Recall):
    """Actions are counted from 1."""

    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Discrete(2, start=1)

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(action - 1)


def make(mode=AutoresetMode.NEXT_STEP, world=Recall, num_envs=4, **options):
    return SyncVectorEnv([lambda: world(**options)] * num_envs, autoreset_mode=mode)


def collect(mode, world=Recall, pieces=1, **options):
    args = Args(**SMALL | options)
    torch.manual_seed(0)
    envs = make(mode, world)
    agent = Agent(envs, args)
    at = start(envs, agent, seed=3)
    for _ in range(pieces):
        batch, at, returns = rollout(envs, agent, at, args)
    return agent, batch, returns


@pytest.mark.parametrize("backbone", minrnn.available())
@pytest.mark.parametrize("mode", MODES)
def test_the_update_computes_what_the_rollout_did(mode, backbone):
    agent, batch, _ = collect(mode, pieces=2, num_layers=2, backbone=backbone)
    logprob, _, value = agent.evaluate(
        batch["obs"], batch["state"], batch["resets"], batch["action"]
    )
    torch.testing.assert_close(logprob, batch["logprob"], rtol=0, atol=1e-5)
    rounding = 5e-5 if backbone in ("mlstm", "slstm") else 1e-5  # they divide by a sum of gates
    torch.testing.assert_close(value, batch["value"], rtol=0, atol=rounding)
    assert batch["resets"][:, 1:].any(1).all()
    assert (batch["state"] != 0).any()  # the piece begins within episodes


@pytest.mark.parametrize("mode", MODES)
def test_resets_are_where_episodes_start(mode):
    _, batch, returns = collect(mode, pieces=3)
    cue = batch["obs"][..., :2].sum(-1) == 1  # is shown at the first step alone
    assert torch.equal(batch["resets"], cue)
    ignored = mode == AutoresetMode.NEXT_STEP
    assert torch.equal(batch["valid"][:, 1:], ~batch["done"][:, :-1] | (not ignored))
    shift = 2 if ignored else 1
    assert torch.equal(batch["resets"][:, shift:], batch["done"][:, :-shift])
    assert len(returns) == int(batch["done"].sum())


@pytest.mark.parametrize("mode", MODES)
def test_discrete_actions_are_counted_from_the_start_of_their_space(mode):
    _, batch, returns = collect(mode, FromOne)
    _, wanted, wanted_returns = collect(mode)
    assert set(batch["action"].unique().tolist()) == {0, 1}  # as the heads count
    assert all(torch.equal(batch[key], wanted[key]) for key in wanted)
    assert returns == wanted_returns


def test_advantages_are_the_same_in_every_autoreset_mode():
    found = {}
    for mode in MODES:
        _, batch, _ = collect(mode, Drift, num_steps=120)
        found[mode] = [
            {key: batch[key][row][batch["valid"][row]] for key in ("advantage", "value", "done")}
            for row in range(4)
        ]
    for mode in MODES:
        for ours, shorter in zip(found[mode], found[AutoresetMode.NEXT_STEP], strict=True):
            steps = int(shorter["done"].nonzero().max()) + 1  # of episodes that are complete
            assert steps > 60
            for key in ours:
                torch.testing.assert_close(ours[key][:steps], shorter[key][:steps])


def test_advantages_are_those_of_the_definition():
    args = {"gamma": 0.9, "gae_lambda": 1.0}
    agent, batch, _ = collect(AutoresetMode.NEXT_STEP, Drift, **args)
    kinds = set()
    for row in range(4):
        part = {key: x[row] for key, x in batch.items() if key != "state"}
        for t in part["valid"].nonzero()[:, 0].tolist():
            ends = part["done"][t:].nonzero()[:, 0].tolist()
            if not ends:
                continue  # goes on after the rollout
            last = t + ends[0]
            rewards = part["reward"][t : last + 1]
            total = sum(0.9**k * float(r) for k, r in enumerate(rewards))
            kinds.add(bool(part["terminated"][last]))
            if not part["terminated"][last]:
                if last + 1 == len(part["value"]):
                    continue
                total += 0.9 ** (last + 1 - t) * float(part["value"][last + 1])
            wanted = total - float(part["value"][t])
            assert float(part["advantage"][t]) == pytest.approx(wanted, abs=1e-5)
    assert kinds == {True, False}
    assert agent.log_std is None


def test_steps_whose_action_is_ignored_are_left_out_of_the_losses():
    agent, batch, _ = collect(AutoresetMode.NEXT_STEP)
    wild = {key: x.clone() for key, x in batch.items()}
    assert (~batch["valid"]).any()
    for key in ("obs", "advantage", "value", "logprob"):
        wild[key][~batch["valid"]] = 100.0
    twin, args = copy.deepcopy(agent), Args(**SMALL, ent_coef=1.0)
    for each, data in ((agent, batch), (twin, wild)):
        torch.manual_seed(0)
        update(each, torch.optim.SGD(each.parameters(), 1.0), data, args)
    for ours, other in zip(agent.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_recalled_is_learned(mode):
    found = []
    args = Args(
        dim=16,
        num_envs=8,
        num_steps=32,
        total_timesteps=256 * 30,
        learning_rate=5e-3,
        update_epochs=8,
        num_minibatches=2,
    )
    envs = make(mode, num_envs=8, longest=6)
    agent = train(args, envs, lambda steps, returns: found.append((steps, len(returns))))
    assert found[-1][0] == args.total_timesteps
    batch, _, _ = rollout(envs, agent, start(envs, agent, seed=5), args)
    share = batch["reward"][batch["valid"]].mean()
    assert share > 0.9  # without a memory 0.65 or so: the first step, and half of the others


@pytest.mark.parametrize("mode", MODES)
def test_minibatches_of_one_step_or_none_train(mode):
    args = Args(**SMALL | {"num_steps": 1, "total_timesteps": 4 * 16})
    agent = train(args, make(mode))
    torch.manual_seed(args.seed)
    fresh = Agent(make(mode), args)
    for ours, first in zip(agent.parameters(), fresh.parameters(), strict=True):
        assert ours.isfinite().all()
        assert not torch.equal(ours, first)


@pytest.mark.parametrize("backbone", minrnn.available())
def test_every_backbone_trains_on_continuous_actions(backbone):
    args = Args(dim=8, num_envs=2, num_steps=16, total_timesteps=64, num_minibatches=1)
    args.backbone, args.env_id = backbone, "Pendulum-v1"
    agent = train(args)
    assert all(p.isfinite().all() for p in agent.parameters())
    clone = Agent(gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync"), args)
    clone.load_state_dict(agent.state_dict())
    obs, yes = torch.randn(2, 3), torch.ones(2, dtype=torch.bool)
    states = []
    for each in (agent, clone):
        torch.manual_seed(0)
        action, *_, state = each.step(obs, each.initial_state(2), yes)
        states.append(torch.cat([action, state], 1))
    assert torch.equal(*states)


class FromVectorAlone(VectorEnv):
    """One that does not say how it resets."""

    num_envs = 4


def test_wrong_options_name_the_fix():
    with pytest.raises(ValueError, match="multiple of num_minibatches=4"):
        train(Args(num_envs=6))
    with pytest.raises(ValueError, match="that of the environments, 4"):
        train(Args(num_envs=8), make())
    for wrong in ("CartPole-v1", gym.make("CartPole-v1"), FromVectorAlone()):
        with pytest.raises(
            ValueError, match=r"must be a vector environment .* such as gymnasium\.make_vec"
        ):
            train(Args(), wrong)
    with pytest.raises(ValueError, match="observations must be a Box, not Discrete"):
        train(Args(env_id="FrozenLake-v1"))
    with pytest.raises(ValueError, match="did you mean 'mingru'"):
        train(Args(backbone="mingro"))


WRONG = {
    "--num-envs 1": "num_envs=1 must be a multiple of num_minibatches=4: give num_minibatches=1",
    "--num-envs 6": "num_envs=6 must be a multiple of num_minibatches=4: give num_minibatches=2",
    "--num-envs 0": "num_envs must be at least 1, not 0",
    "--num-minibatches 0": "num_minibatches must be at least 1, not 0",
    "--num-steps 0": "num_steps must be at least 1, not 0",
    "--update-epochs 0": "update_epochs must be at least 1, not 0",
    "--total-timesteps 500": "total_timesteps=500 is less than a rollout.*: give at least 512",
    "--backbone mingro": "no cell 'mingro'; did you mean 'mingru'",
    "--env-id Blackjack-v1": "observations must be a Box, not Tuple",
    "--env-id Nope-v1": "Environment `Nope` doesn't exist",
    "--env-id no_such_module.envs:Nope-v1": "No module named 'no_such_module'",
}


@pytest.mark.parametrize("flags", WRONG)
def test_the_command_refuses_wrong_options_in_a_line(flags, monkeypatch):
    command = ["cleanrl", "--total-timesteps", "2048", "--dim", "8", *flags.split()]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=f"^error: {WRONG[flags]}"):
        main()


def test_every_option_has_a_line_of_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cleanrl", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    for field in fields(Args):
        flag = "--" + field.name.replace("_", "-")
        assert re.search(rf"{flag} [A-Z]+ +[a-z]", text), flag


def test_the_command_prints_returns(checkout):
    flags = ["--total-timesteps", "512", "--num-envs", "4", "--num-steps", "64", "--dim", "8"]
    done = subprocess.run(
        [sys.executable, "-m", "minrnn.hosts.cleanrl", *flags, "--backbone", "minlstm"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("512 steps, return ")
    assert np.isfinite(float(lines[1].split()[3].rstrip(",")))


OVER: list[int] = []  # lengths of the episodes of Paid that have ended


class Paid(Recall):
    """One unit of reward for each step."""

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            OVER.append(self.time)
        return obs, 1.0, terminated, truncated, info


@pytest.mark.parametrize("mode", MODES)
def test_reported_returns_are_those_of_whole_episodes(mode):
    OVER.clear()
    _, _, returns = collect(mode, Paid, pieces=3)
    assert len(returns) > 20
    assert returns == OVER[-len(returns) :]  # those of the last piece
