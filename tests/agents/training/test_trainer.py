"""The trainer learns, logs what it did, and stops when the numbers do."""

import math

import numpy as np
import pytest
import torch

from agents.acting.policy import Policy
from agents.training.objectives import ReturnConditioned
from agents.training.optimiser import schedule
from agents.training.trainer import Diverged, Trainer
from configs import OptimConfig
from envs.data.sampler import PackedSampler, WindowSampler
from envs.errors import UserError
from tests.support.models import tiny_data, tiny_model

CPU = torch.device("cpu")


def fit(trainer, every=None):
    """Train to the end; return the metrics of every so many updates, or of all."""
    return [trainer.metrics() for update in trainer.fit() if update % (every or 10**9) == 0] or [
        trainer.metrics()
    ]


@pytest.mark.parametrize("kind", [PackedSampler, WindowSampler])
@pytest.mark.parametrize("backbone", ["mingru", "minlstm"])
@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
def test_training_lowers_the_loss_on_data_that_can_be_fitted(kind, backbone, tokens):
    sampler = kind(tiny_data(), 8, 16, seed=0)
    model = tiny_model(backbone=backbone, tokens=tokens, dropout=0.0)
    trainer = Trainer(
        ReturnConditioned(model), sampler, OptimConfig(updates=120, warmup=10, lr=3e-3), CPU
    )
    metrics = fit(trainer, every=10)
    assert len(metrics) == 12
    assert metrics[-1]["loss"] < 0.3 * metrics[0]["loss"]


def test_bfloat16_training_follows_float32():
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = OptimConfig(updates=60, warmup=5, lr=3e-3, precision=precision)
        model = tiny_model(dropout=0.0)
        trainer = Trainer(
            ReturnConditioned(model), PackedSampler(tiny_data(), 8, 16, seed=0), config, CPU
        )
        losses[precision] = fit(trainer)[-1]["loss"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.15)


def test_the_same_seed_gives_the_same_weights():
    def weights():
        model = tiny_model(dropout=0.1)
        sampler = WindowSampler(tiny_data(), 4, 8, seed=3)
        torch.manual_seed(7)
        fit(Trainer(ReturnConditioned(model), sampler, OptimConfig(updates=15, warmup=2), CPU))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(weights(), weights(), rtol=0, atol=0)


def updated(monkeypatch, compile_with, **options):
    """Return the weights after ten updates, compiled by `compile_with`."""
    monkeypatch.setattr(torch, "compile", compile_with)
    torch.manual_seed(0)
    model = tiny_model(dropout=0.0)
    sampler = WindowSampler(tiny_data(), 4, 8, seed=3)
    trainer = Trainer(
        ReturnConditioned(model), sampler, OptimConfig(updates=10, warmup=2, **options), CPU
    )
    fit(trainer)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_step_is_one_graph_and_trains_to_the_same_weights(monkeypatch, precision):
    graphs = []

    def trace(function, *, fullgraph, **_):  # all that needs no C++ compiler
        assert fullgraph
        graphs.append(function)
        return plain_compile(function, fullgraph=True, backend="aot_eager")

    plain_compile = torch.compile
    eager = updated(monkeypatch, trace, precision=precision)
    assert not graphs  # on a CPU "auto" does not
    compiled = updated(monkeypatch, trace, precision=precision, compile="on")
    assert len(graphs) == 1
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


def test_a_failing_compiler_is_noted_and_training_goes_on(monkeypatch, caplog):
    def broken(function, **_):
        def call(batch):
            raise RuntimeError("no g++ here\nand more")

        return call

    eager = updated(monkeypatch, torch.compile)
    assert torch.equal(updated(monkeypatch, broken, compile="on"), eager)
    assert [record.getMessage() for record in caplog.records] == [
        "training continues uncompiled, as with --optim.compile off: no g++ here"
    ]


def test_an_error_after_the_first_updates_is_not_hidden(monkeypatch):
    def late(function, **_):
        calls = []

        def call(batch):
            calls.append(0)
            if len(calls) == 5:
                raise RuntimeError("later")
            return function(batch)

        return call

    with pytest.raises(RuntimeError, match="later"):
        updated(monkeypatch, late, compile="on")

    def full(function, **_):
        def call(batch):
            raise torch.OutOfMemoryError("out of memory")

        return call

    with pytest.raises(torch.OutOfMemoryError):
        updated(monkeypatch, full, compile="on")


def test_the_moving_average_acts_and_the_raw_weights_train():
    config = OptimConfig(updates=20, warmup=0, ema=0.9, lr=1e-2)
    trainer = Trainer(
        ReturnConditioned(tiny_model()), WindowSampler(tiny_data(), 4, 8, seed=0), config, CPU
    )
    average = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for count in range(20):
        trainer._update()
        for name, p in trainer.model.named_parameters():  # the first update sets the average
            average[name] = p.detach().clone() if count == 0 else 0.9 * average[name] + 0.1 * p
    for name, p in trainer.acting_model.named_parameters():
        torch.testing.assert_close(p.detach(), average[name].detach(), rtol=1e-4, atol=1e-6)
    assert trainer.acting_model is not trainer.model


def test_buffers_that_training_changes_are_those_of_the_moving_average_too():
    model = tiny_model()
    model.head.register_buffer("seen", torch.zeros(()))
    objective = ReturnConditioned(model)
    objective.after_update = lambda: model.head.seen.add_(1)
    config = OptimConfig(updates=3, warmup=1, ema=0.9)
    trainer = Trainer(objective, WindowSampler(tiny_data(), 4, 8, seed=0), config, CPU)
    assert [float(trainer.acting_model.head.seen) for _ in trainer.fit()] == [1.0, 2.0, 3.0]


class Noting(WindowSampler):
    """Notes the episodes of each batch as it is drawn."""

    def sample(self):
        batch = super().sample()
        self.noted.append(self.last_episodes())
        return batch


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_diverged_run_stops_with_its_update_and_the_episodes_of_its_batch(where):
    sampler = Noting(tiny_data(), 4, 8, seed=0)
    sampler.noted = []
    trainer = Trainer(
        ReturnConditioned(tiny_model()), sampler, OptimConfig(updates=50, warmup=0, lr=1e-3), CPU
    )
    for update in trainer.fit():
        if update == 5:
            trainer.metrics()
        if update == 7 and where == "loss":
            with torch.no_grad():
                trainer.model.head.mean.weight.fill_(math.nan)
        if update == 7 and where == "gradient":  # that is infinite, where the loss is not
            trainer.model.head.mean.weight.register_hook(lambda grad: grad * math.inf)
        if update == 10:
            break
    episodes = sampler.noted[7]
    with pytest.raises(Diverged, match=r"not finite at update 8 .*lower --optim.lr") as caught:
        trainer.metrics()
    assert isinstance(caught.value, UserError)
    assert caught.value.update == 8
    assert caught.value.episodes == episodes
    assert ("loss nan" in str(caught.value)) == (where == "loss")
    assert ", ".join(map(str, episodes)) in str(caught.value)


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e3])
def test_each_step_is_taken_with_its_own_gradients_clipped(clip, monkeypatch):
    model = tiny_model(dropout=0.0)
    sampler = WindowSampler(tiny_data(), 4, 8, seed=0)
    config = OptimConfig(updates=5, warmup=1, clip=clip)
    trainer = Trainer(ReturnConditioned(model), sampler, config, CPU)
    step, taken = trainer.optimizer.step, []

    def note(*args, **kwargs):
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        taken.append(float(torch.cat(grads).norm()))
        return step(*args, **kwargs)

    monkeypatch.setattr(trainer.optimizer, "step", note)
    logged = [trainer.metrics()["grad_norm"] for _ in trainer.fit()]
    assert len(set(logged)) == 5
    assert min(logged) > 1e-2
    assert taken == pytest.approx([min(norm, clip or math.inf) for norm in logged], rel=1e-2)


def test_the_schedule_warms_up_and_ends_at_zero():
    config = OptimConfig(updates=100, warmup=10)
    rates = np.array([schedule(config, update) for update in range(101)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[100] == pytest.approx(0)
    constant = OptimConfig(updates=100, warmup=10, schedule="constant")
    assert [schedule(constant, u) for u in (0, 9, 10, 99)] == [0.1, 1, 1, 1]


def test_dropout_is_on_in_every_update_though_the_model_acts_in_between():
    def weights(acts):
        torch.manual_seed(0)
        model = tiny_model(dropout=0.5).train()
        objective, sampler = ReturnConditioned(model), WindowSampler(tiny_data(), 4, 8, seed=0)
        trainer = Trainer(objective, sampler, OptimConfig(updates=6, warmup=1), CPU)
        for _ in trainer.fit():
            if acts:
                start, zero = np.ones(1, bool), np.zeros(1, int)
                Policy(model, [1.0])(np.ones((1, 4)), np.zeros(1), start, zero)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(weights(acts=True), weights(acts=False), rtol=0, atol=0)
