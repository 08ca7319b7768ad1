"""agents.load: an agent in one line acts as the evaluation's policy does."""

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest

import agents
from agents.acting.policy import Policy
from agents.storage.checkpoint import save_checkpoint
from envs.errors import UserError
from envs.rollout import rollout
from tests.support.models import tiny_model

METADATA = {
    "env_id": "Pendulum-v1", "env_kwargs": {}, "obs_keys": [], "data": "toy/pendulum-v0",
    "targets": [10.0, 30.0], "update": 3, "window": None, "reference": None,
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    for name in ("last", "best"):
        save_checkpoint(tmp_path / name, tiny_model(3, 1, prev_action=True), METADATA)
    return tmp_path


def test_an_episode_is_that_of_the_policy(run):
    model = tiny_model(3, 1, prev_action=True)
    result = rollout("Pendulum-v1", Policy(model, [30.0]), [7], record=True)
    agent = agents.load(run)
    env = agent.make_env()
    for _ in range(2):  # the second shows that reset() forgets the first
        obs, _ = env.reset(seed=7)
        agent.reset()
        action, total, over, taken = agent.act(obs), 0.0, False, []
        while not over:
            taken.append(action)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
            action = agent.act(obs, reward)
        assert total == result.returns[0]
        np.testing.assert_array_equal(np.stack(taken), result.episodes[0].action)


def test_many_environments_are_as_one_each(run):
    rng = np.random.default_rng(0)
    obs, reward = rng.normal(size=(6, 3, 3)), rng.normal(size=(6, 3))
    resets = np.zeros((6, 3), bool)
    resets[3, 1] = True
    many = agents.load(run, engine="numba")
    acted = [many.act(obs[t], reward[t], resets[t]) for t in range(6)]
    for k in range(3):
        one = agents.load(run, engine="numba")
        for t in range(6):
            alone = one.act(obs[t, k], reward[t, k], resets[t, k])
            np.testing.assert_array_equal(alone, acted[t][k])


def test_a_target_of_ones_own_and_the_best_checkpoint(run):
    obs = np.ones(3)
    default, low = agents.load(run).act(obs), agents.load(run / "best", target=0.0)
    assert not np.array_equal(low.act(obs), default)
    low.reset(target=30.0)
    np.testing.assert_array_equal(low.act(obs), default)


def test_a_checkpoint_without_targets_needs_one(tmp_path):
    save_checkpoint(tmp_path / "last", tiny_model(3, 1), METADATA | {"targets": []})
    with pytest.raises(UserError, match="names no target return"):
        agents.load(tmp_path)
    assert agents.load(tmp_path, target=5.0).act(np.ones(3)).shape == (1,)


def test_missing_rewards_are_reported_once(run):
    agent = agents.load(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.act(np.ones(3))
    with pytest.warns(UserWarning, match=r"stays at the target.*agent.act\(obs, reward\)"):
        agent.act(np.ones(3))
    agent.act(np.ones(3))


def test_what_is_not_an_observation_of_the_agent_is_refused(run):
    agent = agents.load(run)
    with pytest.raises(UserError, match=r"4 numbers, the agent reads 3"):
        agent.act(np.ones(4))
    np.testing.assert_array_equal(agent.act(np.ones(3)), agents.load(run).act(np.ones(3)))
    with pytest.raises(UserError, match=r"2 observations after 1: reset\(\) the agent"):
        agent.act(np.ones((2, 3)))
    with pytest.raises(UserError, match=r"reward of shape \(2,\) for 1 observations"):
        agent.act(np.ones(3), [1.0, 2.0])
    with pytest.raises(UserError, match=r"agent.make_env\(\)"):
        agent.act({"observation": np.ones(3)})
    with pytest.raises(UserError, match=r"resets must be bool, not int64: .*astype\(bool\)"):
        agent.act(np.ones((1, 3)), np.zeros(1), np.array([1]))
    with pytest.raises(UserError, match="no checkpoint in"):
        agents.load(run / "nothing")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = agents.nothing


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(run, bad):
    agent, other = agents.load(run), agents.load(run)
    for each in (agent, other):
        each.act(np.ones((2, 3)))
    with pytest.raises(UserError, match="the observation of environment 1 is not finite"):
        agent.act(np.array([[1.0, 2, 3], [1, bad, 3]]), np.zeros(2))
    with pytest.raises(UserError, match="the reward of environment 0 is not finite"):
        agent.act(np.ones((2, 3)), [bad, 0.0])
    given = np.ones((2, 3)), np.array([bad, 1.0]), np.array([True, False])
    reward = np.where(given[2], 0.0, given[1])  # what came before an episode's start is not read
    np.testing.assert_array_equal(agent.act(*given), other.act(given[0], reward, given[2]))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_resets_of_a_vector_environment_are_those_that_act_describes(run, mode):
    envs = gymnasium.make_vec(
        "Pendulum-v1",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        wrappers=[lambda env: gymnasium.wrappers.TimeLimit(env, 4)],
    )
    agent = agents.load(run, engine="numba")
    obs, _ = envs.reset(seed=0)
    action, over, starts, reward = agent.act(obs), np.zeros(2, bool), np.ones(2, bool), np.zeros(2)
    fresh: list[agents.Agent] = []
    for _ in range(12):
        if starts.all():  # both at once: the episodes are of one length
            fresh = [agents.load(run, engine="numba") for _ in range(2)]
            alone = [one.act(obs[k]) for k, one in enumerate(fresh)]
        else:
            alone = [one.act(obs[k], reward[k]) for k, one in enumerate(fresh)]
        np.testing.assert_array_equal(action, alone)
        before = over
        obs, reward, terminated, truncated, _ = envs.step(action)
        over = terminated | truncated
        starts = over if mode == "SameStep" else before
        action = agent.act(obs, reward, starts)
    envs.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
def test_a_copy_of_an_agent_does_not_go_on_with_an_episode_that_it_lacks(run, copied):
    agent = agents.load(run)
    agent.act(np.ones(3))
    other = copied(agent)
    with pytest.raises(UserError, match=r"1 episodes are under way, of which this policy has 0"):
        other.act(np.ones(3), 1.0)
    other.reset()
    np.testing.assert_array_equal(other.act(np.ones(3)), agents.load(run).act(np.ones(3)))


def test_an_agent_remembers_as_its_run_was_evaluated(tmp_path):
    model = tiny_model(3, 1, prev_action=True)
    save_checkpoint(tmp_path / "last", model, METADATA | {"window": 3})
    acted = []
    for agent in (
        agents.load(tmp_path),
        agents.load(tmp_path, window=3),
        agents.load(tmp_path, window=None, engine="eager"),
    ):
        rng = np.random.default_rng(0)
        acted.append([agent.act(rng.normal(size=3), 1.0) for _ in range(6)])
    np.testing.assert_array_equal(acted[0], acted[1])
    assert not np.allclose(acted[0][-1], acted[2][-1])
    with pytest.raises(UserError, match=r"re-runs a window of 3 steps: give window=None"):
        agents.load(tmp_path, engine="eager")
