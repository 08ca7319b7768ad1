"""An optional input is the same in training, in acting, in every engine and in an exported file."""

import numpy as np
import pytest
import torch

from agents.acting import engines, step_graph
from agents.acting.policy import Policy
from agents.model.inputs import OPTIONAL, Inputs
from agents.training.trainer import to_tensors
from configs import cli
from envs.data.sampler import OPTIONAL_INPUTS, PackedSampler, WindowSampler
from envs.rollout import rollout
from tests.support.models import tiny_data, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
@pytest.mark.parametrize("inputs", [(), OPTIONAL])
def test_what_is_read_while_acting_is_what_was_read_in_training(tokens, inputs):
    """Actions along an episode of the data are those that teacher forcing gives."""
    data = tiny_data()
    model = tiny_model(tokens=tokens, inputs=inputs, prev_action=True, timestep_embedding=40)
    sampler = PackedSampler(data, 1, data.num_steps, inputs=inputs)
    batch = to_tensors(sampler.sample(), CPU)
    starts = np.flatnonzero(batch.timestep[0] == 0)
    row = slice(int(starts[1]), int(starts[2]))
    with torch.no_grad():
        whole = Inputs.of(batch).map(lambda part: part[:, row])
        forced = model(whole)[0][0].numpy()
    policy = Policy(model, [float(batch.rtg[0, row.start, 0])], engine="eager")
    reward = 0.0
    for t in range(row.stop - row.start):
        obs = batch.obs[:, row.start + t].numpy()
        start = np.array([t == 0])
        acted = policy(obs, np.array([reward]), start, np.zeros(1, int))[0]
        np.testing.assert_allclose(acted, np.clip(forced[t], -1, 1), atol=1e-4)
        policy._inputs.acted(batch.action[:, row.start + t].numpy())
        rtg = batch.rtg[0, :, 0]
        last = row.start + t + 1 == row.stop
        reward = 0.0 if last else float(rtg[row.start + t] - rtg[row.start + t + 1])


@pytest.mark.parametrize("name", OPTIONAL)
def test_every_optional_input_changes_the_action_and_is_in_no_batch_unless_asked_for(name):
    data, model = tiny_data(), tiny_model(inputs=(name,))
    for kind in (PackedSampler, WindowSampler):
        plain, asked = kind(data, 4, 9), kind(data, 4, 9, inputs=(name,))
        first, second = plain.sample(), asked.sample()
        assert getattr(first, name) is None
        for field in first._fields:
            if getattr(first, field) is not None:
                np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    batch = to_tensors(second, CPU)
    inputs = Inputs.of(batch)
    changed = inputs._replace(**{name: getattr(inputs, name) + 1})
    assert not torch.allclose(model(inputs)[0], model(changed)[0])


def test_the_previous_reward_is_zero_at_each_start_and_the_reward_before_elsewhere():
    data = tiny_data()
    before = OPTIONAL_INPUTS["prev_reward"](data)[:, 0]
    for start, end in zip(data.starts[:-1], data.starts[1:], strict=True):
        assert before[start] == 0
        np.testing.assert_array_equal(before[start + 1 : end], data.reward[start : end - 1])


def test_exported_steps_take_it():
    name = "onnx"
    model = tiny_model(inputs=OPTIONAL, prev_action=True)
    if reason := engines.why_not(name, model):
        pytest.skip(reason)
    assert step_graph.input_names(model)[-len(OPTIONAL) :] == OPTIONAL
    rng, acted = np.random.default_rng(0), []
    obs, reward = rng.normal(size=(6, 3, 4)), rng.normal(size=(6, 3))
    for engine in (name, "eager"):
        policy = Policy(model, [20.0], engine=engine)
        steps = [policy(obs[t], reward[t], np.full(3, t == 0), np.zeros(3, int)) for t in range(6)]
        acted.append(np.stack(steps))
    np.testing.assert_allclose(*acted, atol=1e-5)


def test_the_compiled_kernel_says_what_it_does_not_know():
    model = tiny_model(inputs=OPTIONAL)
    assert "no optional inputs, such as prev_reward" in (engines.why_not("numba", model) or "")
    assert engines.make(model).name == "eager"
    played = rollout("Pendulum-v1", Policy(tiny_model(3, 1, inputs=OPTIONAL), [9.0] * 3), range(3))
    assert np.isfinite(played.returns).all()


def test_the_flag_takes_names():
    config = cli.parse(["--model.inputs", "prev_reward", "--model.head", "tanh_gaussian"], "")
    assert (config.model.inputs, config.model.head) == (("prev_reward",), "tanh_gaussian")
