"""Whole sequences as exported graphs: every backbone in ONNX and in pt2, resets included."""

import subprocess
import sys
import warnings

import pytest
import torch

import minrnn
from minrnn import Stack, StackConfig

STEPS, DIM = 6, 8
OPEN = pytest.mark.skipif(
    torch.__version__ < torch.torch_version.TorchVersion("2.8"),
    reason=f"torch {torch.__version__} exports no open dimensions of these graphs; 2.8 does",
)


class Whole(torch.nn.Module):
    """A stack as a function of tensors alone."""

    def __init__(self, backbone, **options):
        super().__init__()
        torch.manual_seed(0)
        self.stack = Stack(
            StackConfig(
                dim=DIM,
                num_layers=1 if isinstance(backbone, str) else 2,
                backbone=backbone,
                **options,
            )
        ).eval()

    def forward(self, x, resets, packed):
        y, state = self.stack(x, self.stack.unpack(packed), resets)
        return y, self.stack.pack(state)


def arguments(module, rows, seed=0):
    torch.manual_seed(seed)
    resets = torch.rand(rows, STEPS) < 0.2
    with torch.no_grad():
        state = module.stack(torch.randn(rows, 4, DIM))[1]
    return torch.randn(rows, STEPS, DIM), resets, module.stack.pack(state)


def exported(module):
    batch = torch.export.Dim("B", min=1)
    shapes = {name: {0: batch} for name in ("x", "resets", "packed")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(module, arguments(module, 3), dynamic_shapes=shapes)


@pytest.mark.parametrize("backbone", minrnn.available())
def test_onnx_runtime_computes_what_torch_does(backbone):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = Whole(backbone, conv=3 if backbone == "minlstm" else 0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(exported(module), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    assert {node.domain for node in program.model_proto.graph.node} <= {"", "ai.onnx"}
    for rows in (1, 5):
        given = arguments(module, rows, seed=rows)
        feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), given, strict=True)}
        found = session.run(None, feed)
        with torch.no_grad():
            wanted = module(*given)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-4, atol=2e-5)


@OPEN
def test_a_pt2_file_needs_no_library(tmp_path):
    module = Whole(["mingru", "mamba"])
    given = arguments(module, 3)
    torch.export.save(exported(module), tmp_path / "whole.pt2")
    with torch.no_grad():
        torch.save((given, module(*given)), tmp_path / "case.pt")
    code = (
        "import sys, torch; sys.modules['minrnn'] = None\n"
        "given, wanted = torch.load('case.pt')\n"
        "found = torch.export.load('whole.pt2').module()(*given)\n"
        "[torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5) for pair in zip(found, wanted)]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@OPEN
def test_an_open_number_of_steps_keeps_the_operation():
    class Open(torch.nn.Module):
        def forward(self, a, b):
            return minrnn.scan(a, b)

    steps = torch.export.Dim("T", min=2)
    given = torch.rand(2, 6, 3), torch.randn(2, 6, 3)
    with torch.no_grad():
        program = torch.export.export(
            Open(), given, dynamic_shapes={"a": {1: steps}, "b": {1: steps}}
        )
    assert "minrnn.scan" in str(program.graph)
    longer = torch.rand(2, 60, 3), torch.randn(2, 60, 3)
    torch.testing.assert_close(program.module()(*longer)[0], minrnn.scan(*longer)[0])
