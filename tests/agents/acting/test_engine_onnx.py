"""ONNX Runtime runs the exported step: as eager torch acts, whatever the rows do."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch

from agents.acting import engines
from agents.acting.engines import onnx
from agents.acting.engines.eager import Eager
from agents.model.inputs import Inputs
from envs.errors import UserError
from tests.support.models import tiny_model

CPU = torch.device("cpu")
OBS = 4


@pytest.fixture(scope="module")
def acting():
    """An engine, made once, and its model."""
    torch.manual_seed(0)
    model = tiny_model(
        OBS, tokens="interleaved", prev_action=True, backbone="minlstm,attention",
        timestep_embedding=1000,
    )  # fmt: skip
    if reason := onnx.why_not(model, CPU):
        pytest.skip(reason)
    return onnx.make(model, CPU), model


def moments(rows: int, steps: int, seed: int = 0):
    """Inputs of steps: episodes start at the first, and here and there."""
    rng = np.random.default_rng(seed)
    timestep = np.zeros(rows, np.int64)
    for t in range(steps):
        resets = rng.random(rows) < (1.0 if t == 0 else 0.02)
        timestep = np.where(resets, 0, timestep + 1)
        obs, rtg = rng.normal(size=(rows, OBS)), rng.uniform(-10, 80, (rows, 1))
        action = np.where(resets[:, None], 0, rng.uniform(-1, 1, (rows, 2)))
        yield Inputs(*(part.astype(np.float32) for part in (obs, rtg, action)), timestep, resets)


def assert_same(engine: onnx.Onnx, eager: Eager, given: Inputs[Any]) -> None:
    kept = copy.deepcopy(given)
    np.testing.assert_allclose(engine.step(given), eager.step(given), rtol=0, atol=1e-5)
    for before, after in zip(kept[:5], given[:5], strict=True):
        np.testing.assert_array_equal(before, after)


def test_it_acts_as_eager_torch_for_a_thousand_steps(acting):
    engine, model = acting
    eager = Eager(model, CPU)
    for rows, steps in ((3, 1000), (1, 20), (16, 20)):
        engine.start(rows)
        eager.start(rows)
        for given in moments(rows, steps):
            assert_same(engine, eager, given)


def test_rows_that_are_kept_go_on(acting):
    engine, model = acting
    eager = Eager(model, CPU)
    engine.start(6)
    eager.start(6)
    for rows in (np.arange(6), np.array([4, 0, 1]), np.array([2])):
        if len(rows) < 6:
            engine.keep(rows)
            eager.keep(rows)
        for given in moments(len(rows), 3):
            if len(rows) < 6:
                given.resets[:] = False
            assert_same(engine, eager, given)


def test_a_start_forgets_and_so_does_a_reset_nan_included(acting):
    engine, _ = acting
    spoilt, *steps = moments(2, 4)
    spoilt.obs[0] = np.nan
    engine.start(2)
    assert np.isnan(engine.step(spoilt)[0]).all()
    used = [engine.step(given).copy() for given in _restarted(steps)]
    engine.start(2)
    fresh = [engine.step(given).copy() for given in _restarted(steps)]
    np.testing.assert_array_equal(used, fresh)
    assert np.isfinite(fresh).all()


def _restarted(steps: list[Inputs[Any]]) -> list[Inputs[Any]]:
    return [Inputs(*given[:3], np.full(2, t), np.full(2, t == 0)) for t, given in enumerate(steps)]


def test_no_rows_and_wrong_rows_and_late_steps(acting):
    engine, _ = acting
    engine.start(0)
    assert engine.step(next(moments(1, 1)).map(lambda part: part[:0])).shape == (0, 2)
    engine.start(3)
    with pytest.raises(ValueError, match=r"expected observations \(3, 4\)"):
        engine.step(next(moments(2, 1)))
    late = next(moments(3, 1))._replace(timestep=np.full(3, 1000))
    with pytest.raises(UserError, match=r"step 1000 .* beyond the 1000 .*timestep-embedding"):
        engine.step(late)


def test_a_device_or_package_that_is_missing_is_said(monkeypatch):
    model = tiny_model()
    assert onnx.why_not(model, torch.device("cuda")) == "it runs on a CPU, not on cuda"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "install" in (onnx.why_not(model, CPU) or "")
    assert "onnx" in engines.NAMES
    assert "onnx" not in engines.available(model)
