"""TorchRL: rollouts, replays, GAE and PPO give what the stack gives."""

import copy
import warnings

import pytest
import torch
from torch import nn

import minrnn

with warnings.catch_warnings():  # its own, at import
    warnings.simplefilter("ignore")
    pytest.importorskip("torchrl.collectors")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    LazyTensorStorage,
    TensorDictReplayBuffer,
    Unbounded,
)
from torchrl.data.replay_buffers import SliceSampler
from torchrl.envs import BurnInTransform, EnvBase, InitTracker, TransformedEnv, step_mdp
from torchrl.modules import ProbabilisticActor, QValueModule, set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.objectives import ClipPPOLoss, DQNLoss, SACLoss, TD3Loss
from torchrl.objectives.value import GAE, TD0Estimator

from minrnn.hosts.torchrl import StackModule

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:No target network updater"),  # a loss is called once
]

CUE, LENGTHS = 2, (3, 5, 4)


class Recall(EnvBase):
    """Three environments with episodes of 3, 5 and 4 steps; the cue of the first step pays.

    observation: (3, 4) cue one-hot at the first step, then zeros; the time; noise. Reward 1 for
    the action that is the cue. Every other episode is truncated, not terminated.
    """

    def __init__(self, seed=0):
        super().__init__(batch_size=[3])
        self.observation_spec = Composite(observation=Unbounded((3, 4)), shape=(3,))
        self.action_spec = Categorical(CUE, shape=(3,))
        self.reward_spec = Unbounded((3, 1))
        flag = Binary(1, (3, 1), dtype=torch.bool)
        self.full_done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=(3,)
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.time = torch.zeros(3, dtype=torch.long)
        self.cue = torch.zeros(3, dtype=torch.long)
        self.episode = torch.zeros(3, dtype=torch.long)

    def _set_seed(self, seed):
        self.generator.manual_seed(seed)

    def _observe(self):
        cue = nn.functional.one_hot(self.cue, CUE) * (self.time == 0)[:, None]
        noise = torch.randn(3, 1, generator=self.generator)
        return torch.cat([cue.float(), self.time[:, None] / 5, noise], 1)

    def _reset(self, tensordict):
        rows = torch.ones(3, dtype=torch.bool)
        if tensordict is not None and tensordict.get("_reset", None) is not None:
            rows = tensordict["_reset"].reshape(3)
        new = torch.randint(CUE, (3,), generator=self.generator)
        self.time[rows], self.cue[rows] = 0, new[rows]
        self.episode[rows] += 1
        return TensorDict({"observation": self._observe()}, [3])

    def _step(self, tensordict):
        reward = (tensordict["action"] == self.cue).float()[:, None]
        self.time += 1
        done = (self.time == torch.tensor(LENGTHS))[:, None]
        cut = done & (self.episode % 2 == 0)[:, None]
        flags = {"done": done, "terminated": done & ~cut, "truncated": cut}
        return TensorDict({"observation": self._observe(), "reward": reward, **flags}, [3])


class Agent:
    """One core under a policy head and a value head."""

    def __init__(self, **options):
        torch.manual_seed(0)
        options = {"dim": 16, "num_layers": 1, "mlp_ratio": 2.0} | options
        self.core = StackModule(options, input_size=4)
        dim = self.core.stack.dim
        logits = TensorDictModule(nn.Linear(dim, CUE), ["embed"], ["logits"])
        value = TensorDictModule(nn.Linear(dim, 1), ["embed"], ["state_value"])
        self.actor = ProbabilisticActor(
            TensorDictSequential(self.core, logits),
            in_keys=["logits"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
        )
        self.critic = TensorDictSequential(self.core, value)

    def env(self, seed=0):
        return TransformedEnv(Recall(seed), get_env_transforms_from_module(self.core))

    def collector(self, frames=60, total=-1):
        return Collector(self.env(), self.actor, frames_per_batch=frames, total_frames=total)


def advantages(agent, data, **options):
    options = options or {"deactivate_vmap": True}
    estimator = GAE(gamma=0.9, lmbda=0.8, value_network=agent.critic, **options)
    with set_recurrent_mode(True):
        estimator(data)


def batches(agent, num, frames=60):
    collector = agent.collector(frames)
    found = [data for data, _ in zip(collector, range(num), strict=False)]
    collector.shutdown()
    return found


@pytest.mark.parametrize("backbone", minrnn.available())
def test_replay_repeats_the_rollout_across_resets(backbone):
    agent = Agent(backbone=backbone)
    _, data = batches(agent, 2, 63)  # the second starts in mid-episode
    assert data["is_init"][:, 1:].any(1).all()
    assert not data["is_init"][:, 0].all()
    with torch.no_grad(), set_recurrent_mode(True):
        again = agent.actor.get_dist(data.clone()).log_prob(data["action"])
    torch.testing.assert_close(again, data["action_log_prob"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cut", [(0, 4), (2, 9), (7, 20)])
@pytest.mark.parametrize("learned", [False, True])
def test_any_cut_of_a_batch_is_replayed_the_same(cut, learned):
    agent = Agent(cell={"learn_initial_state": learned})
    if learned:
        agent.core.stack.blocks[0].mixer.initial.data.fill_(0.7)
    (data,) = batches(agent, 1)
    piece = data[:, slice(*cut)].clone()
    expected = piece["action_log_prob"].clone()
    with torch.no_grad(), set_recurrent_mode(True):
        found = agent.actor.get_dist(piece).log_prob(piece["action"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        piece["next", "recurrent_state"][:, -1],
        data["next", "recurrent_state"][:, cut[1] - 1],
        rtol=0,
        atol=1e-5,
    )


@torch.no_grad()
def stepped(core, data):
    """Return what core says of every observation, and of those that came next, step by step."""
    stack = core.stack
    here, there = [], []
    for t in range(data.shape[1]):
        state = stack.unpack(data[core.in_keys[1]][:, t])
        x = core.encoder(data["observation"][:, t])
        y, state = stack.step(x, state, data["is_init"][:, t, 0])
        here.append(y)
        there.append(stack.step(core.encoder(data["next", "observation"][:, t]), state)[0])
    return torch.stack(here, 1), torch.stack(there, 1)


def by_hand(agent, data):
    """Return the values of every observation, and of those that came next, step by step."""
    return [agent.critic[1].module(y).detach() for y in stepped(agent.core, data)]


def laid_out(data, layout):
    """Return data as it is, or as slices of a buffer: flat, with joints, or in rows of 3 or 1."""
    if layout == "rows":
        return data
    sampler = SliceSampler(slice_len=3, end_key=("next", "done"), strict_length=True)
    storage = LazyTensorStorage(100, ndim=2)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=30)
    buffer.extend(data)
    return buffer.sample().reshape(
        {"slices": (30,), "reshaped": (10, 3), "single": (30, 1)}[layout]
    )


@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize("backbone", ["mingru", "attention", "slstm"])
def test_gae_bootstraps_from_the_right_states(backbone, vmap):
    agent = Agent(backbone=backbone)
    _, data = batches(agent, 2, 63)
    value, after = by_hand(agent, data)
    advantages(agent, data, deactivate_vmap=not vmap)
    torch.testing.assert_close(data["state_value"], value, rtol=0, atol=1e-5)
    torch.testing.assert_close(data["next", "state_value"], after, rtol=0, atol=1e-5)
    other = data.select("observation", "recurrent_state", "is_init", "next").clone()
    advantages(agent, other, shifted=True, shifted_budget=21)
    valid = other["shifted_valid"] & ~other["next", "terminated"][..., 0]
    assert (valid & other["next", "truncated"][..., 0]).any()
    found = other["next", "state_value"]
    torch.testing.assert_close(found[valid], after[valid], rtol=0, atol=1e-5)
    advantage, total = torch.zeros(3, 1), []
    for t in reversed(range(data.shape[1])):
        reward, done = data["next", "reward"][:, t], data["next", "done"][:, t]
        over = data["next", "terminated"][:, t]
        delta = reward + 0.9 * after[:, t] * ~over - value[:, t]
        advantage = delta + 0.9 * 0.8 * advantage * ~done
        total.insert(0, advantage)
    torch.testing.assert_close(data["advantage"], torch.stack(total, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("backbone", minrnn.available())
def test_ppo_trains_for_one_update(backbone):
    agent = Agent(backbone=backbone)
    loss_module = ClipPPOLoss(agent.actor, agent.critic)
    before = copy.deepcopy(agent.core.state_dict())
    (data,) = batches(agent, 1)
    advantages(agent, data)
    losses = loss_module(data)
    assert losses["kl_approx"].abs() < 1e-5  # the first update starts from the policy that acted
    assert losses["clip_fraction"] == 0
    (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
    optimizer = torch.optim.SGD(loss_module.parameters(), 0.1)
    optimizer.step()
    changed = [k for k, v in agent.core.state_dict().items() if not torch.equal(v, before[k])]
    assert any("mixer" in key for key in changed)
    with torch.no_grad():
        assert agent.actor(agent.env().reset())["action"].shape == (3,)


def train(agent, updates):
    """Return the mean reward of the last five batches."""
    loss_module = ClipPPOLoss(agent.actor, agent.critic, entropy_coeff=0.003)
    optimizer = torch.optim.Adam(loss_module.parameters(), 1e-2)
    rewards = []
    for data in agent.collector(240, 240 * updates):
        advantages(agent, data)
        for _ in range(3):
            losses = loss_module(data)
            optimizer.zero_grad()
            sum(v for k, v in losses.items() if k.startswith("loss_")).backward()
            optimizer.step()
        rewards.append(data["next", "reward"].mean().item())
    return sum(rewards[-5:]) / 5


class Forgetful(StackModule):
    """Drop the state, as a mistake would."""

    def forward(self, tensordict):
        tensordict["is_init"] = torch.ones_like(tensordict["is_init"])
        tensordict["recurrent_state"] = torch.zeros_like(tensordict["recurrent_state"])
        return super().forward(tensordict)


def test_the_state_is_what_solves_a_memory_task():
    # Who knows the cue at the first step of an episode alone gets 1 there and 0.5 afterwards.
    assert train(Agent(), 15) > 0.9
    forgetful = Agent()
    forgetful.core.__class__ = Forgetful
    assert train(forgetful, 15) < 0.75


def test_a_flat_batch_of_slices_is_replayed_the_same():
    agent = Agent()
    sample = laid_out(batches(agent, 1)[0], "slices")
    assert sample.shape == (30,)
    assert (sample["is_init"][:, 0] & (sample["recurrent_state"] != 0).any(1)).sum() > 2
    expected = sample["action_log_prob"].clone()
    with torch.no_grad(), set_recurrent_mode(True):
        found = agent.actor.get_dist(sample).log_prob(sample["action"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["rows", "slices", "reshaped"])
@pytest.mark.parametrize("backbone", ["mingru", "attention"])
def test_what_is_read_at_next_goes_on_behind_an_end(layout, backbone):
    agent = Agent(backbone=backbone)
    _, data = batches(agent, 2, 63)
    _, after = by_hand(agent, data)
    data["after"] = after
    data = laid_out(data, layout)
    if layout != "reshaped":
        assert data["next", "done"][..., :-1, 0].sum() > 5
    estimator = TD0Estimator(gamma=0.9, value_network=agent.critic)
    with torch.no_grad(), set_recurrent_mode(True):
        found = estimator.value_estimate(data.clone())
        # As TD3 does.
        chosen = agent.critic(step_mdp(data).select(*agent.critic.in_keys))["state_value"]
    torch.testing.assert_close(chosen, data["after"], rtol=0, atol=1e-5)
    bootstrap = data["after"] * ~data["next", "terminated"]
    expected = data["next", "reward"] + 0.9 * bootstrap
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("layout", ["rows", "slices", "reshaped", "single"])
@pytest.mark.parametrize("backbone", ["mingru", "minlstm", "attention", "slstm"])
def test_dqn_learns_what_stepping_says(backbone, layout, double):
    agent = Agent(backbone=backbone)
    head, target = nn.Linear(16, CUE), nn.Linear(16, CUE)
    nn.init.normal_(target.weight)
    _, data = batches(agent, 2, 63)
    data["y"], data["y_next"] = stepped(agent.core, data)
    data = laid_out(data, layout)
    network = TensorDictSequential(
        agent.core,
        TensorDictModule(head, ["embed"], ["action_value"]),
        QValueModule(action_space="categorical"),
    )
    loss_module = DQNLoss(
        network, action_space="categorical", double_dqn=double, loss_function="l2"
    )
    loss_module.make_value_estimator(gamma=0.9)
    # Another head, so that the two networks choose differently; the states stay the same.
    for name, tensor in target.named_parameters():
        loss_module.target_value_network_params["module", "1", "module", name].data.copy_(tensor)
    q, q_next = head(data["y"]), target(data["y_next"])
    best = (head(data["y_next"]) if double else q_next).argmax(-1, keepdim=True)
    bootstrap = q_next.gather(-1, best) * ~data["next", "terminated"]
    goal = (data["next", "reward"] + 0.9 * bootstrap).detach()
    expected = (q.gather(-1, data["action"][..., None]) - goal).square().mean()
    before = data.clone()
    found = loss_module(data)["loss"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(data["next", "recurrent_state"], before["next", "recurrent_state"])
    # No gradient goes through the targets.
    parameters = [*agent.core.parameters(), *head.parameters()]
    with set_recurrent_mode(True):
        y = agent.core(before)["embed"]
    chosen = head(y).gather(-1, data["action"][..., None])
    expected = torch.autograd.grad((chosen - goal).square().mean(), parameters)
    found = torch.autograd.grad(found, parameters)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class Steer(Recall):
    """The same with an action between -1 and 1; reward 1 on the side that the cue says."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.action_spec = Bounded(-1, 1, (3, 1))

    def _step(self, tensordict):
        side = (tensordict["action"][:, 0] > 0).long()
        return super()._step(TensorDict({"action": side}, [3]))


class Half(torch.distributions.Independent):
    """A normal distribution whose samples are half a deviation above its mean."""

    def __init__(self, loc):
        super().__init__(torch.distributions.Normal(loc, 0.4), 1)

    def rsample(self, sample_shape=()):
        return self.mean + 0.2


class Q(nn.Linear):
    def forward(self, y, action):
        return super().forward(torch.cat([y, action], -1))


class Steerer:
    """An actor with a core, and two critics over a core of their own, or the same."""

    def __init__(self, backbone, shared):
        torch.manual_seed(0)
        options = {"dim": 16, "num_layers": 1, "backbone": backbone}
        self.core = StackModule(options, input_size=4)
        keys = {"out_key": "critic_embed", "state_key": ("critic", "state")}
        self.other = self.core if shared else StackModule(options, input_size=4, **keys)
        self.mean = nn.Sequential(nn.Linear(16, 1), nn.Tanh())
        self.actor = ProbabilisticActor(
            TensorDictSequential(self.core, TensorDictModule(self.mean, ["embed"], ["loc"])),
            in_keys=["loc"],
            distribution_class=Half,
        )
        self.heads = [Q(17, 1), Q(17, 1)]
        keys = [self.other.out_keys[0], "action"]
        self.critics = [
            TensorDictSequential(self.other, TensorDictModule(q, keys, ["state_action_value"]))
            for q in self.heads
        ]

    def worst(self, y, action):
        return torch.stack([q(y, action) for q in self.heads]).amin(0)

    def collector(self, frames):
        policy = TensorDictSequential(self.actor, self.other)
        env = TransformedEnv(Steer(), get_env_transforms_from_module(policy))
        return Collector(env, policy, frames_per_batch=frames)


@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("layout", ["rows", "slices"])
def test_sac_learns_what_stepping_says(layout, shared, vmap):
    agent = Steerer("minlstm", shared)
    _, data = batches(agent, 2, 63)
    data["y"], data["y_next"] = stepped(agent.core, data)
    data["z"], data["z_next"] = stepped(agent.other, data)
    data = laid_out(data, layout)
    loss_module = SACLoss(
        agent.actor,
        agent.critics,
        action_spec=Bounded(-1, 1, (1,)),
        loss_function="l2",
        deactivate_vmap=not vmap,
    )
    loss_module.make_value_estimator(gamma=0.9)
    found = loss_module(data)

    dist = Half(agent.mean(data["y_next"]))
    action = dist.rsample()
    value = agent.worst(data["z_next"], action) - dist.log_prob(action)[..., None]
    goal = data["next", "reward"] + 0.9 * value * ~data["next", "terminated"]
    errors = [(q(data["z"], data["action"]) - goal).square().mean() for q in agent.heads]
    torch.testing.assert_close(found["loss_qvalue"], sum(errors), rtol=0, atol=1e-5)
    dist = Half(agent.mean(data["y"]))
    action = dist.rsample()
    expected = (dist.log_prob(action)[..., None] - agent.worst(data["z"], action)).mean()
    torch.testing.assert_close(found["loss_actor"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize("layout", ["rows", "slices"])
def test_td3_learns_what_stepping_says(layout, vmap):
    agent = Steerer("minlstm", shared=True)
    _, data = batches(agent, 2, 63)
    data["y"], data["y_next"] = stepped(agent.core, data)
    data = laid_out(data, layout)
    loss_module = TD3Loss(
        agent.actor,
        agent.critics,
        bounds=(-1, 1),
        policy_noise=0.0,
        loss_function="l2",
        deactivate_vmap=not vmap,
    )
    loss_module.make_value_estimator(gamma=0.9)
    found = loss_module(data)
    action = Half(agent.mean(data["y_next"])).mean.clamp(-1, 1)
    value = agent.worst(data["y_next"], action)
    goal = data["next", "reward"] + 0.9 * value * ~data["next", "terminated"]
    errors = [(q(data["y"], data["action"]) - goal).square().mean() for q in agent.heads]
    torch.testing.assert_close(found["loss_qvalue"], sum(errors), rtol=0, atol=1e-5)
    expected = -agent.heads[0](data["y"], agent.mean(data["y"])).mean()
    torch.testing.assert_close(found["loss_actor"], expected, rtol=0, atol=1e-5)


class TwoCores(Agent):
    """A core under the policy head, and another one under the value head."""

    def __init__(self, **keys):
        super().__init__()
        keys = {"out_key": "critic_embed", "state_key": ("critic", "state")} | keys
        self.other = StackModule({"dim": 16, "num_layers": 1}, input_size=4, **keys)
        value = TensorDictModule(nn.Linear(16, 1), [keys["out_key"]], ["state_value"])
        self.critic = TensorDictSequential(self.other, value)

    def collector(self, frames):
        policy = TensorDictSequential(self.actor, self.critic)
        env = TransformedEnv(Recall(), get_env_transforms_from_module(policy))
        return Collector(env, policy, frames_per_batch=frames)


def test_two_cores_keep_a_state_each():
    agent = TwoCores()
    _, data = batches(agent, 2, 63)
    with torch.no_grad(), set_recurrent_mode(True):
        again = agent.actor.get_dist(data.clone()).log_prob(data["action"])
        value = agent.critic(data.clone())["state_value"]
    torch.testing.assert_close(again, data["action_log_prob"], rtol=0, atol=1e-5)
    torch.testing.assert_close(value, data["state_value"], rtol=0, atol=1e-5)
    after = agent.critic[1].module(stepped(agent.other, data)[1])
    read = data.exclude("state_value", "critic_embed")
    advantages(agent, read)
    torch.testing.assert_close(read["next", "state_value"], after, rtol=0, atol=1e-5)
    advantages(agent, data, shifted=True, shifted_budget=21)
    valid = data["shifted_valid"] & ~data["next", "terminated"][..., 0]
    found = data["next", "state_value"]
    torch.testing.assert_close(found[valid], after[valid], rtol=0, atol=1e-5)


def test_any_keys_will_do():
    keys = {"in_key": ("agent", "x"), "out_key": ("agent", "y"), "state_key": ("agent", "h")}
    core = StackModule({"dim": 8, "num_layers": 1}, 4, **keys)
    x, state = torch.randn(2, 4), torch.randn(2, core.stack.state_size)
    is_init = torch.tensor([[False], [True]])
    data = TensorDict({"agent": {"x": x, "h": state}, "is_init": is_init}, [2])
    found = core(data)
    y, new = core.stack.step(core.encoder(x), core.stack.unpack(state), is_init[:, 0])
    torch.testing.assert_close(found["agent", "y"], y, rtol=0, atol=0)
    torch.testing.assert_close(found["next", "agent", "h"], core.stack.pack(new), rtol=0, atol=0)
    assert core.make_tensordict_primer().primers["agent", "h"].shape == state.shape[1:]


def test_a_row_without_states_starts_from_zeros_in_either_way_of_recurrent_mode():
    core = StackModule({"dim": 4, "num_layers": 1}, default_recurrent_mode=True)
    x = torch.randn(2, 5, 4)
    flags = torch.zeros(2, 5, dtype=torch.bool)
    y, state = core.stack(x)
    data = core(TensorDict({"observation": x, "is_init": flags}, [2, 5]))
    torch.testing.assert_close(data["embed"], y, rtol=0, atol=0)
    last = torch.zeros(2, 5, core.stack.state_size)
    last[:, -1] = core.stack.pack(state)
    torch.testing.assert_close(data["next", "recurrent_state"], last, rtol=0, atol=0)
    assert data["next", "recurrent_state"].requires_grad
    with set_recurrent_mode(False):  # steps
        data = core(data.select("observation", "is_init").fill_("is_init", True))
    y, _ = core.stack.step(x.flatten(0, 1))
    torch.testing.assert_close(data["embed"].flatten(0, 1), y, rtol=0, atol=0)


def test_a_burn_in_gives_the_state_of_the_rollout():
    agent = Agent()
    (data,) = batches(agent, 1)
    out = BurnInTransform([agent.core], burn_in=6)(data.clone())
    found = out["recurrent_state"][:, 0]
    going_on = ~data["is_init"][:, 6, 0]
    assert going_on.any()
    expected = data["recurrent_state"][:, 6][going_on]
    torch.testing.assert_close(found[going_on], expected, rtol=0, atol=1e-5)


def test_an_environment_without_a_primer_is_told():
    agent = Agent()
    env = TransformedEnv(Recall(), InitTracker())
    with pytest.raises(KeyError, match="make_tensordict_primer"):
        env.rollout(3, agent.actor)


def test_state_dicts_carry_the_actions():
    agent, other = Agent(), Agent()
    for parameter in agent.actor.parameters():
        nn.init.normal_(parameter, std=0.5)
    other.actor.load_state_dict(agent.actor.state_dict())
    data = [a.env(seed=3).rollout(12, a.actor, break_when_any_done=False) for a in (agent, other)]
    torch.testing.assert_close(data[0]["logits"][:, 0], data[1]["logits"][:, 0], rtol=0, atol=0)
    with torch.no_grad():
        again = other.core(data[0].clone())["embed"]
    torch.testing.assert_close(again, data[0]["embed"], rtol=0, atol=1e-6)


def test_wrong_options_and_missing_flags_are_told():
    with pytest.raises(ValueError, match="no field 'width'"):
        StackModule({"width": 3})
    with pytest.raises(ValueError, match="did you mean 'mingru'"):
        StackModule({"backbone": "mingr"})
    core = StackModule({"dim": 4, "num_layers": 1})
    data = TensorDict({"observation": torch.zeros(2, 4)}, [2])
    with pytest.raises(KeyError, match=r"InitTracker.*make_tensordict_primer"):
        core(data)
    data["is_init"] = torch.tensor([True, False])
    with pytest.raises(KeyError, match=r"'recurrent_state'.*make_tensordict_primer"):
        core(data)
    data["observation"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="give input_size=3"):
        core(data)
    with pytest.raises(KeyError, match='"obs"'):
        StackModule(in_key="obs")(data)
    data = TensorDict({"observation": torch.zeros(4), "is_init": torch.ones(1).bool()}, [])
    with set_recurrent_mode(True), pytest.raises(ValueError, match="last batch dimension is time"):
        core(data)
