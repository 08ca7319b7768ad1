"""mLSTM in chunks against its steps, written as the paper does."""

import pytest
import torch
from torch.nn.functional import layer_norm, logsigmoid

from minrnn import MLSTM
from tests.support.equations import assert_equations


def loop(cell, x, resets=None):
    """Compute y and m step by step. x: (B, T, dim), in the dtype of the cell."""
    batch, length, dim = x.shape
    heads, size = cell.num_heads, dim // cell.num_heads
    c, n = x.new_zeros(batch, heads, size, size), x.new_zeros(batch, heads, size)
    m, rows = x.new_zeros(batch, heads), []
    for t in range(length):
        if resets is not None:
            keep = (~resets[:, t]).to(x.dtype)
            c, n, m = c * keep[:, None, None, None], n * keep[:, None, None], m * keep[:, None]
        now = x[:, t]
        q, k, v = (z(now).view(batch, heads, size) for z in (cell.query, cell.key, cell.value))
        i, f = cell.input_gate(now), logsigmoid(cell.forget_gate(now))
        old, m = m, torch.maximum(f + m, i)
        forget, enter = (f + old - m).exp(), (i - m).exp()
        k = k / size**0.5
        outer = torch.einsum("bhi,bhj->bhij", k, v)
        c = forget[..., None, None] * c + enter[..., None, None] * outer
        n = forget[..., None] * n + enter[..., None] * k
        bottom = torch.maximum(torch.einsum("bhi,bhi->bh", q, n).abs(), (-m).exp()) + 1e-6
        h = torch.einsum("bhi,bhij->bhj", q, c) / bottom[..., None]
        h = layer_norm(h, (size,)).reshape(batch, dim) * cell.norm
        rows.append(cell.out(cell.output_gate(now).sigmoid() * h))
    return torch.stack(rows, 1), m


def twins(dim, gates=1.0, **options):
    """Return a cell whose gates read x, and itself in float64."""
    torch.manual_seed(0)
    cell, exact = MLSTM(dim, **options), MLSTM(dim, **options).double()
    for gate in (cell.input_gate, cell.forget_gate):
        torch.nn.init.normal_(gate.weight, std=gates)
    exact.load_state_dict(cell.state_dict())
    return cell, exact


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("length", [2, 63, 64, 65, 130, 256])
@pytest.mark.parametrize("density", [None, 0.01, 0.4])
def test_chunks_are_the_steps(num_heads, length, density):
    _, cell = twins(8, num_heads=num_heads)
    x = torch.randn(2, length, 8, dtype=torch.float64)
    resets = None if density is None else torch.rand(2, length) < density
    y, state = cell(x, None, resets)
    wanted, m = loop(cell, x, resets)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(state[2], m)


@pytest.mark.parametrize("density", [None, 0.02])
def test_gradients_in_float32_are_those_of_the_steps_in_float64(density):
    cell, exact = twins(16, gates=0.3)
    x = torch.randn(2, 150, 16)
    assert_equations(cell, exact, lambda *given: loop(*given)[0], x, density, tolerance=1e-4)


@pytest.mark.parametrize("bias", [-200.0, -20.0, 20.0, 200.0])
@pytest.mark.parametrize("forget", [-300.0, 0.0, 300.0])
def test_gates_may_be_anything(bias, forget):
    cell, exact = twins(8, gates=10.0)
    with torch.no_grad():
        for twin in (cell, exact):
            twin.input_gate.bias.fill_(bias)
            twin.forget_gate.bias.fill_(forget)
    x = torch.randn(2, 150, 8)
    y, state = cell(x)
    wanted, last = loop(exact, x.double())
    torch.testing.assert_close(y.double(), wanted, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(state[2].double(), last, rtol=1e-4, atol=1e-3)
    loss = y.sum() + sum(leaf.sin().sum() for leaf in state)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(cell.parameters())))


def test_what_is_no_number_spoils_the_rest_of_its_episode_alone():
    cell, _ = twins(8)
    x = torch.randn(1, 100, 8)
    resets = torch.zeros(1, 100, dtype=torch.bool)
    resets[:, [30, 50]] = True
    wanted, _ = cell(x, None, resets)
    x[:, 40, 3] = torch.inf
    y, state = cell(x, None, resets)
    spoilt = y.isnan().any(-1)[0]
    assert spoilt[40:50].all()
    assert not spoilt[:40].any()
    torch.testing.assert_close(y[:, 50:], wanted[:, 50:])
    assert all(leaf.isfinite().all() for leaf in state)
    _, state = cell(x[:, :45], None, resets[:, :45])
    assert all(leaf.isnan().all() for leaf in state)
