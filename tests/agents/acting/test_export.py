"""What is exported acts as the model does, alone, and says what it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import minrnn
from agents.acting import export, step_graph
from agents.acting.engines import onnx as onnx_engine
from agents.acting.policy import Policy
from agents.model.decision import DecisionModel
from agents.model.inputs import REQUIRED, Inputs
from agents.model.normaliser import Spaces
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import Trainer
from configs import ModelConfig, OptimConfig
from envs.data.sampler import WindowSampler
from envs.errors import UserError
from envs.rollout import rollout
from envs.worlds.spec import EnvSpec
from tests.support.models import tiny_model

METADATA = {
    "env_id": "Line-v0",
    "env_kwargs": {"horizon": 7},
    "obs_keys": ["c", "a"],
    "targets": [5.0, 2.0],
    "data": "a/b-v0",
    "update": 3,
    "window": None,
}
ALL = minrnn.available()


def hybrid(**options: Any) -> DecisionModel:
    """A model with a layer of every backbone."""
    torch.manual_seed(0)
    spaces = Spaces([0.5] * 3, [2.0] * 3, [-1.0, 0.0], [1.0, 4.0], 100.0, -50.0, 200.0)
    config = ModelConfig(
        backbone=",".join(ALL),
        num_layers=len(ALL),
        dim=8,
        cell={"window": 5, "num_heads": 1},
        **options,
    )
    return DecisionModel(config, spaces).eval()


def moments(rows: int, steps: int):
    """Inputs of an environment's steps: episodes start at the first, and here and there."""
    rng = np.random.default_rng(0)
    timestep = np.zeros(rows, np.int64)
    for t in range(steps):
        resets = rng.random(rows) < (1.0 if t == 0 else 0.02)
        timestep = np.where(resets, 0, timestep + 1)
        numbers = rng.normal(size=(rows, 3)), rng.uniform(-100, 300, (rows, 1))
        action = np.where(resets[:, None], 0, rng.uniform(-1, 1, (rows, 2)))
        floats = [part.astype(np.float32) for part in (*numbers, action)]
        yield Inputs(*(torch.from_numpy(part) for part in (*floats, timestep, resets)))


@torch.inference_mode()
def assert_same(model: DecisionModel, step: Any, rows: int, steps: int) -> None:
    """Compare actions and states. step: (obs, rtg, ..., state) -> (action, state), of tensors."""
    state, packed = None, torch.zeros(rows, model.stack.state_size)
    for inputs in moments(rows, steps):
        action, state = model.step(inputs, state)
        got, packed = step(*inputs[:5], packed)
        torch.testing.assert_close(got, action, rtol=0, atol=1e-5)
    torch.testing.assert_close(packed, model.stack.pack(state), rtol=1e-4, atol=1e-4)


def in_onnx_runtime(content: bytes) -> Any:
    """Return a function of tensors that runs an ONNX file."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(content, options)

    def step(*inputs: torch.Tensor) -> list[torch.Tensor]:
        feed = {
            name: x.numpy() for name, x in zip((*REQUIRED, step_graph.STATE), inputs, strict=True)
        }
        return [torch.from_numpy(x) for x in session.run(None, feed)]

    return step


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with every backbone, and its file."""
    for package in (*export.PACKAGES, "onnxruntime"):
        pytest.importorskip(package)
    model = hybrid(timestep_embedding=1000, mlp_ratio=0.0)
    path = tmp_path_factory.mktemp("export") / "step.onnx"
    export.export_onnx(model, path, METADATA)
    return model, path


def test_every_backbone_acts_in_onnx_as_in_torch_for_a_thousand_steps(exported):
    model, path = exported
    assert_same(model, in_onnx_runtime(path.read_bytes()), rows=3, steps=1000)


@pytest.mark.parametrize("rows", [1, 8])
def test_any_number_of_environments(exported, rows):
    model, path = exported
    assert_same(model, in_onnx_runtime(path.read_bytes()), rows=rows, steps=5)


def test_an_onnx_file_tells_what_it_is(exported):
    model, path = exported
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    metadata = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}["minrnn"]
    told = {key: value for key, value in METADATA.items() if key != "window"}
    assert metadata == metadata | told
    assert metadata["state_size"] == model.stack.state_size
    assert metadata["return_range"] == [-50.0, 200.0]
    assert [opset.version for opset in proto.opset_import if not opset.domain] == [export.OPSET]
    values = [*proto.graph.input, *proto.graph.output]
    assert [value.name for value in values] == [*step_graph.input_names(model), *step_graph.OUTPUTS]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"B"}
    assert not re.search(rb"/[a-z]+/[^ ]*\.py", path.read_bytes())  # no folder of this machine


@pytest.mark.parametrize("prev_action", [False, True])
def test_interleaved_tokens_in_onnx(prev_action):
    model = tiny_model(
        3, 2, tokens="interleaved", prev_action=prev_action, backbone="minlstm,mingru",
        learn_initial_state=True, norm="rmsnorm", activation="gelu",
    )  # fmt: skip
    with torch.no_grad():
        for block in model.stack.blocks:
            block.mixer.initial.normal_()
    for package in export.PACKAGES:
        pytest.importorskip(package)
    assert_same(model, in_onnx_runtime(export.onnx_bytes(model, {})), rows=2, steps=60)


def test_every_backbone_with_interleaved_tokens_as_a_graph():
    model = hybrid(tokens="interleaved", prev_action=True, conv=3)
    assert_same(model, step_graph.Step(model), rows=3, steps=60)


def test_a_pt2_file_acts_and_tells_what_it_is(tmp_path):
    model = tiny_model(
        3, 2, tokens="interleaved", prev_action=True, conv=3, backbone="mingru,attention"
    )
    export.export_pt2(model, tmp_path / "step.pt2", METADATA)
    extra = {export.PT2_METADATA: ""}
    program = torch.export.load(tmp_path / "step.pt2", extra_files=extra)
    for rows in (1, 3):
        assert_same(model, program.module(), rows=rows, steps=60)
    assert json.loads(extra[export.PT2_METADATA])["env_kwargs"] == {"horizon": 7}


def test_exporting_leaves_the_model_as_it_was():
    model = tiny_model(dropout=0.1).train()
    step_graph.trace(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_file_that_cannot_be_read_is_one_line(exported, tmp_path):
    _, path = exported
    onnx = pytest.importorskip("onnx")
    content = path.read_bytes()

    def refused(content: bytes, match: str) -> None:
        file = tmp_path / "step.onnx"
        file.write_bytes(content)
        with pytest.raises(UserError, match=match) as caught:
            onnx_engine.load(file)
        assert "\n" not in str(caught.value)

    refused(content[: len(content) // 2], "is no ONNX file, or damaged .*--export onnx")
    refused(b"not at all", "is no ONNX file, or damaged")
    proto = onnx.load_from_string(content)
    proto.metadata_props[0].value = json.dumps({"format": 99, **dict.fromkeys(SIZES, 1)})
    refused(proto.SerializeToString(), "newer minrnn .*update")
    del proto.metadata_props[:]
    refused(proto.SerializeToString(), "not made by this project's export")
    with pytest.raises(UserError, match="cannot be read"):
        onnx_engine.load(tmp_path / "nowhere.onnx")


SIZES = ("obs_dim", "action_dim", "state_size", "max_steps")


def test_a_loaded_file_acts(exported):
    model, path = exported
    engine, metadata = onnx_engine.load(path)
    assert metadata["backbone"] == model.config.backbone
    engine.start(2)
    state = None
    with torch.inference_mode():
        for inputs in moments(2, 10):
            action, state = model.step(inputs, state)
            given = inputs.map(lambda part: part.numpy())
            np.testing.assert_allclose(engine.step(given), action, atol=1e-5)


def test_without_the_packages_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript .*not installed; pip install"):
        export.export_onnx(tiny_model(), tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_a_cell_whose_step_is_no_graph_is_one_line(monkeypatch):
    model = tiny_model()
    step = type(model.stack.blocks[0].mixer).coefficients
    monkeypatch.setattr(
        type(model.stack.blocks[0].mixer),
        "coefficients",
        lambda self, x: step(self, x if x.sum() > 0 else -x),
    )
    with pytest.raises(UserError, match=r"backbone 'mingru' cannot be exported \(.*\); its cell's"):
        step_graph.trace(model)


def test_a_cell_of_the_users_that_scans_is_exported_in_both_formats(tmp_path):
    class Leaky(minrnn.SequenceMixer):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(16, 16)

        def initial_state(self, batch_size, device=None, dtype=None):
            return torch.zeros(batch_size, 16, device=device, dtype=dtype)

        def forward(self, x, state=None, resets=None):
            b = self.proj(x)
            return minrnn.scan(torch.full_like(b, 0.9), b, state, resets)

        def step(self, x, state=None, resets=None):
            y, state = self(x[:, None], state, None if resets is None else resets[:, None])
            return y[:, 0], state

    model = tiny_model(3, 2)
    for block in model.stack.blocks:
        block.mixer = Leaky()
    export.export_pt2(model, tmp_path / "step.pt2")
    program = torch.export.load(tmp_path / "step.pt2")
    assert "minrnn" not in str(program.graph)
    assert_same(model, program.module(), rows=2, steps=60)
    for package in export.PACKAGES:
        pytest.importorskip(package)
    assert_same(model, in_onnx_runtime(export.onnx_bytes(model, {})), rows=2, steps=60)


def test_an_operation_that_onnx_has_not_is_named(monkeypatch):
    for package in export.PACKAGES:
        pytest.importorskip(package)
    model = tiny_model()
    cell = type(model.stack.blocks[0].mixer)
    step = cell.coefficients
    monkeypatch.setattr(cell, "coefficients", lambda self, x: step(self, torch.special.zeta(x, x)))
    with pytest.raises(UserError, match=r"^[^\n\x1b]*No ONNX function found for [^\n\x1b]*zeta"):
        export.onnx_bytes(model, {})


EXAMPLE = """\
import json
import sys

import gymnasium
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])  # runs/.../last.onnx
metadata = json.loads(session.get_modelmeta().custom_metadata_map["minrnn"])
env = gymnasium.make(metadata["env_id"], **metadata["env_kwargs"])
obs, _ = env.reset(seed=0)
asked, t, over = max(metadata["targets"]), 0, False
to_go, state = asked, np.zeros((1, metadata["state_size"]), np.float32)
action = np.zeros((1, metadata["action_dim"]), np.float32)
while not over:
    now = {"timestep": np.array([t]), "resets": np.array([t == 0])}
    seen = {"obs": obs[None].astype(np.float32), "rtg": np.array([[to_go]], np.float32)}
    before = {"prev_action": action, "state": state}
    action, state = session.run(None, now | seen | before)
    obs, reward, terminated, truncated, _ = env.step(action[0])
    to_go, t, over = to_go - reward, t + 1, terminated or truncated
assert "torch" not in sys.modules
print(f"asked {asked:.1f}, got {asked - to_go:.1f} in {t} steps")
"""


def test_the_example_acts_where_there_is_no_torch(tmp_path):
    for package in (*export.PACKAGES, "onnxruntime"):
        pytest.importorskip(package)
    model = trained()
    metadata = {"env_id": "Pendulum-v1", "env_kwargs": {"g": 9.0}, "targets": [-900.0, -300.0]}
    export.export_onnx(model, tmp_path / "last.onnx", metadata)
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not to be imported')\n")
    (tmp_path / "act.py").write_text(EXAMPLE)
    done = subprocess.run(
        [sys.executable, "act.py", "last.onnx"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    policy = Policy(model, [-300.0], engine="eager")
    played = rollout(EnvSpec.from_json(metadata), policy, seeds=[0])
    got = re.fullmatch(r"asked -300.0, got (-\d+\.\d) in 200 steps\n", done.stdout)
    assert got, done.stdout
    assert float(got[1]) == pytest.approx(played.returns[0], abs=0.5)


def trained() -> DecisionModel:
    """Train a little on Pendulum."""

    def act(obs, reward, resets, episode):
        return -2 * np.clip(obs[:, 1:2] + 0.3 * obs[:, 2:3], -1, 1)

    data = rollout("Pendulum-v1", act, seeds=range(4), num_envs=4, record=True).trajectories
    assert data is not None
    spaces = Spaces([0.0] * 3, [1.0, 1.0, 3.0], [-2.0], [2.0], 1500.0, -1500.0, 0.0)
    torch.manual_seed(0)
    model = DecisionModel(ModelConfig(dim=16, num_layers=2), spaces)
    options = OptimConfig(updates=20, warmup=2, lr=3e-3)
    sampler = WindowSampler(data, 8, 16, seed=0)
    list(Trainer(ReturnConditioned(model), sampler, options, torch.device("cpu")).fit())
    return model.eval()


def test_the_readme_has_this_example(checkout):
    text = (checkout / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    shown = [block for block in blocks if "onnxruntime" in block]
    assert shown == [EXAMPLE]
