"""The same tests over every head: bounds, losses, gradients, compiled engines and exports."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from agents.acting import engines
from agents.acting.policy import Policy
from agents.model.heads import HEADS, Head, TanhGaussianHead, register
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import Trainer
from configs import OptimConfig
from envs.data.sampler import WindowSampler
from tests.support.models import tiny_data, tiny_model

LOW, HIGH = [-1.0, 0.0], [1.0, 4.0]


def head(name, scale=1.0) -> Head:
    torch.manual_seed(0)
    made = HEADS[name](8, LOW, HIGH).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(scale)
    return made


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_actions_and_samples_are_finite_and_within_the_bounds(name, scale):
    made, y = head(name, scale), torch.randn(100, 8, dtype=torch.float64)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    for action in (made.act(y), made.sample(y, torch.Generator().manual_seed(0))):
        assert action.isfinite().all()
        assert ((low <= action) & (action <= high)).all()


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_one_number_a_step_with_finite_gradients_at_the_bounds(name):
    made, y = head(name), torch.randn(4, 5, 8, dtype=torch.float64, requires_grad=True)
    for action in (LOW, HIGH, [0.0, 2.0]):
        loss = made.loss(y, torch.tensor(action, dtype=torch.float64).expand(4, 5, 2))
        assert loss.shape == (4, 5)
        (gradient,) = torch.autograd.grad(loss.sum(), y)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_training_brings_the_loss_down_and_the_action_to_the_datas(name):
    model = tiny_model(head=name)
    trainer = Trainer(
        ReturnConditioned(model),
        WindowSampler(tiny_data(), 8, 16),
        OptimConfig(updates=150, warmup=10, lr=5e-3),
        torch.device("cpu"),
    )
    losses = []
    for update in trainer.fit():
        if update % 50 == 0:
            losses.append(trainer.metrics()["loss"])
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("engine", ["numba", "onnx"])
def test_engines_act_as_eager_torch(name, engine):
    model = tiny_model(head=name, prev_action=True)
    if reason := engines.why_not(engine, model):
        pytest.skip(reason)
    acted = []
    for which in (engine, "eager"):
        policy, rng = Policy(model, [20.0], engine=which), np.random.default_rng(0)
        for t in range(5):
            start = np.full(3, t == 0)
            action = policy(rng.normal(size=(3, 4)), np.ones(3), start, np.zeros(3, int))
        acted.append(action)
    np.testing.assert_allclose(acted[0], acted[1], atol=1e-5)


def test_the_likelihood_integrates_to_one_and_is_that_of_the_samples():
    made = TanhGaussianHead(8, [0.0], [4.0]).double()
    y = torch.randn(1, 8, dtype=torch.float64)

    def density(action: float) -> float:
        return math.exp(-made.loss(y, torch.tensor([[action]], dtype=torch.float64)).item())

    total, _ = integrate.quad(density, 0.001, 3.999, limit=200)
    assert total == pytest.approx(1.0, abs=5e-3)
    drawn = made.sample(y.expand(20_000, 8), torch.Generator().manual_seed(0))
    below, _ = integrate.quad(density, 0.001, 2.0, limit=200)
    assert (drawn < 2.0).double().mean().item() == pytest.approx(below, abs=0.015)


def test_a_head_without_a_distribution_samples_its_action():
    made, y = head("tanh"), torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(made.sample(y), made.act(y))


@pytest.mark.parametrize("window", [None, 3])
def test_a_policy_samples_on_request_and_the_seed_decides(window):
    model = tiny_model(head="tanh_gaussian")
    obs, start = np.ones((2, 4)), np.ones(2, bool)

    def act(**options):
        policy = Policy(model, [20.0], window=window, **options)
        return policy(obs, np.zeros(2), start, np.zeros(2, int))

    np.testing.assert_array_equal(act(sample=1), act(sample=1))
    assert not np.array_equal(act(sample=1), act(sample=2))
    mean = act()
    assert not np.array_equal(act(sample=1), mean)
    np.testing.assert_allclose(mean[0], mean[1], atol=1e-6)


def test_an_unknown_head_and_an_unknown_input_list_what_there_is():
    with pytest.raises(ValueError, match=r"'tank'; did you mean 'tanh'.*tanh_gaussian"):
        tiny_model(head="tank")
    with pytest.raises(ValueError, match=r"no --model.inputs 'gaol'; there is prev_reward"):
        tiny_model(inputs=("gaol",))


def test_a_name_is_one_heads(monkeypatch):
    def define(value):
        class Own(Head):
            number = value

        return Own

    monkeypatch.delitem(HEADS, "own", raising=False)  # and so afterwards
    monkeypatch.setitem(HEADS, "own", define(1))
    assert register("own")(define(2)) is HEADS["own"]  # a cell of a notebook that is run again
    assert HEADS["own"].number == 2  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("own", "tanh"):
        with pytest.raises(ValueError, match=f"the head name {name!r} is taken by"):

            @register(name)
            class Other(Head):
                pass


def test_the_range_of_huge_bounds_is_finite():
    head = HEADS["tanh"](4, [-3e38, -1.0], [3e38, 0.5])
    middle, half = head.range()
    torch.testing.assert_close(middle, torch.tensor([0.0, -0.25]))
    torch.testing.assert_close(half, torch.tensor([3e38, 0.75]))
