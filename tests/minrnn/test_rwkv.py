"""RWKV against its equations without a stabiliser, and with numbers that need one."""

import pytest
import torch

from minrnn import RWKV


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


def twins(dim, **options):
    torch.manual_seed(0)
    cell, exact = RWKV(dim, **options), RWKV(dim, **options).double()
    exact.load_state_dict(cell.state_dict())
    return cell, exact


@pytest.mark.parametrize("expansion", [1.0, 2.5])
@pytest.mark.parametrize("density", [None, 0.02, 0.4])
def test_outputs_and_gradients_are_those_of_the_equations(expansion, density):
    cell, exact = twins(8, expansion=expansion)
    x = 2 * torch.randn(2, 150, 8)
    resets = None if density is None else torch.rand(2, 150) < density
    weight = torch.randn_like(x)
    y, _ = cell(x, None, resets)
    wanted = loop(exact, x.double(), resets)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad((y * weight).sum(), list(cell.parameters()))
    exactly = torch.autograd.grad((wanted * weight).sum(), list(exact.parameters()))
    for one, other in zip(got, exactly, strict=True):
        scale = 1e-5 * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=scale)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_keys_may_be_huge(size):
    cell, exact = twins(8)
    x = size * torch.randn(2, 60, 8)
    y, state = cell(x)
    wanted, _ = exact(x.double())
    torch.testing.assert_close(y.double(), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    more, _ = cell.step(1e-3 * x[:, 0], state)
    assert more.isfinite().all()
    grads = torch.autograd.grad(y.sum(), list(cell.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


def test_decays_may_be_huge_or_nothing():
    cell, exact = twins(8)
    with torch.no_grad():
        for twin in (cell, exact):
            twin.decay.copy_(torch.tensor([-200.0, -30, -10, 0, 3, 10, 50, 80]))
    x = torch.randn(2, 500, 8)
    y, _ = cell(x)
    torch.testing.assert_close(y.double(), loop(exact, x.double()), rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(y.sum(), list(cell.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


def test_no_units_are_refused():
    with pytest.raises(ValueError, match="no hidden units"):
        RWKV(2, expansion=0.1)
