"""The Triton backend on a GPU: full sizes, CUDA graphs, torch.compile, offsets beyond 32 bits."""

import pytest
import torch

from minrnn.interface import state_dtype
from minrnn.scan import mingru_scan
from tests.support.scan_cases import SCANS, arguments

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

TRITON = {"backend": "triton"}
SHAPES = {
    "over time": (512, 1024, 512),
    "in chunks": (8, 4096, 512),
    "in chunks of chunks": (1, 65536, 256),
    "short": (64, 60, 256),
    "odd": (5, 1001, 333),
}
# Relative errors of a whole tensor; of half precision, its gradients are rounded.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 5e-3,
}


def case(name, batch, length, width, dtype=torch.float32, rate=0.01):
    inputs, h0, init = arguments(name, 1, 1, 1, dtype, device="cuda")
    wide = state_dtype(dtype)
    inputs = [
        torch.randn(batch, length, width, device="cuda", dtype=wide).to(dtype) for _ in inputs
    ]
    if name == "scan":
        inputs[0] = inputs[0].sigmoid()
    h0 = torch.randn(batch, width, device="cuda", dtype=wide)
    init = torch.randn(width, device="cuda", dtype=wide)
    resets = torch.rand(batch, length, device="cuda") < rate
    return [x.requires_grad_() for x in (*inputs, h0, init)], resets


def run(name, leaves, resets, grads, backend):
    *inputs, h0, init = leaves
    h, last = SCANS[name][1](*inputs, h0, resets, init=init, backend=backend)
    found = torch.autograd.grad((h, last), leaves, [g.to(h.dtype) for g in grads])
    return h.detach(), last.detach(), *found


def random_grads(leaves):
    batch, length, width = leaves[0].shape
    return (
        torch.randn(batch, length, width, device="cuda"),
        torch.randn(batch, width, device="cuda"),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["scan", "mingru-g", "minlstm-tanh-raw", "minlstm-g-normalized"])
def test_full_sizes_equal_float64_in_plain_torch(name, dtype, shape):
    torch.manual_seed(0)
    leaves, resets = case(name, *SHAPES[shape], dtype)
    grads = random_grads(leaves)
    got = run(name, leaves, resets, grads, "triton")
    exact = [x.detach().double().requires_grad_() for x in leaves]
    for one, other in zip(got, run(name, exact, resets, grads, "eager"), strict=True):
        error = (one.double() - other).norm() / other.norm()
        assert error < TOLERANCE[dtype]


def test_the_schedules_agree(monkeypatch):
    from minrnn.scan import gpu

    torch.manual_seed(0)
    leaves, resets = case("minlstm-g-normalized", 3, 3000, 260)
    grads = random_grads(leaves)
    found = []
    for chunk in (10**9, 128, 4):
        monkeypatch.setattr(gpu, "chunk_length", lambda programs, n, sms, c=chunk: min(c, n))
        found.append(run("minlstm-g-normalized", leaves, resets, grads, "triton"))
    for one, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_waits_for_the_gpu_and_every_run_gives_the_same_bits(shape):
    leaves, resets = case("mingru-g", *SHAPES[shape])
    grads = random_grads(leaves)
    first = run("mingru-g", leaves, resets, grads, "triton")
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = run("mingru-g", leaves, resets, grads, "triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("shape", ["over time", "in chunks of chunks"])
def test_a_captured_graph_computes_with_what_its_inputs_hold_later(shape):
    leaves, resets = case("mingru-g", *SHAPES[shape])
    grads = random_grads(leaves)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run("mingru-g", leaves, resets, grads, "triton")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run("mingru-g", leaves, resets, grads, "triton")
    with torch.no_grad():
        for x in leaves:
            x.normal_()
        resets.logical_not_()
    graph.replay()
    wanted = run("mingru-g", leaves, resets, grads, "triton")
    assert all(torch.equal(x, y) for x, y in zip(captured, wanted, strict=True))


def test_compiled_functions_give_the_same_gradients():
    leaves, resets = case("mingru-g", 8, 500, 256)

    def loss(k, c, h0, init):
        h, last = mingru_scan(k * 2, c, h0, resets, init=init, **TRITON)
        return h.square().sum() + last.sum()

    wanted = torch.autograd.grad(loss(*leaves), leaves)
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*leaves), leaves)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 2**20, 1024), (2**16 + 1, 64, 1024)])
def test_more_elements_than_32_bits_count(shape):
    batch, length, width = shape
    if torch.cuda.mem_get_info()[0] < 28 * batch * length * width:
        pytest.skip("the GPU has too little memory")
    k, c = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    resets = torch.zeros(batch, length, dtype=torch.bool, device="cuda")
    tail = slice(length - 50, length)  # all there is to be seen of the rest
    resets[:, tail.start] = True
    k.requires_grad_()
    h, _ = mingru_scan(k, c, None, resets, **TRITON)
    last = k[-1:, tail].detach().clone().requires_grad_()
    wanted, _ = mingru_scan(last, c[-1:, tail], backend="eager")
    torch.testing.assert_close(h[-1:, tail], wanted, rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(h[-1, tail].sum(), k)
    (grad_wanted,) = torch.autograd.grad(wanted.sum(), last)
    torch.testing.assert_close(grad[-1:, tail], grad_wanted, rtol=2e-2, atol=1e-4)
    assert not grad[-1, : tail.start].any()
