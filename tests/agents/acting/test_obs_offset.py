"""An agent whose observations stand beside a large constant acts as one without it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import agents
from agents.acting import engines, export, step_graph
from agents.acting.engines import onnx as onnx_engine
from agents.acting.policy import Policy
from agents.model.inputs import REQUIRED, Inputs
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from agents.training.build import build
from configs import Config, DataConfig, ModelConfig, OptimConfig
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from tests.support.models import tiny_model

OFFSET = (1.7e9, 0.0, -1e12, 1e7)
METADATA = {
    "env_id": "Toy-v0",
    "data": "toy/toy-v0",
    "targets": [20.0],
    "update": 3,
    "window": None,
}


@pytest.fixture
def pair():
    """Return a model without an offset, and one that differs by it alone."""
    model = tiny_model()
    moved = copy.deepcopy(model)
    moved.normaliser.obs_offset = OFFSET
    return model, moved


def walk(steps=30, rows=3):
    rng = np.random.default_rng(0)
    # Eighths, so that float64 holds them exactly beside the offset.
    obs = np.round(8 * rng.normal(size=(steps, rows, 4))) / 8
    resets = rng.random((steps, rows)) < 0.1
    resets[0] = True
    return obs, np.where(resets, 0.0, rng.random((steps, rows))), resets


def act(policy, obs, reward, resets):
    episode = np.zeros(obs.shape[1], np.int64)
    return np.array([policy(*now, episode) for now in zip(obs, reward, resets, strict=True)])


@pytest.mark.parametrize("name", [*engines.NAMES, "window"])
def test_every_engine_takes_it_off(name, pair):
    model, moved = pair
    options = {"window": 5} if name == "window" else {"engine": name}
    if name != "window" and (reason := engines.why_not(name, model)):
        pytest.skip(reason)
    obs, reward, resets = walk()
    wanted = act(Policy(model, [20.0], **options), obs, reward, resets)
    found = act(Policy(moved, [20.0], **options), obs + np.array(OFFSET), reward, resets)
    np.testing.assert_array_equal(found, wanted)
    assert np.ptp(found, axis=0).max() > 0.01


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_exported_files_take_observations_as_the_environment_has_them(kind, pair, tmp_path):
    model, moved = pair
    path = tmp_path / f"step.{kind}"
    if kind == "pt2":
        export.export_pt2(moved, path)
        step = torch.export.load(str(path)).module()
    else:
        for package in (*export.PACKAGES, "onnxruntime"):
            pytest.importorskip(package)
        export.export_onnx(moved, path)
        session = pytest.importorskip("onnxruntime").InferenceSession(path.read_bytes())
        assert [i.type for i in session.get_inputs()][:2] == ["tensor(double)", "tensor(float)"]

        def step(*given):
            names = (*REQUIRED, step_graph.STATE)
            feed = {name: x.numpy() for name, x in zip(names, given, strict=True)}
            return [torch.from_numpy(x) for x in session.run(None, feed)]

    obs, _, _ = walk(rows=2)
    state, packed = None, torch.zeros(2, model.stack.state_size)
    for t, now in enumerate(obs):
        rest = (
            torch.full((2, 1), 10.0),
            torch.zeros(2, 2),
            torch.full((2,), t, dtype=torch.int64),
            torch.full((2,), t == 0),
        )
        raw = torch.from_numpy(now + np.array(OFFSET))
        with torch.no_grad():
            wanted, state = model.step(Inputs(torch.from_numpy(now).float(), *rest), state)
            direct, _ = moved.step(Inputs(raw, *rest)) if t == 0 else (wanted, None)
        found, packed = step(raw, *rest, packed)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(direct, wanted, rtol=0, atol=1e-6)
    if kind == "onnx":
        engine, metadata = onnx_engine.load(path)
        assert metadata["obs_dtype"] == "float64"
        engine.start(2)
        first = Inputs(
            obs[0] + np.array(OFFSET),
            np.full((2, 1), 10.0, np.float32),
            np.zeros((2, 2), np.float32),
            np.zeros(2, np.int64),
            np.ones(2, np.bool_),
        )
        with torch.no_grad():
            wanted, _ = model.step(
                Inputs(torch.from_numpy(obs[0]).float(), *map(torch.from_numpy, first[1:5]))
            )
        np.testing.assert_allclose(engine.step(first), wanted.numpy(), rtol=0, atol=1e-6)


def test_a_checkpoint_keeps_every_digit(pair, tmp_path):
    _, moved = pair
    moved.normaliser.obs_offset = (1.7e9 + 0.1, 0.0, 1.0 / 3.0, 1e12)
    save_checkpoint(tmp_path / "last", moved, METADATA)
    loaded, metadata = load_checkpoint(tmp_path / "last")
    assert loaded.normaliser.obs_offset == moved.normaliser.obs_offset
    assert "obs_offset" not in metadata
    path = tmp_path / "last" / "agent.json"
    (tmp_path / "last" / "SHA256SUMS").unlink(missing_ok=True)
    text = path.read_text(encoding="utf-8")
    assert "1000000000000.0" in text
    path.write_text(text.replace("1000000000000.0", "true"), encoding="utf-8")
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "last")


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("offset", [0.0, 1.7e9])
def test_what_is_trained_and_loaded_sees_the_same_in_any_unit(scale, offset, tmp_path):
    """Two updates on data in any unit leave the same weights, up to the digits of float32."""

    def trained(scale, offset):
        rng = np.random.default_rng(0)
        episodes = []
        for _ in range(4):
            obs, action = rng.normal(size=(21, 3)), rng.uniform(-1, 1, (20, 2))
            episodes.append(Episode(scale * (obs + offset), action, rng.random(20), False))
        data = Trajectories.from_episodes(episodes, env="Toy-v0", name="toy/toy-v0")
        config = Config(
            model=ModelConfig(dim=16, num_layers=1),
            data=DataConfig(length=10, batch_size=4, return_scale=10.0),
            optim=OptimConfig(updates=2, lr=1e-3),
        )
        trainer = build(config, data, torch.device("cpu"))
        for _ in trainer.fit():
            pass
        return trainer.acting_model

    plain, other = trained(1.0, 0.0), trained(scale, offset)
    save_checkpoint(tmp_path / "last", other, METADATA)
    obs, reward, resets = walk()
    obs = obs[..., :3]
    wanted = act(Policy(plain, [20.0]), obs, reward, resets)
    agent = agents.load(tmp_path / "last")
    found = [
        agent.act(scale * (o + offset), None if t == 0 else r, s)
        for t, (o, r, s) in enumerate(zip(obs, reward, resets, strict=True))
    ]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3)


def test_float32_observations_of_such_an_agent_are_warned_of(pair, tmp_path):
    _, moved = pair
    save_checkpoint(tmp_path / "last", moved, METADATA)
    agent = agents.load(tmp_path / "last")
    with pytest.warns(UserWarning, match="in float64, as the environment gives them"):
        agent.act(np.array(OFFSET, np.float32))
