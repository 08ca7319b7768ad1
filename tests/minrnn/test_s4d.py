"""S4D against its equations, one step after the other, and as a convolution by FFT."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from minrnn.cells.s4d import S4D
from minrnn.scan.backends import backends

diagonal = importlib.import_module("minrnn.scan.diagonal")
needs_numba = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


def loop(cell, x, state=None, resets=None):
    """Do what the cell does, in complex128, straight from the equations of the paper."""
    cell, x = cell.double(), x.double()
    dt = cell.log_dt.exp()[:, None]
    a = -cell.log_A_real.exp() + 1j * cell.A_imag
    decay = torch.exp(dt * a)
    c = torch.view_as_complex(cell.C) * (decay - 1) / a
    h = torch.zeros(len(x), *decay.shape, dtype=torch.complex128)
    if state is not None:
        h = torch.view_as_complex(state.double())
    outputs = []
    for t in range(x.shape[1]):
        if resets is not None:
            h = torch.where(resets[:, t, None, None], 0, h)
        h = decay * h + x[:, t, :, None]
        outputs.append(2 * (c * h).sum(-1).real + cell.D * x[:, t])
    y = cell.out(F.gelu(torch.stack(outputs, 1)))
    return y[..., : cell.dim] * y[..., cell.dim :].sigmoid(), torch.view_as_real(h)


def fresh(dim=6, **options):
    torch.manual_seed(0)
    cell = S4D(dim, **options)
    with torch.no_grad():
        cell.log_A_real.add_(torch.randn_like(cell.log_A_real))
        cell.A_imag.add_(torch.randn_like(cell.A_imag))
    return cell


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 300])
@pytest.mark.parametrize("chance", [None, 0.0, 0.01, 0.1, 0.5, 1.0])
def test_it_is_the_recurrence_and_so_are_its_gradients(length, chance, form):
    cell = fresh(d_state=8).double()
    x = torch.randn(3, length, 6, dtype=torch.float64, requires_grad=True)
    state = torch.randn(3, 6, 4, 2, dtype=torch.float64, requires_grad=True)
    resets = None if chance is None else torch.rand(3, length) < chance
    results = []
    for go in (cell, lambda *given: loop(cell, *given)):
        y, last = go(x, state, resets)
        loss = y.sin().sum() + last.cos().sum()
        by = [x, state, *cell.parameters()]
        results.append((y, last, torch.autograd.grad(loss, by)))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chance", [None, 0.001, 0.3])
@torch.no_grad()
def test_a_long_sequence_in_float32(chance, form):
    cell = fresh()
    x = torch.randn(2, 3000, 6)
    resets = None if chance is None else torch.rand(2, 3000) < chance
    y, last = cell(x, None, resets)
    wanted, end = loop(cell, x, None, resets)
    # What float32 makes of the angle counts for as long as the cell remembers: in steps as well.
    assert (y - wanted).norm() < 1e-4 * wanted.norm()
    assert (last - end).norm() < 1e-3 * end.norm()


@torch.no_grad()
def test_it_is_the_convolution_of_the_paper(form):
    cell = fresh().double()
    x = torch.randn(2, 200, 6, dtype=torch.float64)
    a = -cell.log_A_real.exp() + 1j * cell.A_imag
    powers = (cell.log_dt.exp()[:, None] * a)[..., None] * torch.arange(200)
    c = torch.view_as_complex(cell.C) * (torch.exp(powers[..., 1]) - 1) / a
    kernel = 2 * (c[..., None] * powers.exp()).sum(1).real.t()
    y = torch.fft.irfft(torch.fft.rfft(x, 400, 1) * torch.fft.rfft(kernel, 400, 0), 400, 1)
    y = cell.out(F.gelu(y[:, :200] + cell.D * x))
    torch.testing.assert_close(cell(x)[0], F.glu(y, -1))


def test_nothing_before_a_boundary_is_looked_at(form):
    cell = fresh()
    x = torch.randn(2, 100, 6)
    x[:, :50] = float("nan")
    resets = torch.zeros(2, 100, dtype=torch.bool)
    resets[0, 50] = resets[1, [50, 70]] = True
    y, last = cell(x, torch.full((2, 6, 32, 2), float("nan")), resets)
    wanted, end = cell(x[:, 50:], None, resets[:, 50:])
    torch.testing.assert_close((y[:, 50:], last), (wanted, end), rtol=1e-4, atol=1e-5)


def test_the_gain_keeps_its_digits_where_steps_are_small():
    cell = fresh(dt_min=1e-6, dt_max=1e-6)
    weight = cell._system(torch.float32)[3]
    exact = cell.double()._system(torch.float64)[3]
    torch.testing.assert_close(weight.double(), exact, rtol=1e-5, atol=1e-12)


def test_extreme_inputs_stay_finite(form):
    cell = fresh()
    with torch.no_grad():
        cell.log_A_real.fill_(12.0)  # forgets within a step: every power underflows
    y, last = cell(1e4 * torch.randn(2, 200, 6), None, torch.rand(2, 200) < 0.1)
    (y.sum() + last.sum()).backward()
    assert all(p.grad.isfinite().all() for p in cell.parameters())


def test_a_and_dt_are_not_decayed():
    cell = fresh()
    assert cell.no_weight_decay() < {name for name, _ in cell.named_parameters()}


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="it is even"):
        S4D(4, d_state=5)
    with pytest.raises(ValueError, match="dt_min <= dt_max"):
        S4D(4, dt_min=0.2)
