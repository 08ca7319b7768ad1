"""Every engine acts as eager torch does, over whole episodes, with resets in between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from agents.acting import engines
from agents.acting.policy import Policy
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs
from agents.model.normaliser import Spaces
from configs import ModelConfig
from envs.errors import UserError
from tests.support.models import tiny_model

OBS, ACTION = 5, 3
HERE = ["numba", "eager"]  # the others have tests of their own


@pytest.fixture
def name() -> str:
    pytest.importorskip("numba")
    return "numba"


def model(**options: Any) -> DecisionModel:
    """A model of odd sizes, whose biases, gains and statistics are not the defaults."""
    torch.manual_seed(0)
    spaces = Spaces(
        [0.1 * i for i in range(OBS)], [1.0 + i for i in range(OBS)], [-1.0, -2.0, 0.0],
        [1.0, 2.0, 4.0], 100.0, -50.0, 200.0,
    )  # fmt: skip
    made = DecisionModel(ModelConfig(**{"dim": 20, "num_layers": 2, **options}), spaces)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def inputs(rows: int, steps: int, seed: int = 0) -> Iterator[Inputs[Any]]:
    """What a rollout gives: resets at the start and here and there, time since the last one."""
    rng = np.random.default_rng(seed)
    timestep = np.zeros(rows, np.int64)
    for t in range(steps):
        resets = rng.random(rows) < (1.0 if t == 0 else 0.05)
        timestep = np.where(resets, 0, timestep + 1)
        obs, action = rng.normal(size=(rows, OBS)), rng.uniform(-1, 1, (rows, ACTION))
        action[resets] = 0
        rtg = rng.uniform(-100, 300, (rows, 1))  # beyond the data, too
        arrays = [part.astype(np.float32) for part in (obs, rtg, action)]
        yield Inputs(*arrays, timestep, resets)


def assert_same(made: DecisionModel, name: str, rows: int, steps: int) -> None:
    fast, eager = engines.make(made, name), engines.make(made, "eager")
    fast.start(rows)
    eager.start(rows)
    for given in inputs(rows, steps):
        np.testing.assert_allclose(fast.step(given), eager.step(given), rtol=0, atol=1e-5)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"backbone": "minlstm", "forget_bias": 3.0},
    {"backbone": "minlstm", "cell": {"normalize": False}},
    {"backbone": "mingru,minlstm"},
    {"candidate": "tanh"},
    {"candidate": "linear", "backbone": "minlstm"},
    {"signed": True},
    {"signed": True, "backbone": "minlstm"},
    {"signed": True, "backbone": "minlstm", "cell": {"normalize": False}},
    {"learn_initial_state": True},
    {"expansion": 1.5},
    {"expansion": 0.5, "backbone": "minlstm", "learn_initial_state": True},
    {"norm": "rmsnorm"},
    {"activation": "gelu"},
    {"mlp_ratio": 0.0},
    {"rtg_scales": 0},
    {"timestep_embedding": 80},
    {"dim": 48, "num_layers": 1},
    {"dim": 80, "mlp_ratio": 2.0},
]


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
@pytest.mark.parametrize("prev_action", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_engine_acts_as_eager_torch(name, tokens, prev_action, options):
    made = model(tokens=tokens, prev_action=prev_action, **options)
    assert name in engines.available(made)
    assert_same(made, name, rows=3, steps=20)


@pytest.mark.parametrize("rows", [1, 7, 16])
@pytest.mark.parametrize("backbone", ["mingru", "minlstm"])
def test_they_agree_to_the_end_of_a_long_episode(name, rows, backbone):
    """The actions are fed back, and the return-to-go falls, as in an environment."""
    made = model(backbone=backbone, tokens="interleaved", prev_action=True, candidate="linear")
    fast, eager = engines.make(made, name), engines.make(made, "eager")
    fast.start(rows)
    eager.start(rows)
    acted = [np.zeros((rows, ACTION), np.float32)] * 2
    for t, (obs, rtg, _, _, _) in enumerate(row[:5] for row in inputs(rows, 1000)):
        rest = np.full(rows, t), np.full(rows, t == 0)
        both = zip((fast, eager), acted, strict=True)
        acted = [
            engine.step(Inputs(obs, rtg - t / 10, last, *rest)).copy() for engine, last in both
        ]
        np.testing.assert_allclose(*acted, rtol=0, atol=1e-5)


def test_rows_that_are_kept_go_on_and_others_leave_nothing(name):
    made = model(learn_initial_state=True)
    fast, eager = engines.make(made, name), engines.make(made, "eager")
    fast.start(70)
    eager.start(70)
    for rows in (None, np.arange(3, 60), np.array([5, 2, 40]), np.array([1])):
        if rows is not None:
            fast.keep(rows)
            eager.keep(rows)
        count = 70 if rows is None else len(rows)
        for i, given in enumerate(inputs(count, 4)):
            if rows is not None and i == 0:
                given.resets[:] = False
            np.testing.assert_allclose(fast.step(given), eager.step(given), rtol=0, atol=1e-5)
    fast.start(2)
    fresh = engines.make(made, name)
    fresh.start(2)
    for given in inputs(2, 3):
        np.testing.assert_array_equal(fast.step(given), fresh.step(given))


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
def test_with_numba_what_a_row_does_does_not_depend_on_the_rows_beside_it(tokens):
    pytest.importorskip("numba")
    made = model(tokens=tokens, prev_action=True, dim=80)
    many, one = engines.make(made, "numba"), engines.make(made, "numba")
    many.start(37)
    one.start(1)
    for given in inputs(37, 30):
        alone = one.step(given.map(lambda part: part[35:36]))
        np.testing.assert_array_equal(many.step(given)[35:36], alone)


@pytest.mark.parametrize("name", HERE)
def test_a_reset_hides_all_that_was_there(name):
    made = model(prev_action=True, tokens="interleaved")
    if name not in engines.available(made):
        pytest.skip(f"no {name} here")
    used, fresh = engines.make(made, name), engines.make(made, name)
    used.start(2)
    fresh.start(2)
    spoilt, *steps = inputs(2, 4)
    spoilt.obs[0] = np.nan
    assert np.isnan(used.step(spoilt)[0]).all()
    steps[0].resets[:], steps[0].timestep[:] = True, 0
    for given in steps:
        np.testing.assert_array_equal(used.step(given), fresh.step(given))


@pytest.mark.parametrize("options", [{"conv": 4}, {"backbone": "gru"}, {"backbone": "mingru,s4d"}])
def test_what_the_kernel_does_not_know_eager_torch_does(options):
    pytest.importorskip("numba")
    made = model(**options)
    assert "numba" not in engines.available(made)
    assert engines.make(made).name == "eager"
    with pytest.raises(
        UserError, match=r"numba cannot act with this agent: its kernel .*try .*eager"
    ):
        engines.make(made, "numba")


def test_nor_layers_with_hooks_or_other_numbers_or_devices():
    pytest.importorskip("numba")
    made = model()
    assert engines.make(made).name == "numba"
    assert engines.why_not("numba", made, "cuda") == "it runs on a CPU, not on cuda"
    handle = made.stack.blocks[0].register_forward_hook(lambda *_: None)
    assert "hook" in (engines.why_not("numba", made) or "")
    handle.remove()
    assert "float32" in (engines.why_not("numba", made.double()) or "")


def test_without_numba_eager_torch_acts(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engines.make(model()).name == "eager"
    with pytest.raises(UserError, match="pip install numba"):
        engines.make(model(), "numba")


def test_an_engine_that_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"no engine 'steam'; there is auto, .*eager"):
        engines.make(model(), "steam")


@pytest.mark.parametrize("engine", [*HERE, "window"])
def test_an_episode_longer_than_the_time_embedding_is_one_line(engine):
    made = model(timestep_embedding=3)
    if engine not in (*engines.available(made), "window"):
        pytest.skip(f"no {engine} here")
    how = {"window": 2} if engine == "window" else {"engine": engine}
    policy = Policy(made, [1.0], **how)
    for t in range(3):
        policy(np.zeros((1, OBS)), np.zeros(1), np.array([t == 0]), np.zeros(1, int))
    with pytest.raises(UserError, match=r"step 3 .* beyond the 3 .*timestep-embedding"):
        policy(np.zeros((1, OBS)), np.zeros(1), np.array([False]), np.zeros(1, int))


def test_a_step_of_another_number_of_rows_is_refused():
    pytest.importorskip("numba")
    engine = engines.make(model(), "numba")
    engine.start(3)
    with pytest.raises(ValueError, match=r"expected observations \(3, 5\)"):
        engine.step(next(inputs(2, 1)))


@pytest.mark.parametrize("engine", HERE)
def test_a_policy_acts_the_same_with_every_engine(engine):
    made = model(prev_action=True)
    if engine not in engines.available(made):
        pytest.skip(f"no {engine} here")
    rng = np.random.default_rng(0)
    first, second = (
        Policy(made, [9.0, 5.0], engine=engine),
        Policy(made, [9.0, 5.0], engine="eager"),
    )
    assert first.engine.name == engine
    for t in range(30):
        given = rng.normal(size=(2, OBS)), rng.normal(size=2), np.array([t in (0, 9), t == 0])
        index = np.array([0, 1])
        np.testing.assert_allclose(first(*given, index), second(*given, index), rtol=0, atol=1e-5)


def test_a_cpu_without_avx_acts_the_same(checkout, tmp_path):
    """As numba compiles for any CPU of this kind."""
    code = f"""
import os, sys
import torch
from agents.acting.engines.numba import tile
from tests.agents.acting.test_engines import few_actions
assert (tile.VECTORS, tile.ROWS) == (2, (2, 2, 2))
torch.save(few_actions(), {str(tmp_path / "found.pt")!r})
"""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "NUMBA_CPU_NAME": "generic"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    found = torch.load(tmp_path / "found.pt")
    torch.testing.assert_close(found, few_actions(), rtol=1e-4, atol=1e-5)


def few_actions():
    """Return the actions of a few steps in three environments, one of which is reset."""
    torch.manual_seed(0)
    policy = Policy(tiny_model(), [1.0] * 3, engine="numba")
    rng = np.random.default_rng(0)
    found = []
    for step in range(6):
        resets = np.array([step == 0, step in (0, 3), step == 0])
        actions = policy(rng.normal(size=(3, 4)), np.zeros(3), resets, np.arange(3))
        found.append(torch.from_numpy(np.array(actions)))
    return torch.stack(found)
