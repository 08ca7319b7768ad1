"""sLSTM: compiled, by a loop, and by the equations."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from minrnn import SLSTM, check_mixer
from minrnn.scan import kernel_op
from minrnn.scan.backends import backends
from minrnn.scan.slstm import slstm_loop, slstm_scan

needs_numba = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


@pytest.fixture(params=["compiled", "loop"])
def how(request, monkeypatch):
    if request.param == "loop":
        monkeypatch.setattr(kernel_op, "cpu_kernels", lambda _: None)
    elif "numba" not in backends():
        pytest.skip("needs numba")
    return request.param


def make(dim=6, num_heads=2):
    """Return a cell whose units talk to each other, as they do after training."""
    torch.manual_seed(0)
    cell = SLSTM(dim, num_heads=num_heads)
    torch.nn.init.normal_(cell.recurrent, std=0.5)
    torch.nn.init.normal_(cell.input.weight)
    return cell


def arguments(batch, length, heads, size, dtype, density):
    torch.manual_seed(size)
    x = 3 * torch.randn(batch, length, heads, 4, size, dtype=torch.float64)
    r = torch.randn(heads, size, 4, size, dtype=torch.float64) / size**0.5
    start = torch.randn(batch, 4, heads, size, dtype=torch.float64)
    start[:, 2] = 1 + start[:, 2].abs()
    resets = torch.rand(batch, length) < density
    return [z.to(dtype).requires_grad_() for z in (x, r, start)], resets if density else None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_contract_with_recurrent_weights(how, dtype):
    check_mixer(make(), dtype=dtype)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.4])
@pytest.mark.parametrize("shape", [(3, 60, 2, 5), (2, 90, 1, 16), (2, 30, 3, 1), (2, 20, 1, 37)])
def test_kernels_are_the_loop_in_float64(shape, density, dtype):
    given, resets = arguments(*shape, dtype, density)
    exact = [z.detach().double().requires_grad_() for z in given]
    got, wanted = slstm_scan(*given, resets), slstm_loop(*exact, resets)
    weights = [torch.randn_like(z) for z in wanted]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    both = []
    for results, leaves in ((got, given), (wanted, exact)):
        loss = sum((z.double() * w).sum() for z, w in zip(results, weights, strict=True))
        both.append([*results, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*both, strict=True):
        scale = tolerance * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=scale)


def test_it_is_the_equations(how):
    cell = make().double()
    x = torch.randn(1, 40, 6, dtype=torch.float64)
    y, state = cell(x)
    w, b = cell.input.weight.view(2, 4, 3, 6), cell.input.bias.view(2, 4, 3)
    for head in range(2):
        r = cell.recurrent[head]  # (from, gate, to)
        h = c = n = x.new_zeros(3)
        for t in range(40):
            i, f, z, o = w[head] @ x[0, t] + b[head] + torch.einsum("j,jgk->gk", h, r)
            # Without a stabiliser.
            c = f.sigmoid() * c + i.exp() * z.tanh()
            n = f.sigmoid() * n + i.exp()
            h = o.sigmoid() * c / n
            own = slice(3 * head, 3 * head + 3)
            normed = torch.nn.functional.layer_norm(h, (3,)) * cell.norm[own]
            torch.testing.assert_close(y[0, t, own], normed)
        scale = state[3][0, own].exp()
        torch.testing.assert_close(state[0][0, own], h)
        torch.testing.assert_close(state[1][0, own] * scale, c)
        torch.testing.assert_close(state[2][0, own] * scale, n)


@pytest.mark.parametrize("size", [1e2, 1e5])
def test_gates_may_be_huge(how, size):
    cell = make()
    x = (size * torch.randn(2, 30, 6)).requires_grad_()
    y, state = cell(x)
    exact, ends = make().double()(x.double())
    torch.testing.assert_close(y.double(), exact, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(state[3].double(), ends[3], rtol=1e-4, atol=1e-3)
    grads = torch.autograd.grad(y.sum() + state[1].sum(), [x, *cell.parameters()])
    assert all(g.isfinite().all() for g in grads)


def test_the_logarithm_of_a_forget_gate_is_exact(how):
    # c, n and m after one step from (0, 0, 1, 0) with i = -inf in effect: m = log sigmoid(f).
    f = torch.cat([torch.linspace(-100, 85, 4001), torch.tensor([-1e4, 1e4])]).double()
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 3e-7)):
        x = torch.zeros(len(f), 2, 1, 4, 1, dtype=dtype)
        x[:, :, 0, 0] = -1e6
        x[:, 0, 0, 1, 0], x[:, 1, 0, 1, 0] = f.to(dtype), 1e3
        start = torch.zeros(len(f), 4, 1, 1, dtype=dtype)
        start[:, 2] = 1
        _, last = slstm_scan(x, torch.zeros(1, 1, 4, 1, dtype=dtype), start)
        wanted = logsigmoid(f.to(dtype).double())
        torch.testing.assert_close(last[:, 3, 0, 0].double(), wanted, rtol=tolerance, atol=0)


@needs_numba
def test_the_op_is_one_that_torch_can_rely_on():
    given, resets = arguments(2, 6, 2, 3, torch.float64, 0.3)
    op = torch.ops.minrnn.slstm.default
    torch.library.opcheck(op, (*given, resets))


@needs_numba
def test_threads_change_nothing(monkeypatch):
    from minrnn.scan.cpu import launch

    given, resets = arguments(3, 30, 2, 8, torch.float32, 0.1)
    one = slstm_scan(*given, resets)
    monkeypatch.setattr(launch, "GRAIN", 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        four = slstm_scan(*given, resets)
        grads = torch.autograd.grad(four[0].sum(), given)
    finally:
        torch.set_num_threads(before)
    for got, wanted in zip(four, one, strict=True):
        assert torch.equal(got, wanted)
    for got, wanted in zip(grads, torch.autograd.grad(one[0].sum(), given), strict=True):
        torch.testing.assert_close(got, wanted)


def test_only_as_many_heads_as_divide_the_width():
    with pytest.raises(ValueError, match="num_heads has to divide"):
        SLSTM(8, num_heads=3)


def test_autocast_does_not_reach_the_recurrence(how):
    cell = make()
    x = torch.randn(2, 20, 6)
    gates, matrix = cell._project(x), cell._matrix()
    start = cell._start(x, None, None)
    wanted = torch.autograd.grad(slstm_scan(gates, matrix, start)[0].sum(), cell.recurrent)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = cell(x)
        _, state = cell.step(x[:, 0])
        assert all(leaf.dtype == torch.float32 for leaf in state)
        if how == "compiled":
            loss = slstm_scan(gates.detach(), matrix, start)[0].sum()
            torch.testing.assert_close(torch.autograd.grad(loss, cell.recurrent), wanted)
    exact, _ = cell(x)
    torch.testing.assert_close(y, exact, rtol=0.1, atol=0.1)
