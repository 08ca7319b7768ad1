"""The scan as a custom op: what torch.compile and torch.export need of it."""

import pytest
import torch

import minrnn
from minrnn.scan import backends, mingru_scan
from minrnn.scan.ops import GATES

CPU = [name for name in backends() if name != "triton"]


@pytest.mark.parametrize("backend", ["auto", *CPU])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("optional", [False, True])
def test_opcheck(gates, backend, optional):
    torch.manual_seed(0)
    inputs = [torch.rand(2, 5, 3, requires_grad=True) for _ in GATES[gates]]
    h0 = torch.rand(2, 3, requires_grad=True) if optional else None
    init = torch.rand(3, requires_grad=True) if optional else None
    resets = torch.rand(2, 5) < 0.5 if optional else None
    torch.library.opcheck(
        torch.ops.minrnn.scan.default, (inputs, h0, resets, init, gates, "g", backend)
    )


@pytest.mark.parametrize("backend", ["auto", *CPU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_scan_is_one_graph_with_the_same_gradients(backend, dtype):
    torch.manual_seed(0)
    k, c = (torch.randn(2, 9, 5, dtype=dtype, requires_grad=True) for _ in range(2))
    h0, init = torch.randn(2, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    resets = torch.rand(2, 9) < 0.3

    def function(k, c, h0, init):
        h, last = mingru_scan(k, c, h0, resets, backend, init=init)
        return (h * h).sum() + last.exp().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaves = (k, c, h0, init)
    wanted, got = function(*leaves), compiled(*leaves)
    assert torch.equal(got, wanted)
    grads = zip(torch.autograd.grad(got, leaves), torch.autograd.grad(wanted, leaves), strict=True)
    for one, other in grads:
        assert torch.equal(one, other)


@pytest.mark.parametrize("backbone", ["mingru", "minlstm"])
def test_a_stack_compiles_as_one_graph(backbone):
    torch.manual_seed(0)
    stack = minrnn.Stack(minrnn.StackConfig(dim=8, backbone=backbone))
    compiled = torch.compile(stack, fullgraph=True, backend="aot_eager")
    x, resets = torch.randn(2, 7, 8), torch.rand(2, 7) < 0.3
    for state in (None, stack.initial_state(2)):
        torch.testing.assert_close(compiled(x, state, resets), stack(x, state, resets))
