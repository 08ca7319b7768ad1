"""The policy keeps state and return-to-go of each row right, whatever the queue does."""

import copy
import pickle

import numpy as np
import pytest
import torch

from agents.acting import engines
from agents.acting.policy import Policy
from agents.model.inputs import Inputs
from envs.rollout import rollout
from tests.support.models import tiny_model

OBS = 4


def test_return_to_go_falls_by_each_reward_and_restarts_with_the_episode():
    policy = Policy(tiny_model(OBS), targets=[10.0, 20.0, 30.0])
    obs = np.zeros((2, OBS))
    yes, no = np.array([True, True]), np.array([False, False])
    policy(obs, np.zeros(2), yes, np.array([0, 1]))
    policy(obs, np.array([1.0, 2.0]), no, np.array([0, 1]))
    assert policy._inputs._rtg.tolist() == [9.0, 18.0]
    policy(obs, np.array([0.0, 3.0]), np.array([True, False]), np.array([2, 1]))
    assert policy._inputs._rtg.tolist() == [30.0, 15.0]
    assert policy._inputs._timestep.tolist() == [0, 2]


def test_a_new_episode_in_a_row_acts_as_in_a_fresh_policy():
    rng = np.random.default_rng(0)
    for window in (None, 3):
        model = tiny_model(OBS)
        used, fresh = (Policy(model, [5.0, 5.0], window=window) for _ in range(2))
        for t in range(4):
            obs = rng.normal(size=(1, OBS))
            used(obs, np.ones(1), np.array([t == 0]), np.array([0]))
        for t in range(4):
            obs = rng.normal(size=(1, OBS))
            start = np.array([t == 0])
            first = used(obs, np.ones(1) * (t > 0), start, np.array([1]))
            second = fresh(obs, np.ones(1) * (t > 0), start, np.array([1]))
            np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_keep_goes_on_with_the_surviving_rows():
    rng = np.random.default_rng(0)
    for window in (None, 3):
        model = tiny_model(OBS)
        many, alone = (Policy(model, [1.0, 2.0, 3.0], window=window) for _ in range(2))
        for t in range(6):
            obs = rng.normal(size=(3, OBS))
            if t == 3:
                many.keep(np.array([2]))
            rows = [2] if t >= 3 else [0, 1, 2]
            reward = np.full(3, 0.1) * (t > 0)
            start = np.full(3, t == 0)
            actions = many(obs[rows], reward[rows], start[rows], np.array(rows))
            single = alone(obs[[2]], reward[[2]], start[[2]], np.array([2]))
            np.testing.assert_allclose(actions[-1:], single, rtol=1e-5, atol=1e-6)


def test_window_memory_equals_the_model_over_the_last_steps():
    rng = np.random.default_rng(0)
    model = tiny_model(OBS, prev_action=True)
    policy = Policy(model, [7.0], window=3)
    seen, taken = [], [np.zeros((1, 2), np.float32)]
    for t in range(7):
        obs = rng.normal(size=(1, OBS)).astype(np.float32)
        seen.append(obs)
        taken.append(policy(obs, np.zeros(1), np.array([t == 0]), np.array([0])))
    last = slice(len(seen) - 3, None)
    timestep = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        inputs = Inputs(
            torch.from_numpy(np.stack(seen[last], 1)),
            torch.full((1, 3, 1), 7.0),
            torch.from_numpy(np.stack(taken[4:7], 1)),
            timestep,
            torch.tensor([[True, False, False]]),
        )
        actions, _ = model(inputs)
    np.testing.assert_allclose(taken[-1], actions[:, -1].numpy(), rtol=1e-5, atol=1e-6)


def test_with_numba_episodes_in_mujoco_are_the_same_for_any_number_of_environments():
    pytest.importorskip("numba")
    model = tiny_model(11, 3, prev_action=True)
    played = [
        rollout("Hopper-v5", Policy(model, range(20), engine="numba"), range(20), num_envs=count)
        for count in (1, 7, 16)
    ]
    for other in played[1:]:
        np.testing.assert_array_equal(played[0].returns, other.returns)
        np.testing.assert_array_equal(played[0].lengths, other.lengths)
    assert len(set(played[0].returns)) == 20


@pytest.mark.parametrize("engine", ["eager", "numba", "onnx"])
def test_a_policy_follows_the_weights_of_its_model_from_the_next_episode_on(engine):
    model = tiny_model(OBS, dropout=0.5)
    if engine not in engines.available(model):
        pytest.skip(f"no {engine} here")
    obs, none, zero = np.ones((1, OBS)), np.zeros(1), np.zeros(1, int)
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    used = Policy(model, [5.0], engine=engine)
    first = used(obs, none, yes, zero)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.train()  # as in a loop that trains on
    fresh = Policy(copy.deepcopy(model), [5.0], engine=engine)
    for resets in (yes, no):
        np.testing.assert_array_equal(used(obs, none, resets, zero), fresh(obs, none, resets, zero))
    assert not np.array_equal(used(obs, none, yes, zero), first)


@pytest.mark.parametrize("window", [None, 3])
def test_the_draws_of_an_episode_are_the_same_whatever_rows_and_processes_share_it(window):
    model = tiny_model(OBS, head="tanh_gaussian")
    obs, index = np.ones((3, OBS)), np.arange(3)
    many = Policy(model, [5.0] * 3, window=window, sample=1)
    acted = []
    for t in range(4):
        if t == 2:
            many.keep(np.array([0, 2]))
            obs, index = obs[:2], np.array([0, 2])
        rows = len(obs)
        acted.append(many(obs, np.zeros(rows), np.full(rows, t == 0), index))
    for episode, row in ((0, 0), (2, -1)):
        # As another process has it, which runs this episode alone.
        alone = pickle.loads(pickle.dumps(Policy(model, [5.0] * 3, window=window, sample=1)))
        for t in range(4):
            single = alone(obs[:1], np.zeros(1), np.array([t == 0]), np.array([episode]))
            np.testing.assert_allclose(single[0], acted[t][row], rtol=1e-5, atol=1e-6)
    assert len({round(float(actions[0, 0]), 5) for actions in acted}) == 4
    assert len({round(float(action), 5) for action in acted[0][:, 0]}) == 3


def test_an_episode_that_starts_again_has_other_draws():
    policy = Policy(tiny_model(OBS, head="tanh_gaussian"), [5.0], sample=1)
    obs, yes = np.ones((2, OBS)), np.ones(2, bool)
    # agents.load's agent has one index for all rows, and for all episodes.
    drawn = [policy(obs, np.zeros(2), yes, np.zeros(2, int))[:, 0] for _ in range(3)]
    assert len(set(np.concatenate(drawn).tolist())) == 6
