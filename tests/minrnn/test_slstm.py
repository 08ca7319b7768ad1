"""sLSTM: compiled, by a loop, and by the equations."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from minrnn import SLSTM, check_mixer
from minrnn.scan.backends import backends
from minrnn.scan.slstm import slstm_scan

needs_numba = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


def make(dim=6, num_heads=2):
    """Return a cell whose units talk to each other, as they do after training."""
    torch.manual_seed(0)
    cell = SLSTM(dim, num_heads=num_heads)
    torch.nn.init.normal_(cell.recurrent, std=0.5)
    torch.nn.init.normal_(cell.input.weight)
    return cell


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_contract_with_recurrent_weights(form, dtype):
    check_mixer(make(), dtype=dtype)


def test_it_is_the_equations(form):
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
def test_gates_may_be_huge(form, size):
    cell = make()
    x = (size * torch.randn(2, 30, 6)).requires_grad_()
    y, state = cell(x)
    exact, ends = make().double()(x.double())
    torch.testing.assert_close(y.double(), exact, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(state[3].double(), ends[3], rtol=1e-4, atol=1e-3)
    grads = torch.autograd.grad(y.sum() + state[1].sum(), [x, *cell.parameters()])
    assert all(g.isfinite().all() for g in grads)


def test_the_logarithm_of_a_forget_gate_is_exact(form):
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


def test_autocast_does_not_reach_the_recurrence(form):
    cell = make()
    x = torch.randn(2, 20, 6)
    gates, matrix = cell._project(x), cell._matrix()
    start = cell._start(x, None, None)
    wanted = torch.autograd.grad(slstm_scan(gates, matrix, start)[0].sum(), cell.recurrent)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = cell(x)
        _, state = cell.step(x[:, 0])
        assert all(leaf.dtype == torch.float32 for leaf in state)
        if form == "kernel":
            loss = slstm_scan(gates.detach(), matrix, start)[0].sum()
            torch.testing.assert_close(torch.autograd.grad(loss, cell.recurrent), wanted)
    exact, _ = cell(x)
    torch.testing.assert_close(y, exact, rtol=0.1, atol=0.1)
