"""d3rlpy: frames are a sequence, and what it learns survives saving."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

import minrnn

with warnings.catch_warnings():  # its own, at import
    warnings.simplefilter("ignore")
    d3rlpy = pytest.importorskip("d3rlpy")

    from minrnn.hosts.d3rlpy import StackEncoderFactory

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

FRAMES = 6
SMALL = {"dim": 16, "num_layers": 1, "mlp_ratio": 2.0}
DISCRETE = d3rlpy.ActionSpace.DISCRETE
CONTINUOUS = d3rlpy.ActionSpace.CONTINUOUS


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    d3rlpy.seed(0)


def factory(**options):
    return StackEncoderFactory(FRAMES, SMALL | options)


def recall(space, num_episodes=60):
    """Episodes of 5 steps with random actions; the cue of the first step is what pays."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(num_episodes):
        cue = rng.integers(2)
        obs = np.zeros((5, 3), np.float32)
        obs[0, cue] = 1
        obs[:, 2] = np.arange(1, 6) / 5
        if space is DISCRETE:
            action = rng.integers(2, size=(5, 1))
            reward = (action == cue).astype(np.float32)
        else:
            action = rng.uniform(-1, 1, (5, 1)).astype(np.float32)
            reward = 1 - np.abs(action - (2 * cue - 1)).astype(np.float32) / 2
        episodes.append(d3rlpy.dataset.Episode(obs, action, reward, terminated=True))
    return d3rlpy.dataset.create_infinite_replay_buffer(
        episodes,
        transition_picker=d3rlpy.dataset.FrameStackTransitionPicker(FRAMES),
    )


def questions():
    """Return stacks at each step of two episodes, (2, 5, frames * 3), which differ in their cue."""
    found = np.zeros((2, 5, FRAMES, 3), np.float32)
    for cue in range(2):
        for t in range(5):
            for back in range(t + 1):
                found[cue, t, FRAMES - 1 - back, 2] = (t - back + 1) / 5
            found[cue, t, FRAMES - 1 - t, cue] = 1
    return found.reshape(2, 5, -1)


def fit(algorithm, space, steps):
    algorithm.fit(
        recall(space),
        n_steps=steps,
        n_steps_per_epoch=steps,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )


def make(space, backbone="mingru", encoder=None, **options):
    encoder = encoder or factory(backbone=backbone)
    if space is DISCRETE:
        config = d3rlpy.algos.DoubleDQNConfig(
            encoder_factory=encoder, learning_rate=1e-2, gamma=0.0, batch_size=64, **options
        )
    else:
        config = d3rlpy.algos.TD3PlusBCConfig(
            actor_encoder_factory=encoder,
            critic_encoder_factory=encoder,
            actor_learning_rate=1e-2,
            critic_learning_rate=1e-2,
            gamma=0.0,
            batch_size=64,
            **options,
        )
    return config.create(device="cpu:0")


@pytest.mark.parametrize("backbone", minrnn.available())
@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS])
def test_every_backbone_trains_and_saves(space, backbone, tmp_path):
    algorithm = make(space, backbone)
    fit(algorithm, space, 4)
    x = questions().reshape(10, -1)
    action = algorithm.predict(x)
    assert len(action) == 10
    value = algorithm.predict_value(x, action)
    algorithm.save(str(tmp_path / "model.d3"))
    again = d3rlpy.load_learnable(str(tmp_path / "model.d3"))
    np.testing.assert_array_equal(again.predict(x), action)
    np.testing.assert_array_equal(again.predict_value(x, action), value)
    assert again.config == algorithm.config


def takers():
    """Return every configuration of Q-learning with an encoder, and which of its fields are one."""
    for config in vars(d3rlpy.algos.qlearning).values():
        if dataclasses.is_dataclass(config):
            names = [field.name for field in dataclasses.fields(config)]
            fields = [name for name in names if name.endswith("encoder_factory")]
            if fields:
                yield pytest.param(config, fields, id=config.__name__)


def test_there_are_many_algorithms():
    assert len(list(takers())) >= 20


@pytest.mark.parametrize(("config", "fields"), list(takers()))
def test_every_q_learning_algorithm_takes_it(config, fields):
    encoders = dict.fromkeys(fields, factory())
    algorithm = config(batch_size=16, **encoders).create(device="cpu:0")
    fit(algorithm, algorithm.get_action_type(), 2)
    assert len(algorithm.predict(questions()[0])) == 5


@pytest.mark.parametrize("backbone", minrnn.available())
def test_a_stack_of_frames_is_the_episode_so_far(backbone):
    encoder = factory(backbone=backbone).create((FRAMES * 3,))
    x = torch.randn(2, 9, 3)
    for t in range(9):
        first = max(0, t + 1 - FRAMES)
        with torch.no_grad():
            y, _ = encoder.stack(encoder.inputs(x[:, first : t + 1]))
            padded = torch.zeros(2, FRAMES, 3)
            padded[:, FRAMES - (t + 1 - first) :] = x[:, first : t + 1]
            for shape in ((2, -1), (2, FRAMES, 3)):
                found = encoder(padded.reshape(shape))
                torch.testing.assert_close(found, y[:, -1], rtol=0, atol=1e-5)


def test_over_an_epoch_every_transition_is_read_as_the_episode_so_far():
    rng = np.random.default_rng(0)
    episodes = [
        d3rlpy.dataset.Episode(
            rng.normal(3, 2, (length, 5)).astype(np.float32),
            rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            rng.normal(size=(length, 1)).astype(np.float32),
            terminated=length % 2 == 0,
        )
        for length in (1, 2, 5, 6, 7, 30, 31)
    ]
    data = d3rlpy.dataset.create_infinite_replay_buffer(
        episodes, transition_picker=d3rlpy.dataset.FrameStackTransitionPicker(FRAMES)
    )
    encoder = factory().create((FRAMES * 5,))
    seen = 0
    for episode in data.episodes:
        for t in range(episode.transition_count):
            made = data.transition_picker(episode, t)
            for at, found in ((t, made.observation), (t + 1, made.next_observation)):
                if at == len(episode.observations):
                    continue  # behind a terminal step, which nothing is bootstrapped from
                so_far = torch.tensor(episode.observations[None, max(0, at + 1 - FRAMES) : at + 1])
                with torch.no_grad():
                    y, _ = encoder.stack(encoder.inputs(so_far))
                    got = encoder(torch.tensor(found)[None])
                torch.testing.assert_close(got, y[:, -1], rtol=0, atol=1e-5)
            seen += 1
    assert seen == data.transition_count > 70
    ends = []
    for _ in range(2):
        d3rlpy.seed(1)
        encoders = {f"{name}_encoder_factory": factory() for name in ("actor", "critic", "value")}
        algorithm = d3rlpy.algos.IQLConfig(batch_size=16, **encoders).create(device="cpu:0")
        steps = data.transition_count // 16
        algorithm.fit(
            data,
            n_steps=steps,
            n_steps_per_epoch=steps,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )
        ends.append(algorithm.predict(np.ones((1, FRAMES * 5), np.float32)))
    assert np.isfinite(ends[0]).all()
    np.testing.assert_array_equal(*ends)


def test_only_zeros_before_the_first_frame_are_padding():
    encoder = factory().create((FRAMES * 3,))
    x = torch.zeros(1, FRAMES, 3)
    x[:, [1, 2, 4, 5]] = torch.randn(4, 3)  # the fourth frame is empty as well
    with torch.no_grad():
        y, _ = encoder.stack(encoder.inputs(x[:, 1:]))
        torch.testing.assert_close(encoder(x.flatten(1)), y[:, -1], rtol=0, atol=1e-5)


def test_the_frames_before_are_what_solves_a_memory_task():
    algorithm = make(DISCRETE)
    fit(algorithm, DISCRETE, 150)
    x = questions()
    np.testing.assert_array_equal(algorithm.predict(x[0]), 0)
    np.testing.assert_array_equal(algorithm.predict(x[1]), 1)
    forgotten = x.reshape(2, 5, FRAMES, 3).copy()
    forgotten[:, :, :-1] = 0
    answers = algorithm.predict(forgotten.reshape(10, -1)).reshape(2, 5)
    np.testing.assert_array_equal(answers[0, 1:], answers[1, 1:])


def test_continuous_actions_follow_the_cue():
    algorithm = make(CONTINUOUS, alpha=20.0)
    fit(algorithm, CONTINUOUS, 300)
    x = questions()
    assert algorithm.predict(x[0]).max() < 0 < algorithm.predict(x[1]).min()


@pytest.mark.parametrize("discrete", [False, True])
def test_values_depend_on_the_action(discrete):
    encoder = factory().create_with_action((FRAMES, 3), 2, discrete)
    x = torch.randn(1, FRAMES, 3).expand(2, -1, -1)
    y = encoder(x, torch.tensor([[0], [1]]) if discrete else torch.eye(2))
    assert y.shape == (2, 16)
    assert not torch.allclose(y[0], y[1])


def test_an_environment_of_frames_is_acted_in():
    import gymnasium

    env = d3rlpy.envs.FrameStack(gymnasium.make("CartPole-v1"), FRAMES)
    algorithm = make(DISCRETE)
    algorithm.build_with_env(env)
    assert d3rlpy.metrics.evaluate_qlearning_with_environment(algorithm, env, n_trials=1) >= 1


def test_options_are_those_of_a_stack_and_checked():
    config = minrnn.StackConfig(dim=8, backbone=("mingru", "attention"), num_layers=2)
    made = StackEncoderFactory(4, config)
    again = StackEncoderFactory.deserialize(made.serialize())
    assert again == StackEncoderFactory.from_json(made.to_json())
    assert made.stack == dataclasses.asdict(config)
    assert again.create((4,)).stack.config == config
    with pytest.raises(ValueError, match="did you mean 'num_layers'"):
        factory(num_layer=8)
    with pytest.raises(ValueError, match="at least 1"):
        StackEncoderFactory(0)
    for shape in ((8,), (12, 3), (3, 8), (8, 6, 6)):
        with pytest.raises(ValueError, match="no stack of 6 frames"):
            factory().create(shape)


def test_acting_without_frames_is_told_with_the_wrapper():
    algorithm = make(DISCRETE)
    fit(algorithm, DISCRETE, 1)
    with pytest.raises(ValueError, match=r"act on d3rlpy.envs.FrameStack\(env, 6\)"):
        algorithm.predict(np.zeros((1, 3), np.float32))
