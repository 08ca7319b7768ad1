"""RLlib: the rows of a Learner give what the episodes gave, whatever they are cut into."""

import copy
import warnings

import numpy as np
import pytest
import torch

import minrnn

with warnings.catch_warnings():  # its own, at import
    warnings.simplefilter("ignore")
    gymnasium = pytest.importorskip("gymnasium")
    ray = pytest.importorskip("ray")
    # ImportError: ray may be there without what RLlib needs of it.
    pytest.importorskip("ray.rllib.algorithms.ppo", exc_type=ImportError)

    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core import DEFAULT_MODULE_ID
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.rl_module import MultiRLModuleSpec, RLModuleSpec
    from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
    from ray.rllib.env.multi_agent_env import make_multi_agent
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    from minrnn.hosts.rllib import StackRLModule

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SMALL = {"dim": 16, "num_layers": 1, "mlp_ratio": 2.0}


class Recall(gymnasium.Env):
    """The cue of the first step is the action that pays, in episodes of 3 to 6 steps."""

    observation_space = gymnasium.spaces.Box(-5, 5, (2, 2), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config=None):
        self.rng = np.random.default_rng(0)

    def _observe(self):
        obs = np.zeros((2, 2), np.float32)
        obs[0, self.cue] = self.time == 0
        obs[1] = self.time / 5, self.rng.normal()
        return obs

    def reset(self, *, seed=None, options=None):
        self.time, self.cue, self.length = 0, self.rng.integers(2), self.rng.integers(3, 7)
        return self._observe(), {}

    def step(self, action):
        self.time += 1
        over = bool(self.time == self.length)
        cut = over and bool(self.length % 2)
        return self._observe(), float(action == self.cue), over and not cut, cut, {}


def make(module=StackRLModule, max_seq_len=4, env=Recall, **options):
    spec = RLModuleSpec(
        module_class=module,
        model_config={"stack": SMALL | options, "max_seq_len": max_seq_len},
    )
    return (
        PPOConfig()
        .environment(env)
        .rl_module(rl_module_spec=spec)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=3)
        .learners(num_learners=0)
        .training(train_batch_size=120, minibatch_size=60, num_epochs=1, lr=1e-2, gamma=0.5)
        .debugging(seed=0)
    )


class Pair:
    """A runner and a learner with the same weights, without Ray's processes."""

    def __init__(self, **options):
        torch.manual_seed(0)
        config = make(**options)
        self.runner = SingleAgentEnvRunner(config=config)
        env = config.env()
        self.learner = config.build_learner(env=env)
        self.module = self.learner.module[DEFAULT_MODULE_ID]
        self.sync()

    def sync(self):
        self.runner.module.set_state(copy.deepcopy(self.module.get_state()))

    def batch(self, steps=40):
        """Return episodes, and what the Learner's connectors make of them."""
        episodes = self.runner.sample(num_timesteps=steps)
        batch = self.learner._learner_connector(
            rl_module=self.learner.module,
            batch={},
            episodes=copy.deepcopy(episodes),
            shared_data={},
            metrics=self.learner.metrics,
        )
        return episodes, batch[DEFAULT_MODULE_ID]


@torch.no_grad()
def assert_repeats(module, batch):
    """Compare the log-probabilities of the rollout with those that an update computes."""
    mask = batch[Columns.LOSS_MASK]
    out = module.forward_train(batch)
    kind = module.get_train_action_dist_cls()
    logp = kind.from_logits(out[Columns.ACTION_DIST_INPUTS]).logp(batch[Columns.ACTIONS])
    torch.testing.assert_close(logp[mask], batch[Columns.ACTION_LOGP][mask], rtol=0, atol=1e-5)


def test_the_rows_begin_and_end_within_episodes():
    pair = Pair()
    pair.runner.sample(num_timesteps=20)  # the next episodes begin in their middle
    episodes, batch = pair.batch()
    assert any(episode.t_started > 0 for episode in episodes)
    assert batch[Columns.OBS].shape[1:3] == (4, 2)
    assert len(batch[Columns.OBS]) > len(episodes)  # some are longer than a row


@pytest.mark.parametrize("backbone", minrnn.available())
def test_the_learner_repeats_the_log_probabilities_and_trains(backbone):
    pair = Pair(backbone=backbone)
    pair.runner.sample(num_timesteps=20)
    _, batch = pair.batch()
    assert_repeats(pair.module, batch)
    before = {k: v.clone() for k, v in pair.module.state_dict().items()}
    pair.learner.update(episodes=pair.runner.sample(num_timesteps=120))
    changed = [k for k, v in pair.module.state_dict().items() if not torch.equal(v, before[k])]
    assert any("mixer" in key for key in changed)
    pair.sync()
    assert pair.runner.sample(num_timesteps=10)


@pytest.mark.parametrize("max_seq_len", [2, 3, 20])
def test_values_and_the_bootstrapped_one_are_those_of_whole_episodes(max_seq_len):
    pair = Pair(max_seq_len=max_seq_len)
    for _ in range(2):  # the second time episodes go on
        episodes, batch = pair.batch()
    with torch.no_grad():
        values = pair.module.compute_values(batch)
    lengths, row = batch[Columns.SEQ_LENS], 0
    for episode in episodes:
        pieces = -(-(len(episode) + 1) // max_seq_len)
        found = torch.cat([values[row + i, : lengths[row + i]] for i in range(pieces)])
        state = torch.zeros(1, pair.module.stack.state_size)
        if episode.t_started:
            state = torch.as_tensor(
                episode.get_extra_model_outputs(Columns.STATE_OUT, -1, neg_index_as_lookback=True)[
                    "state"
                ]
            )[None]
        obs = torch.as_tensor(np.stack(episode.get_observations()))[None]
        alone = {Columns.OBS: obs, Columns.STATE_IN: {"state": state}}
        with torch.no_grad():
            expected = pair.module.compute_values(alone)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        row += pieces
    assert row == len(values)


def test_the_outgoing_state_is_that_after_the_last_real_step():
    pair = Pair()
    x = torch.randn(4, 5, 2, 2)
    lengths = torch.tensor([2, 5, 1, 2])
    state = torch.randn(4, pair.module.stack.state_size)
    state[0] = 0
    batch = {Columns.OBS: x, Columns.STATE_IN: {"state": state}, Columns.SEQ_LENS: lengths}
    whole = pair.module.forward_inference(batch)
    for row, length in enumerate(lengths):
        alone = pair.module.forward_inference(
            {
                Columns.OBS: x[row : row + 1, :length],
                Columns.STATE_IN: {"state": state[row : row + 1]},
            }
        )
        for got, wanted in (
            (whole[Columns.STATE_OUT]["state"][row], alone[Columns.STATE_OUT]["state"][0]),
            (
                whole[Columns.ACTION_DIST_INPUTS][row, :length],
                alone[Columns.ACTION_DIST_INPUTS][0],
            ),
        ):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    padded = pair.module.forward_inference({**batch, Columns.SEQ_LENS: torch.full((4,), 5)})
    assert not torch.allclose(padded[Columns.STATE_OUT]["state"], whole[Columns.STATE_OUT]["state"])


def test_a_learned_initial_state_is_used_and_learned():
    pair = Pair(cell={"learn_initial_state": True})
    pair.module.stack.blocks[0].mixer.initial.data.fill_(0.7)
    pair.sync()
    _, batch = pair.batch()
    out = pair.module.forward_train(batch)
    logp = pair.module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
    mask = batch[Columns.LOSS_MASK]
    found = logp.logp(batch[Columns.ACTIONS])[mask]
    torch.testing.assert_close(found, batch[Columns.ACTION_LOGP][mask], rtol=0, atol=1e-5)
    found.sum().backward()
    assert pair.module.stack.blocks[0].mixer.initial.grad.abs().sum() > 0


BOX, PAIRS = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.MultiDiscrete([2, 3])


@pytest.mark.parametrize(
    "space", [PAIRS, gymnasium.spaces.Dict(a=BOX, b=PAIRS), gymnasium.spaces.Tuple([PAIRS, BOX])]
)
def test_actions_are_what_the_catalog_takes(space):
    class Actions(Recall):
        action_space = space

        def step(self, action):
            assert space.contains(action)
            return super().step(0)

    pair = Pair(env=Actions)
    pair.runner.sample(num_timesteps=20)
    _, batch = pair.batch()
    assert_repeats(pair.module, batch)
    before = pair.module.logits.weight.clone()
    pair.learner.update(episodes=pair.runner.sample(num_timesteps=120))
    assert not torch.equal(pair.module.logits.weight, before)


def test_the_values_loss_trains_the_stack():
    pair = Pair()
    _, batch = pair.batch()
    out = pair.module.forward_train(batch)
    pair.module.compute_values(batch, embeddings=out[Columns.EMBEDDINGS]).sum().backward()
    assert pair.module.encoder.weight.grad.abs().sum() > 0


class Forgetful(StackRLModule):
    """Drop the state, as a mistake would."""

    def _inputs(self, *args):
        x, state, resets = super()._inputs(*args)
        return x, torch.zeros_like(state), torch.ones_like(resets)


def play(module):
    """Return the mean reward of a step in the last two of eight updates."""
    pair = Pair(module=module, max_seq_len=8)
    rewards = []
    for _ in range(8):
        episodes = pair.runner.sample(num_timesteps=240)
        rewards.append(np.mean(np.concatenate([e.get_rewards() for e in episodes])))
        pair.learner.update(episodes=episodes, num_epochs=10, minibatch_size=64)
        pair.sync()
    return np.mean(rewards[-2:])


def test_the_state_is_what_solves_a_memory_task():
    # Who knows the cue at the first step of an episode alone gets 1 there and 0.5 afterwards.
    assert play(StackRLModule) > 0.85
    assert play(Forgetful) < 0.75


@pytest.fixture(scope="module")
def cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_an_algorithm_trains_and_restores_to_the_same_actions(env, tmp_path):
    algorithm = make(env=env, backbone="minlstm").build_algo()
    algorithm.train()
    path = tmp_path / "saved"
    algorithm.save_to_path(path)
    before = copy.deepcopy(algorithm.get_module().state_dict())
    algorithm.train()
    space = algorithm.get_module().observation_space
    other = make(env=env, backbone="minlstm").build_algo()
    other.restore_from_path(path)
    module, again = (
        other.get_module(),
        StackRLModule.from_checkpoint(
            path / "learner_group" / "learner" / "rl_module" / DEFAULT_MODULE_ID
        ),
    )
    x = torch.randn(2, 1, *space.shape)
    state = torch.randn(2, module.stack.state_size)
    batch = {Columns.OBS: x, Columns.STATE_IN: {"state": state}}
    out = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    assert torch.equal(out, again.forward_inference(batch)[Columns.ACTION_DIST_INPUTS])
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())
    trained = algorithm.get_module().forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    assert not torch.equal(out, trained)
    algorithm.stop()
    other.stop()


def test_the_target_network_is_the_policy_of_an_older_time():
    pair = Pair(backbone="minlstm")
    _, batch = pair.batch()
    pair.module.make_target_networks()
    with torch.no_grad():
        old = pair.module.forward_train(batch)[Columns.ACTION_DIST_INPUTS]
    pair.learner.update(episodes=pair.runner.sample(num_timesteps=120))
    target = pair.module.forward_target(batch)[TARGET_NETWORK_ACTION_DIST_INPUTS]
    torch.testing.assert_close(target, old, rtol=0, atol=1e-6)
    assert not target.requires_grad
    new = pair.module.forward_train(batch)[Columns.ACTION_DIST_INPUTS]
    assert not torch.allclose(new, old, atol=1e-4)
    for main, copied in pair.module.get_target_network_pairs():
        copied.load_state_dict(main.state_dict())
    target = pair.module.forward_target(batch)[TARGET_NETWORK_ACTION_DIST_INPUTS]
    torch.testing.assert_close(target, new, rtol=0, atol=1e-6)
    assert not any(key.startswith("target") for key in pair.module.get_state(inference_only=True))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("algorithm", ["IMPALA", "APPO"])
def test_off_policy_algorithms_train(algorithm):
    spec = RLModuleSpec(
        module_class=StackRLModule, model_config={"stack": SMALL, "max_seq_len": 10}
    )
    config = (
        {"IMPALA": IMPALAConfig, "APPO": APPOConfig}[algorithm]()
        .environment("CartPole-v1")
        .rl_module(rl_module_spec=spec)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=100, lr=1e-2)
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=400)
    )
    algorithm = config.build_algo()
    try:
        before = copy.deepcopy(algorithm.get_module().state_dict())
        algorithm.train()
        after = algorithm.get_module().state_dict()
        changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
        assert any("mixer" in key for key in changed)
    finally:
        algorithm.stop()


def test_wrong_options_are_told():
    box, two = Recall.observation_space, Recall.action_space

    def build(obs=box, **model):
        return StackRLModule(observation_space=obs, action_space=two, model_config=model)

    assert build().model_config["max_seq_len"] == 20
    assert build(stack=minrnn.StackConfig(dim=8)).stack.dim == 8
    with pytest.raises(ValueError, match="put the stack's options under 'stack': 'dim'"):
        build(dim=8)
    with pytest.raises(ValueError, match="did you mean 'num_layers'"):
        build(stack={"num_layer": 8})
    with pytest.raises(ValueError, match="FlattenObservations"):
        build(obs=two)
    assert build(vf_share_layers=True, framestack=True).stack.dim == 128  # RLlib's, as it may add
    with pytest.raises(ValueError, match="no option 'stak' in model_config; did you mean 'stack'"):
        build(stak={"dim": 8})
    with pytest.raises(ValueError, match="did you mean 'max_seq_len'"):
        build(max_seqlen=8)
    with pytest.raises(ValueError, match="max_seq_len must be at least 1, not 0"):
        build(max_seq_len=0)


def test_who_acts_by_hand_may_bring_arrays_and_is_told_the_shapes():
    pair = Pair()
    obs = np.random.default_rng(0).normal(size=(3, 1, 2, 2))
    state = pair.module.get_initial_state()["state"]

    def act(obs, state):
        return pair.module.forward_inference(
            {Columns.OBS: obs, Columns.STATE_IN: {"state": state}}
        )[Columns.ACTION_DIST_INPUTS]

    arrays = act(obs, np.stack([state] * 3))
    tensors = act(torch.as_tensor(obs), torch.zeros(3, len(state)))
    assert torch.equal(arrays, tensors)
    for wrong in ((obs[:, 0], np.stack([state] * 3)), (obs[:1], state), (obs, state[None])):
        with pytest.raises(
            ValueError, match=r"must be \(B, T, \*\(2, 2\)\) and the state \(B, 16\)"
        ):
            act(*wrong)


@pytest.mark.usefixtures("cluster")
def test_policies_with_stacks_of_their_own_train():
    def spec(**options):
        config = {"stack": SMALL | options, "max_seq_len": 10}
        return RLModuleSpec(module_class=StackRLModule, model_config=config)

    specs = {"even": spec(), "odd": spec(dim=8, backbone="minlstm")}
    algorithm = (
        make(env=make_multi_agent("CartPole-v1"))
        .environment(env_config={"num_agents": 2})
        .env_runners(num_envs_per_env_runner=1)
        .multi_agent(
            policies=set(specs), policy_mapping_fn=lambda agent, *_, **__: sorted(specs)[agent % 2]
        )
        .rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
        .build_algo()
    )
    try:
        before = {name: copy.deepcopy(algorithm.get_module(name).state_dict()) for name in specs}
        algorithm.train()
        for name, old in before.items():
            module = algorithm.get_module(name)
            assert module.stack.dim == (8 if name == "odd" else 16)
            changed = [k for k, v in module.state_dict().items() if not torch.equal(v, old[k])]
            assert any("mixer" in key for key in changed)
    finally:
        algorithm.stop()
