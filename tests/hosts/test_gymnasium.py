"""StatefulPolicy: each environment's memory is its episode, in every autoreset mode."""

import numpy as np
import pytest
import torch

import minrnn

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv  # noqa: E402

from minrnn.hosts.gymnasium import StatefulPolicy  # noqa: E402

LENGTHS = [[1, 3, 1, 1, 4], [2, 5], [4, 1, 2]]
MODES = list(AutoresetMode)


class Episodes(gymnasium.Env):
    """Episodes of given lengths, again and again; observations are noise."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-9, 9, (4,), np.float64)

    def __init__(self, lengths, seed):
        self.lengths, self.noise = lengths, np.random.default_rng(seed)
        self.episode, self.time = -1, 0

    def _observe(self):
        label = {"episode": self.episode, "time": self.time}
        return self.noise.normal(size=4), label

    def reset(self, *, seed=None, options=None):
        self.episode, self.time = self.episode + 1, 0
        return self._observe()

    def step(self, action):
        self.time += 1
        over = self.time == self.lengths[self.episode % len(self.lengths)]
        ends = (over, False) if self.episode % 2 else (False, over)
        obs, label = self._observe()
        return obs, 0.0, *ends, label


def make(mode, kind=SyncVectorEnv):
    makers = [lambda s=s, row=row: Episodes(row, s) for s, row in enumerate(LENGTHS)]
    return kind(makers, autoreset_mode=mode)


class Watcher:
    """A stack as a policy; remembers what came in and went out, and acts on its outputs."""

    def __init__(self, **options):
        torch.manual_seed(0)
        self.stack = minrnn.Stack(minrnn.StackConfig(dim=4, num_layers=2, **options))
        self.seen = []

    def __call__(self, obs, state, resets):
        y, new = self.stack.step(obs, self.stack.unpack(state), resets)
        self.seen.append((obs, resets, y))
        return (y[:, 0] > 0).long(), self.stack.pack(new)


def play(envs, act, steps, mode):
    """Return which episode each call of the policy was in, (steps, 3)."""
    obs, info = envs.reset(seed=0)
    labels = []
    for _ in range(steps):
        labels.append(info["episode"].copy())
        obs, _, terminated, truncated, info = envs.step(act(obs))
        over = terminated | truncated
        if mode is AutoresetMode.DISABLED and over.any():
            obs, new = envs.reset(options={"reset_mask": over})
            info["episode"][over] = new["episode"][over]
    return np.stack(labels)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backbone", ["mingru", "attention"])
def test_outputs_are_those_of_each_episode_alone(mode, backbone):
    policy, envs = Watcher(backbone=backbone), make(mode)
    act = StatefulPolicy(policy, policy.stack.state_size, envs)
    labels = play(act.watch(envs), act, 25, mode)
    obs, resets, outputs = (torch.stack(x, 1) for x in zip(*policy.seen, strict=True))
    assert all(len(set(labels[:, row])) >= 4 for row in range(3))
    for row in range(3):
        for episode in set(labels[:, row]):
            inside = torch.from_numpy(labels[:, row] == episode)
            with torch.no_grad():
                alone, _ = policy.stack(obs[row : row + 1, inside])
            torch.testing.assert_close(outputs[row, inside], alone[0], rtol=0, atol=1e-5)
            # An episode has one observation more than steps, where the last one is shown, too.
            length = LENGTHS[row][episode % len(LENGTHS[row])]
            if episode < labels[-1, row]:
                assert inside.sum() == length + (mode is AutoresetMode.NEXT_STEP)
    whole, _ = policy.stack(obs, resets=resets)
    torch.testing.assert_close(outputs, whole.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_calls_by_hand_and_other_processes_give_the_same(mode):
    first, second = Watcher(), Watcher()
    envs = make(mode)
    act = StatefulPolicy(first, first.stack.state_size, envs)
    obs, _ = envs.reset(seed=0)
    act.reset()
    for _ in range(12):
        obs, _, terminated, truncated, _ = envs.step(act(obs))
        act.ended(terminated, truncated)
    others = make(mode, AsyncVectorEnv)
    other = StatefulPolicy(second, second.stack.state_size, others)
    play(other.watch(others), other, 12, mode)
    others.close()
    for one, two in zip(first.seen, second.seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_partial_reset_forgets_in_its_rows_alone():
    policy, envs = Watcher(), make("NextStep")
    act = StatefulPolicy(policy, policy.stack.state_size, envs)
    watched = act.watch(envs)
    obs, _ = watched.reset(seed=0)
    for _ in range(2):  # row 0 ended at the first step, row 1 at this one: it is to be reset next
        obs, *_ = watched.step(act(obs))
    obs, _ = watched.reset(options={"reset_mask": np.array([False, True, False])})
    act(obs)
    assert policy.seen[-1][1].tolist() == [True, True, False]
    watched.step(np.zeros(3, int))
    act(obs)
    assert policy.seen[-1][1].tolist() == [False, False, False]


@pytest.mark.parametrize("backbone", minrnn.available())
def test_a_saved_memory_goes_on_with_the_same_outputs(backbone, tmp_path):
    policy, envs = Watcher(backbone=backbone), make("SameStep")
    act = StatefulPolicy(policy, policy.stack.state_size, envs)
    obs, _ = envs.reset(seed=0)
    for _ in range(3):
        obs, _, terminated, truncated, _ = envs.step(act(obs))
        act.ended(terminated, truncated)
    torch.save(act.state_dict(), tmp_path / "memory.pt")
    twin, fresh = act.clone(), StatefulPolicy(policy, policy.stack.state_size, envs)
    act(obs)
    act(obs + 1)
    twin(obs)
    fresh.load_state_dict(torch.load(tmp_path / "memory.pt"))
    fresh(obs)
    outputs = [y for _, _, y in policy.seen[-4:]]
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[0], outputs[3])
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(twin.state_dict()["state"], fresh.state_dict()["state"])
    assert not torch.equal(twin.state_dict()["state"], act.state_dict()["state"])


def test_a_policy_that_writes_into_its_state_spoils_no_copy():
    def policy(obs, state, resets):
        return torch.zeros(3), state.add_(1)

    act = StatefulPolicy(policy, 2, make("NextStep"))
    saved, obs = act.state_dict(), np.zeros((3, 4))
    act(obs)
    act.load_state_dict(saved)
    act(obs)
    assert (saved["state"] == 0).all()
    assert (act.state_dict()["state"] == 1).all()


def test_nested_spaces_and_single_precision():
    envs = make("NextStep")

    def policy(obs, state, resets):
        assert obs["a"].dtype == torch.float32
        assert obs["b"][0].dtype == torch.int64
        return {"left": obs["a"][:, 0], "right": (obs["b"][0],)}, state

    act = StatefulPolicy(policy, 1, envs)
    action = act({"a": np.zeros((3, 2)), "b": (np.arange(3),)})
    assert action["left"].dtype == np.float32
    assert action["right"][0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("hear", ["reset", "step", "by hand"])
def test_stepping_another_environment_than_the_watched_one_is_told(hear):
    policy, envs = Watcher(), make("NextStep")
    act = StatefulPolicy(policy, policy.stack.state_size, envs)
    obs, _ = envs.reset(seed=0)
    watched = act.watch(envs)
    act(obs)
    with pytest.raises(RuntimeError, match="the environment that watch"):
        act(obs)
    if hear == "reset":
        watched.reset()
    elif hear == "step":
        watched.step(np.zeros(3, int))
    else:
        act.ended(np.zeros(3, bool), np.zeros(3, bool))
    act(obs)
    act(obs)


def test_wrong_use_is_told():
    envs = make("NextStep")
    act = StatefulPolicy(lambda obs, state, resets: (obs, state[:, :1]), 2, envs)
    with pytest.raises(ValueError, match=r"return stack\.pack\(state\)"):
        act(np.zeros((3, 4)))
    loose = StatefulPolicy(lambda obs, state, resets: (obs, (state,)), 2, envs)
    with pytest.raises(ValueError, match=r"returned a state tuple; .* return stack\.pack\(state\)"):
        loose(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"flags must be \(3,\) bool"):
        act.ended(np.zeros(2, bool), np.zeros(3, bool))
    with pytest.raises(ValueError, match="does not fit"):
        act.load_state_dict(StatefulPolicy(act.policy, 3, envs).state_dict())
    with pytest.raises(ValueError, match=r"gymnasium\.make_vec"):
        StatefulPolicy(act.policy, 2, gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"given is same_step; pass .* SameStep"):
        StatefulPolicy(act.policy, 2, envs, autoreset_mode="same_step")
    envs.metadata.pop("autoreset_mode")
    with pytest.raises(ValueError, match="metadata is None; pass autoreset_mode= NextStep or Same"):
        StatefulPolicy(act.policy, 2, envs)
    known = StatefulPolicy(act.policy, 2, envs, autoreset_mode="SameStep")
    assert known.autoreset_mode is AutoresetMode.SAME_STEP


def test_what_an_environment_writes_into_its_actions_stays_there():
    kept = []

    def policy(obs, state, resets):
        kept.append(torch.full((3, 1), 0.8))
        return kept[-1], state

    act = StatefulPolicy(policy, 2, make("NextStep"))
    given = act(np.zeros((3, 4)))
    given *= 0.5
    assert (kept[0] == 0.8).all()
