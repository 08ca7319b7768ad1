"""RWKV against its equations without a stabiliser, and with numbers that need one."""

import pytest
import torch

from minrnn import RWKV, check_mixer
from minrnn.scan import kernel_op
from minrnn.scan.backends import backends
from minrnn.scan.wkv import wkv_of_scans, wkv_scan

needs_numba = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


@pytest.fixture(params=["compiled", "scans"])
def how(request, monkeypatch):
    if request.param == "scans":
        monkeypatch.setattr(kernel_op, "cpu_kernels", lambda _: None)
    elif "numba" not in backends():
        pytest.skip("needs numba")
    return request.param


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
def test_outputs_and_gradients_are_those_of_the_equations(how, expansion, density):
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
def test_keys_may_be_huge(how, size):
    cell, exact = twins(8)
    x = size * torch.randn(2, 60, 8)
    y, state = cell(x)
    wanted, _ = exact(x.double())
    torch.testing.assert_close(y.double(), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    more, _ = cell.step(1e-3 * x[:, 0], state)
    assert more.isfinite().all()
    grads = torch.autograd.grad(y.sum(), list(cell.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


def test_decays_may_be_huge_or_nothing(how):
    cell, exact = twins(8)
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


def arguments(batch, length, width, dtype, density):
    torch.manual_seed(width)
    k, v = 3 * torch.randn(2, batch, length, width, dtype=torch.float64)
    w, u = torch.randn(2, width, dtype=torch.float64)
    start = torch.randn(batch, 3, width, dtype=torch.float64)
    start[:, 1] = 1 + start[:, 1].abs()
    resets = torch.rand(batch, length) < density if density else None
    return [z.to(dtype).requires_grad_() for z in (k, v, -w.exp(), u, start)], resets


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.4])
@pytest.mark.parametrize("shape", [(3, 60, 37), (1, 200, 16), (2, 2, 1)])
def test_kernels_are_the_scans_in_float64(shape, density, dtype):
    given, resets = arguments(*shape, dtype, density)
    exact = [z.detach().double().requires_grad_() for z in given]
    got, wanted = wkv_scan(*given, resets), wkv_of_scans(*exact, resets)
    weights = [torch.randn_like(z) for z in wanted]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    both = []
    for results, leaves in ((got, given), (wanted, exact)):
        loss = sum((z.double() * w).sum() for z, w in zip(results, weights, strict=True))
        both.append([*results, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*both, strict=True):
        scale = tolerance * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=scale)


@needs_numba
def test_the_op_is_one_that_torch_can_rely_on():
    given, resets = arguments(2, 6, 3, torch.float64, 0.3)
    torch.library.opcheck(torch.ops.minrnn.wkv.default, (*given, resets))


@needs_numba
def test_threads_change_nothing(monkeypatch):
    from minrnn.scan.cpu import launch

    given, resets = arguments(3, 30, 40, torch.float32, 0.1)
    one = wkv_scan(*given, resets)
    monkeypatch.setattr(launch, "GRAIN", 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        four = wkv_scan(*given, resets)
        grads = torch.autograd.grad(four[0].sum(), given)
    finally:
        torch.set_num_threads(before)
    for got, wanted in zip(four, one, strict=True):
        assert torch.equal(got, wanted)
    for got, wanted in zip(grads, torch.autograd.grad(one[0].sum(), given), strict=True):
        torch.testing.assert_close(got, wanted)


def test_no_units_are_refused():
    with pytest.raises(ValueError, match="no hidden units"):
        RWKV(2, expansion=0.1)
