"""RWKV against its equations without a stabiliser, and with numbers that need one."""

import pytest
import torch

from minrnn import RWKV, check_mixer
from minrnn.scan import kernel_op
from minrnn.scan.backends import backends
from tests.support.equations import assert_equations, assert_survives, twins

needs_numba = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


def loop(cell, x, resets=None):
    """Compute y as the paper writes it, sums of exponentials as they are. x: (B, T, dim)."""
    w, u = -cell.decay.exp(), cell.bonus
    rows = []
    for row in range(len(x)):
        outputs = []
        for t in range(x.shape[1]):
            if t == 0 or (resets is not None and resets[row, t]):
                before = torch.zeros_like(x[row, 0])
                top = bottom = torch.zeros_like(w)
            mixed = [
                mu * x[row, t] + (1 - mu) * before
                for mu in (cell.mix_key, cell.mix_value, cell.mix_receptance)
            ]
            k, v, r = (
                linear(z)
                for linear, z in zip((cell.key, cell.value, cell.receptance), mixed, strict=True)
            )
            o = (top + (u + k).exp() * v) / (bottom + (u + k).exp())
            outputs.append(cell.out(r.sigmoid() * o))
            top, bottom = w.exp() * top + k.exp() * v, w.exp() * bottom + k.exp()
            before = x[row, t]
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


@pytest.mark.parametrize("expansion", [1.0, 2.5])
@pytest.mark.parametrize("density", [None, 0.02, 0.4])
def test_outputs_and_gradients_are_those_of_the_equations(form, expansion, density):
    cell, exact = twins(RWKV, 8, expansion=expansion)
    assert_equations(cell, exact, loop, 2 * torch.randn(2, 150, 8), density)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_keys_may_be_huge(form, size):
    cell, exact = twins(RWKV, 8)
    x = size * torch.randn(2, 60, 8)
    assert_survives(cell, x, exact(x.double())[0])


def test_decays_may_be_huge_or_nothing(form):
    cell, exact = twins(RWKV, 8)
    with torch.no_grad():
        for twin in (cell, exact):
            twin.decay.copy_(torch.tensor([-200.0, -30, -10, 0, 3, 10, 50, 80]))
    x = torch.randn(2, 500, 8)
    y, _ = cell(x)
    torch.testing.assert_close(y.double(), loop(exact, x.double()), rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(y.sum(), list(cell.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_contract_without_kernels(monkeypatch, dtype):
    monkeypatch.setattr(kernel_op, "cpu_kernels", lambda _: None)
    check_mixer(RWKV(4), dtype=dtype)


def test_no_units_are_refused():
    with pytest.raises(ValueError, match="no hidden units"):
        RWKV(2, expansion=0.1)
