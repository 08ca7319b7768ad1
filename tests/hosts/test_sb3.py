"""Stable-Baselines3: the stack policies train, and replay what they did in a rollout."""

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib")

from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

import minrnn
from minrnn.hosts.sb3 import CnnStackPolicy, MlpStackPolicy, MultiInputStackPolicy, StackPPO
from tests.support.recall import Recall

SMALL = {"dim": 8, "num_layers": 2}


POLICIES = {"box": MlpStackPolicy, "dict": MultiInputStackPolicy, "image": CnnStackPolicy}


def make(algorithm=StackPPO, kind="box", num_envs=3, **options):
    stack = SMALL | options.pop("stack", {})
    kwargs = {"stack": minrnn.StackConfig(**stack)} | options.pop("policy_kwargs", {})
    envs = VecMonitor(DummyVecEnv([lambda: Recall(kind)] * num_envs))
    given = {"n_steps": 20, "batch_size": 24, "n_epochs": 2, "seed": 0, "device": "cpu"} | options
    return algorithm(POLICIES[kind], envs, policy_kwargs=kwargs, **given)


def collect(model):
    """Make one rollout; return the model, whose buffer is full and whose policy is unchanged."""
    _, callback = model._setup_learn(model.n_steps * model.n_envs)
    for _ in range(2):  # the second begins within episodes
        assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def replay(model, samples):
    mask = samples.mask > 0.5
    actions = samples.actions
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, log_prob, _ = model.policy.evaluate_actions(
        samples.observations, actions, samples.lstm_states, samples.episode_starts
    )
    return values.flatten()[mask], log_prob[mask], mask


@pytest.mark.parametrize("algorithm", [RecurrentPPO, StackPPO])
@pytest.mark.parametrize("backbone", minrnn.available())
def test_the_update_computes_what_the_rollout_did(backbone, algorithm):
    model = collect(make(algorithm, stack={"backbone": backbone}))
    inside = 0
    for samples in model.rollout_buffer.get(24):  # cut where it falls, not at episodes
        values, log_prob, mask = replay(model, samples)
        torch.testing.assert_close(log_prob, samples.old_log_prob[mask], rtol=0, atol=1e-5)
        rounding = 5e-5 if backbone == "slstm" else 1e-5  # it divides by a sum of gates
        torch.testing.assert_close(values, samples.old_values[mask], rtol=0, atol=rounding)
        rows = samples.lstm_states.pi[0].shape[1]
        assert rows > 1
        inside += int(samples.episode_starts.reshape(rows, -1)[:, 1:].sum())
    assert (inside > 0) == (algorithm is StackPPO)  # the host cuts rows there


@pytest.mark.parametrize("backbone", minrnn.available())
def test_every_backbone_trains_and_predicts(backbone):
    model = make(stack={"backbone": backbone})
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    model.learn(60)
    for part in ("lstm_actor.stack", "lstm_critic.stack", "lstm_actor.encoder"):
        moved = [
            name
            for name, p in model.policy.named_parameters()
            if name.startswith(part) and not torch.equal(p, before[name])
        ]
        assert moved, part
    assert all(p.isfinite().all() for p in model.policy.parameters())
    obs = model.env.reset()
    actions, state = model.predict(obs, deterministic=True)
    assert actions.shape == (3,)
    again, _ = model.predict(obs, state, episode_start=np.zeros(3, bool), deterministic=True)
    assert again.shape == (3,)


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize(
    "critic",
    [
        {},
        {"enable_critic_lstm": False},
        {"shared_lstm": True, "enable_critic_lstm": False},
        {"share_features_extractor": False},
    ],
    ids=["own", "none", "shared", "own features"],
)
def test_every_policy_and_kind_of_critic_trains_and_is_restored(kind, critic, tmp_path):
    if kind == "image":
        features = {"features_extractor_kwargs": {"features_dim": 16}}
    else:
        features = {"net_arch": [8]}
    model = collect(make(kind=kind, policy_kwargs=critic | features))
    for samples in model.rollout_buffer.get(30):
        _, log_prob, mask = replay(model, samples)
        torch.testing.assert_close(log_prob, samples.old_log_prob[mask], rtol=0, atol=1e-5)
    model.learn(60)
    assert (model.policy.lstm_critic is None) == ("enable_critic_lstm" in critic)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    loaded = StackPPO.load(tmp_path / "model", device="cpu")
    policy = POLICIES[kind].load(tmp_path / "policy", device="cpu")
    envs, states, starts = model.get_env(), [None] * 3, np.ones(3, bool)
    obs = envs.reset()
    for _ in range(12):
        found = [
            actor.predict(obs, state, starts, deterministic=True)
            for actor, state in zip((model, loaded, policy), states, strict=True)
        ]
        actions, states = zip(*found, strict=True)
        assert np.array_equal(actions[0], actions[1])
        assert np.array_equal(actions[0], actions[2])
        assert np.array_equal(states[0][0], states[1][0])
        obs, _, starts, _ = envs.step(actions[0])


def test_a_loaded_model_trains_on_as_the_saved_one(tmp_path):
    model = make(RecurrentPPO, stack={"backbone": "minlstm"}).learn(60)
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", env=model.get_env(), device="cpu")
    ends = []
    for each in (model, loaded):
        each.set_random_seed(3)
        each.learn(60)
        ends.append(torch.cat([p.detach().flatten() for p in each.policy.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_rows_over_episodes_hold_the_same_steps_and_gradients_as_the_hosts(kind):
    ours = collect(make(kind=kind))
    theirs = make(RecurrentPPO, kind=kind)
    theirs.policy.load_state_dict(ours.policy.state_dict())
    for name in ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf"):
        setattr(theirs.rollout_buffer, name, getattr(ours.rollout_buffer, name))
    plain = ("observations", "actions", "values", "log_probs", "advantages", "returns")
    for name in (*plain, "episode_starts", "full"):
        setattr(theirs.rollout_buffer, name, getattr(ours.rollout_buffer, name))
    found = []
    for model in (ours, theirs):
        np.random.seed(0)  # noqa: NPY002 (the host draws from it where a pass begins)
        first = next(iter(copy.deepcopy(model.rollout_buffer).get(45)))
        _, log_prob, mask = replay(model, first)
        assert int(mask.sum()) == 45
        model.policy.zero_grad()
        (log_prob * first.advantages[mask]).mean().backward()
        gradient = [p.grad for p in model.policy.lstm_actor.parameters()]
        found.append((log_prob.detach(), first.returns[mask], gradient, len(mask)))
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-6)
    assert found[0][3] < found[1][3]  # less padding


def test_the_weights_end_where_the_hosts_end():
    ends = []
    for algorithm in (StackPPO, RecurrentPPO):
        model = make(algorithm, gamma=0.8, gae_lambda=0.7, n_steps=30, learning_rate=3e-3)
        before = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
        model.learn(180)
        ends.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)
    assert (ends[0] - before).abs().max() > 1e-2


@pytest.mark.parametrize("algorithm", [RecurrentPPO, StackPPO])
def test_environments_in_processes_of_their_own_give_the_same_weights(algorithm):
    ends = []
    for processes in (False, True):
        made = [Recall] * 3
        envs = SubprocVecEnv(made, start_method="spawn") if processes else DummyVecEnv(made)
        model = algorithm(
            MlpStackPolicy,
            VecMonitor(envs),
            n_steps=20,
            batch_size=24,
            n_epochs=2,
            seed=0,
            device="cpu",
            policy_kwargs={"stack": SMALL},
        )
        try:
            model.learn(120)
        finally:
            envs.close()
        ends.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_no_time_step_is_looped_over():
    model = collect(make(num_envs=2, n_steps=64, batch_size=128))
    calls = []
    hook = model.policy.lstm_actor.stack.register_forward_hook(lambda *_: calls.append(1))
    samples = next(iter(model.rollout_buffer.get(128)))
    model.policy.lstm_actor.stack.step = None  # would raise
    replay(model, samples)
    hook.remove()
    assert len(calls) == 1


def test_actions_depend_on_what_was_seen_before():
    model = make(num_envs=1)
    zeros = np.zeros((1, 3), np.float32)
    outs = []
    for first in ([1, 0, 0], [0, 1, 0]):
        _, state = model.predict(np.array([first], np.float32))
        for start in (False, True):
            distribution, _ = model.policy.get_distribution(
                torch.tensor(zeros),
                tuple(torch.tensor(part, dtype=torch.float32) for part in state),
                torch.tensor([float(start)]),
            )
            outs.append(distribution.distribution.logits.detach())
    assert not torch.equal(outs[0], outs[2])  # the cue counts
    assert torch.equal(outs[1], outs[3])  # and not over an episode's start


def test_recall_is_learned():
    def share(stack):
        model = make(
            num_envs=8, n_steps=32, batch_size=256, n_epochs=8, learning_rate=5e-3, stack=stack
        )
        model.learn(256 * 16)
        returns, lengths = evaluate_policy(
            model, model.get_env(), n_eval_episodes=40, return_episode_rewards=True
        )
        return sum(returns) / sum(lengths)

    assert share({"backbone": "mingru", "dim": 16, "num_layers": 1}) > 0.95


def test_a_state_that_is_not_given_starts_an_episode():
    # From a learned initial state, that is, not from the host's zeros.
    model = make(num_envs=2, stack={"cell": {"learn_initial_state": True}})
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if name.endswith(".initial"):
                parameter.fill_(0.7)
    obs = model.env.reset()
    given = model.predict(obs, episode_start=np.ones(2, bool), deterministic=True)[1]
    for start in (None, np.zeros(2, bool)):
        _, state = model.predict(obs, episode_start=start, deterministic=True)
        assert np.array_equal(state[0], given[0])
    zeros = tuple(np.zeros_like(part) for part in given)
    _, state = model.predict(obs, zeros, np.zeros(2, bool), deterministic=True)
    assert not np.allclose(state[0], given[0])


@pytest.mark.parametrize("action", ["box", "multi", "sde"])
def test_other_action_spaces(action):
    class Other(Recall):
        def __init__(self):
            super().__init__()
            flat = spaces.Box(-1, 1, (2,), np.float32)
            self.action_space = spaces.MultiDiscrete([2, 3]) if action == "multi" else flat

        def step(self, chosen):
            return super().step(int(np.asarray(chosen).flat[0] > 0))

    model = StackPPO(
        "MlpStackPolicy",
        make_vec_env(Other, 2),
        n_steps=16,
        batch_size=16,
        use_sde=action == "sde",
        policy_kwargs={"stack": SMALL},
        device="cpu",
    )
    for samples in collect(model).rollout_buffer.get(16):
        _, log_prob, mask = replay(model, samples)
        torch.testing.assert_close(log_prob, samples.old_log_prob[mask], rtol=0, atol=1e-5)
    model.learn(32)


@pytest.mark.parametrize("name", ["lstm_hidden_size", "n_lstm_layers", "lstm_kwargs"])
def test_options_of_an_lstm_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} is an option of the LSTM.*set 'dim|num|cell"):
        make(policy_kwargs={name: 2})


def test_wrong_options_name_the_fix():
    with pytest.raises(ValueError, match="enable_critic_lstm=False"):
        make(policy_kwargs={"shared_lstm": True})
    with pytest.raises(ValueError, match="no field 'layers'; did you mean 'num_layers'"):
        make(policy_kwargs={"stack": {"layers": 1}})
    with pytest.raises(ValueError, match="no cell 'mingro'; did you mean 'mingru'"):
        make(stack={"backbone": "mingro"})
    with pytest.raises(ValueError, match=r"into policy_kwargs\['stack'\]: 'backbone'"):
        make(policy_kwargs={"backbone": "mingru"})


@pytest.mark.parametrize("batch_size", [1, 59])
def test_a_batch_of_one_step_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} leaves a batch of one step"):
        make(batch_size=batch_size)
    make(batch_size=59, normalize_advantage=False).learn(60)
    make(batch_size=None).learn(60)  # the whole rollout


def test_predict_refuses_a_state_or_flags_of_other_environments():
    model = make()
    obs = model.env.reset()
    _, one = model.predict(obs[:1])
    with pytest.raises(ValueError, match="3 observations, but a state of 1 environments"):
        model.predict(obs, one, episode_start=np.zeros(3, bool))
    wide = make(stack={"dim": 16})
    with pytest.raises(ValueError, match="a state of width 16 is another model's; this one has 8"):
        model.predict(obs, wide.predict(obs)[1])
    _, state = model.predict(obs)
    with pytest.raises(ValueError, match="3 observations, but 1 episode_start"):
        model.predict(obs, state, episode_start=[True])
    assert len(model.predict(obs, state, episode_start=[False] * 3)[0]) == 3


@pytest.mark.parametrize("dim", [4, 5])
def test_the_state_takes_no_more_room_than_it_has_to(dim):
    model = collect(make(stack={"backbone": "aaren", "dim": dim, "num_layers": 1}))
    S = model.policy.lstm_actor.stack.state_size
    assert dim % 2 == S % 2
    assert model.rollout_buffer.hidden_states_pi.shape == (20, 1, 3, (S + 1) // 2)
    for samples in model.rollout_buffer.get(24):
        values, _, mask = replay(model, samples)
        torch.testing.assert_close(values, samples.old_values[mask], rtol=0, atol=1e-5)
