"""Mamba against its equations, one step after the other."""

import math

import pytest
import torch
import torch.nn.functional as F

from minrnn.cells.mamba import Mamba
from minrnn.scan import kernel_op


def loop(cell, x, state, resets=None):
    """Do what the cell does, in float64, straight from the equations of the paper."""
    cell, x = cell.double(), x.double()
    past, h = (leaf.double() for leaf in state)
    a = -cell.A_log.exp()
    outputs = []
    for t in range(x.shape[1]):
        if resets is not None:
            past = torch.where(resets[:, t, None, None], 0, past)
            h = torch.where(resets[:, t, None, None], 0, h)
        v, z = cell.in_proj(x[:, t]).split(cell.inner, -1)
        window = torch.cat([past, v[:, None]], 1)
        past = window[:, 1:]
        u = F.silu(torch.einsum("bwd,dw->bd", window, cell.conv.weight) + cell.conv.bias)
        low, b, c = cell.x_proj(u).split([cell.dt_rank, cell.d_state, cell.d_state], -1)
        dt = F.softplus(cell.dt_proj(low))
        h = (dt[..., None] * a).exp() * h + (dt * u)[..., None] * b[:, None]
        s = torch.einsum("bdn,bn->bd", h, c) + cell.D * u
        outputs.append(cell.out_proj(s * z * z.sigmoid()))
    return torch.stack(outputs, 1), (past, h)


def fresh(dim=6, **options):
    torch.manual_seed(0)
    return Mamba(dim, **options)


@pytest.mark.parametrize("length", [1, 2, 65, 200])
@pytest.mark.parametrize("chance", [None, 0.02, 0.5, 1.0])
def test_it_is_the_recurrence_and_so_are_its_gradients(length, chance):
    cell = fresh(d_state=5).double()
    x = torch.randn(3, length, 6, dtype=torch.float64, requires_grad=True)
    state = cell(torch.randn(3, 4, 6).double())[1]
    state = tuple(leaf.detach().requires_grad_() for leaf in state)
    resets = None if chance is None else torch.rand(3, length) < chance
    results = []
    for go in (cell, lambda *given: loop(cell, *given)):
        y, (past, h) = go(x, state, resets)
        loss = y.sin().sum() + past.cos().sum() + h.sin().sum()
        by = [x, *state, *cell.parameters()]
        results.append((y, past, h, torch.autograd.grad(loss, by)))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chance", [None, 0.001, 0.3])
@torch.no_grad()
def test_a_long_sequence_in_float32(chance):
    cell = fresh()
    x = torch.randn(2, 3000, 6)
    resets = None if chance is None else torch.rand(2, 3000) < chance
    y, (past, h) = cell(x, None, resets)
    wanted, end = loop(cell, x, cell.initial_state(2), resets)
    torch.testing.assert_close(y, wanted.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((past, h), tuple(leaf.float() for leaf in end), rtol=1e-4, atol=1e-4)


def test_nothing_before_a_boundary_is_looked_at():
    cell = fresh()
    x = torch.randn(2, 100, 6)
    x[:, :50] = float("nan")
    resets = torch.zeros(2, 100, dtype=torch.bool)
    resets[0, 50] = resets[1, [50, 51, 70]] = True
    state = torch.full((2, 3, 12), float("nan")), torch.full((2, 12, 16), float("nan"))
    y, end = cell(x, state, resets)
    wanted, last = cell(x[:, 50:], None, resets[:, 50:])
    torch.testing.assert_close((y[:, 50:], end), (wanted, last))


@pytest.mark.parametrize("size", [1e2, 1e6])
def test_extreme_inputs_stay_finite(size):
    cell = fresh()
    y, (_, h) = cell(size * torch.randn(2, 200, 6), None, torch.rand(2, 200) < 0.1)
    loss = y.abs().log1p().sum() + h.abs().log1p().sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in cell.parameters())


def test_it_starts_as_the_original_does():
    cell = Mamba(64, dt_min=0.01, dt_max=0.02)
    dt = F.softplus(cell.dt_proj.bias)
    assert ((dt >= 0.00999) & (dt <= 0.02001)).all()
    torch.testing.assert_close(cell.A_log.exp()[3], torch.arange(1.0, 17.0))
    assert (cell.inner, cell.dt_rank) == (128, 4)
    assert cell.dt_proj.weight.abs().max() <= 1 / math.sqrt(4)
    assert cell.no_weight_decay() == {"A_log", "D"}


def test_wrong_arguments_are_named():
    for message, options in (
        ("leaves no channels", {"expand": 0.0}),
        ("d_state must be", {"d_state": 0}),
        ("dt_rank must be", {"dt_rank": -1}),
        ("dt_min <= dt_max", {"dt_min": 0.2}),
        ("use 2 or more", {"d_conv": 1}),
    ):
        with pytest.raises(ValueError, match=message):
            Mamba(4, **options)
    with pytest.raises(TypeError, match="the state of Mamba is a tuple of 2"):
        Mamba(4)(torch.zeros(2, 3, 4), torch.zeros(2, 8, 16))


def test_without_numba_it_does_the_same(monkeypatch):
    cell, x, resets = fresh(), torch.randn(2, 40, 6), torch.rand(2, 40) < 0.1
    wanted = cell(x, None, resets)
    monkeypatch.setattr(kernel_op, "cpu_kernels", lambda _: None)
    torch.testing.assert_close(cell(x, None, resets), wanted)
