"""The scan as a custom op: what torch.compile and torch.export need of it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from minrnn.scan import backends, mingru_scan, minlstm_scan, scan
from minrnn.scan.backends import load
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


@pytest.mark.parametrize("backend", CPU)
def test_tensors_without_numbers_are_traced(backend):
    # A kernel would read memory that is not there.
    a, b = torch.rand(2, 5, 3), torch.rand(2, 5, 3)
    with FakeTensorMode() as mode:
        for x, y in ((mode.from_tensor(a), mode.from_tensor(b)), (torch.rand(2, 5, 3),) * 2):
            h, last = scan(x, y, backend=backend)
            assert isinstance(h, FakeTensor)
            assert h.shape == (2, 5, 3)
            assert last.shape == (2, 3)
    h, _ = scan(mode.from_tensor(a), mode.from_tensor(b), backend=backend)
    assert isinstance(h, FakeTensor)
    assert scan(a.to("meta"), b.to("meta"))[0].is_meta
    graph = make_fx(lambda a, b: scan(a, b, backend=backend)[0])(a, b)
    assert torch.equal(graph(b, a), scan(b, a, backend=backend)[0])
    zero = torch._efficientzerotensor(2, 5, 3)
    with pytest.raises((ValueError, RuntimeError), match=r"memory|ZeroTensor"):
        load("numba", "cpu").forward("linear", "linear", [zero, zero], None, None, None)


@pytest.mark.parametrize("backend", CPU)
def test_tensors_on_two_devices_are_refused(backend):
    a, resets = torch.rand(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool)
    for arguments in (
        (a, a.to("meta")),
        (a, a, a[:, 0].to("meta")),
        (a, a, None, resets.to("meta")),
    ):
        with pytest.raises(ValueError, match="one device"):
            scan(*arguments, backend=backend)
    with pytest.raises(ValueError, match="one device"):
        scan(a, a, backend=backend, init=a[0, 0].to("meta"))


@pytest.mark.skipif("numba" not in CPU, reason="numba is not installed")
@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": [torch.rand(1, 4, 8), torch.rand(1, 2, 4)]},
        {"inputs": [torch.rand(1, 4, 8), torch.rand(1, 4, 8).double()]},
        {"h0": torch.rand(1, 1)},
        {"h0": torch.rand(1, 8).half()},
        {"resets": torch.zeros(1, 3, dtype=torch.bool)},
        {"resets": torch.zeros(1, 4, dtype=torch.uint8)},
        {"init": torch.rand(7)},
    ],
)
def test_the_op_itself_reads_nothing_out_of_bounds(wrong):
    good = {"inputs": [torch.rand(1, 4, 8)] * 2, "h0": None, "resets": None, "init": None}
    arguments = [*(good | wrong).values(), "linear", "linear", "numba"]
    with pytest.raises(ValueError, match="expected"):
        torch.ops.minrnn.scan(*arguments)
    h = torch.rand(1, 4, 8)
    with pytest.raises(ValueError, match="expected"):
        torch.ops.minrnn.scan_backward(h, None, arguments[0], h, *arguments[1:])
    for grad in (torch.rand(1, 3, 8), h.double()):
        with pytest.raises(ValueError, match="expected"):
            torch.ops.minrnn.scan_backward(
                grad, None, good["inputs"], h, None, None, None, "linear", "linear", "numba"
            )


@pytest.mark.parametrize("backend", CPU)
def test_a_saved_state_may_come_back_in_another_layout(backend):
    torch.manual_seed(0)
    k, c = (torch.randn(3, 6, 5, requires_grad=True) for _ in range(2))
    wanted = torch.autograd.grad(mingru_scan(k, c, backend=backend)[0].sum(), (k, c))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: x.transpose(0, -1).contiguous(), lambda x: x.transpose(0, -1)
    ):
        got = torch.autograd.grad(mingru_scan(k, c, backend=backend)[0].sum(), (k, c))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("width", [1, 4])
def test_a_view_whose_sign_is_still_to_be_turned(backend, width):
    a = torch.rand(2, 5, width)
    b = torch.randn(2, 5, width, dtype=torch.complex64).conj().imag
    assert b.is_neg()
    torch.testing.assert_close(scan(a, b, backend=backend), scan(a, b.clone(), backend=backend))


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("given", ["", "h0", "h0 resets", "h0 resets init", "resets init"])
def test_an_exported_step_is_plain_torch(gates, given):
    class Step(torch.nn.Module):
        def forward(self, inputs, h0, resets, init):
            call = {"linear": scan, "mingru": mingru_scan}.get(gates, minlstm_scan)
            more = {"normalize": False} if gates == "minlstm-raw" else {}
            return call(*inputs, h0, resets, init=init, **more)

    torch.manual_seed(0)
    optional = {"h0": torch.rand(4, 3), "resets": torch.rand(4, 1) < 0.5, "init": torch.rand(3)}
    args = (
        [torch.randn(4, 1, 3) for _ in GATES[gates]],
        *(value if name in given.split() else None for name, value in optional.items()),
    )
    with torch.no_grad():
        program = torch.export.export(Step(), args)
    assert "minrnn" not in str(program.graph)
    torch.testing.assert_close(program.module()(*args), Step()(*args))
