"""Gates that reach negative decays: what they are for, and that they keep their digits."""

import pytest
import torch

from minrnn import MinGRU, MinLSTM
from minrnn.scan import gates

CELLS = pytest.mark.parametrize("cell", [MinGRU, MinLSTM])


def parity_of(cell, signed):
    """Build a cell of width 1 set by hand: a one flips the state, a zero keeps it."""
    module = cell(1, candidate="linear", signed=signed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.candidate.bias.fill_(1.0)
        if cell is MinGRU:
            module.gate.weight.fill_(200.0)
            module.gate.bias.fill_(-100.0)
        else:
            module.forget_gate.weight.fill_(-200.0)
            module.forget_gate.bias.fill_(100.0)
            module.input_gate.weight.fill_(200.0)
            module.input_gate.bias.fill_(-100.0)
    return module


@CELLS
@torch.no_grad()
def test_one_signed_layer_computes_parity_exactly(cell):
    module = parity_of(cell, signed=True)
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(2, (3, 1000, 1), generator=generator)
    parity = bits.cumsum(1) % 2
    h, last = module(bits.float())
    assert torch.equal(h, parity.float())
    state, steps = None, []
    for t in range(bits.shape[1]):
        y, state = module.step(bits[:, t].float(), state)
        steps.append(y)
    assert torch.equal(torch.stack(steps, 1), h)
    assert torch.equal(state, last)


@CELLS
def test_only_a_signed_decay_is_negative(cell):
    k = torch.linspace(-200, 200, 401)
    for signed in (False, True):
        if cell is MinGRU:
            decay, _ = gates.mingru_gates(k, k, signed=signed)
        else:
            decay, _ = gates.minlstm_gates(k, -k, k, signed=signed)
        assert (decay < 0).any() == signed
        assert decay.abs().max() <= 1


def test_signed_gates_keep_their_digits_and_leave_the_input_gate_alone():
    k = torch.cat([torch.logspace(-12, 2, 50), -torch.logspace(-12, 2, 50), torch.zeros(1)])
    i, c = k.flip(0), torch.randn_like(k)
    exact = k.double()
    decay, b = gates.mingru_gates(k, c, signed=True)
    torch.testing.assert_close(decay.double(), torch.tanh(-exact / 2), rtol=1e-6, atol=0)
    assert torch.equal(b, gates.mingru_gates(k, c)[1])
    decay, b = gates.minlstm_gates(k, i, c, normalize=False, signed=True)
    torch.testing.assert_close(decay.double(), torch.tanh(exact / 2), rtol=1e-6, atol=0)
    decay, b = gates.minlstm_gates(k, i, c, signed=True)
    f, i64 = exact.sigmoid(), i.double().sigmoid()
    torch.testing.assert_close(decay.double(), (f - i64) / (f + i64), rtol=1e-5, atol=1e-6)
    assert torch.equal(b, gates.minlstm_gates(k, i, c)[1])


@CELLS
def test_gradients_are_finite_at_extreme_inputs(cell):
    torch.manual_seed(0)
    module = cell(4, signed=True)
    x = (1e4 * torch.randn(2, 9, 4)).requires_grad_()
    y, state = module(x, None, torch.rand(2, 9) < 0.3)
    (y.sum() + state.sum()).backward()
    assert all(p.grad.isfinite().all() for p in (x, *module.parameters()))
    assert "signed=True" in repr(module)
