"""GRU and LSTM, and torch's own modules with the same weights."""

import pytest
import torch
from torch import nn

from minrnn import GRU, LSTM, pack

CELLS = pytest.mark.parametrize("cell", [GRU, LSTM])
TORCH = {GRU: (nn.GRU, nn.GRUCell), LSTM: (nn.LSTM, nn.LSTMCell)}


def twins(cell, dim=6, **options):
    """Build a cell, torch's module for sequences and its cell for one step, all of one mind."""
    torch.manual_seed(0)
    ours = cell(dim, **options).double()
    module, single = (kind(dim, ours.hidden).double() for kind in TORCH[cell])
    module.load_state_dict(ours.rnn.state_dict())
    single.load_state_dict({k.removesuffix("_l0"): v for k, v in ours.rnn.state_dict().items()})
    return ours, module, single


def loop(single, x, state, resets):
    """Walk with torch's cell for one step, clearing by hand."""
    outputs = []
    for t in range(x.shape[1]):
        keep = (~resets[:, t]).double().unsqueeze(1)
        if isinstance(state, tuple):
            h, c = state
            state = single(x[:, t], (h * keep, c * keep))
            outputs.append(state[0])
        else:
            state = single(x[:, t], state * keep)
            outputs.append(state)
    return torch.stack(outputs, 1), state


@CELLS
def test_without_resets_it_is_the_module_of_torch(cell):
    ours, module, _ = twins(cell)
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    y, state = ours(x)
    wanted, last = module(x.transpose(0, 1))
    torch.testing.assert_close(y, wanted.transpose(0, 1))
    last = tuple(leaf[0] for leaf in last) if cell is LSTM else last[0]
    torch.testing.assert_close(state, last)


@CELLS
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_with_resets_it_is_the_loop_over_the_cell_of_torch(cell, rate):
    ours, _, single = twins(cell)
    x = torch.randn(4, 150, 6, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(4, 150) < rate
    resets[1:3, 0] = True
    with torch.no_grad():
        _, start = ours(torch.randn(4, 3, 6, dtype=torch.float64))
    weight = torch.randn(4, 150, 6, dtype=torch.float64)
    y, state = ours(x, start, resets)
    wanted, last = loop(single, x, start, resets)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(state, last)
    got = torch.autograd.grad((y * weight).sum() + pack(state).sum(), [x, *ours.rnn.parameters()])
    by = torch.autograd.grad((wanted * weight).sum() + pack(last).sum(), [x, *single.parameters()])
    torch.testing.assert_close(got, by)


@CELLS
def test_float32_is_close_to_float64_however_large_the_input(cell):
    ours, _, _ = twins(cell)
    x = torch.randn(2, 400, 6) * torch.tensor([1.0, 1e4]).view(2, 1, 1)
    resets = torch.rand(2, 400) < 0.02
    exact, _ = ours(x.double(), None, resets)
    y, _ = ours.float()(x, None, resets)
    assert y.isfinite().all()
    torch.testing.assert_close(y[0], exact[0].float(), rtol=1e-5, atol=1e-6)


@CELLS
def test_a_reset_at_the_first_step_alone_needs_no_cutting(cell, monkeypatch):
    ours, _, _ = twins(cell)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    resets = torch.zeros(2, 5, dtype=torch.bool)
    resets[:, 0] = True
    monkeypatch.setattr("minrnn.cells.fused._Segments", None)
    start = ours.initial_state(2)
    torch.testing.assert_close(ours(x, start, resets)[0], ours(x)[0])


@CELLS
def test_a_learned_initial_state_is_returned_to_at_resets_and_trained(cell):
    ours, _, _ = twins(cell, learn_initial_state=True)
    nn.init.normal_(ours.initial)
    x = torch.randn(1, 6, 6, dtype=torch.float64)
    resets = torch.tensor([[False, False, False, True, False, False]])
    packed, _ = ours(x, None, resets)
    alone, _ = ours(x[:, 3:])
    torch.testing.assert_close(packed[:, 3:], alone)
    (by_reset,) = torch.autograd.grad(packed[:, 3:].sum(), ours.initial)
    (by_start,) = torch.autograd.grad(alone.sum(), ours.initial)
    torch.testing.assert_close(by_reset, by_start)
    assert (by_reset != 0).all()
    assert ours.no_weight_decay() == {"initial"}
    assert GRU(4).no_weight_decay() == set()


def test_a_forget_bias_is_added_to_the_forget_gate_alone():
    plain, biased = twins(LSTM)[0], twins(LSTM, forget_bias=2.0)[0]
    change = biased.rnn.bias_ih_l0 - plain.rnn.bias_ih_l0
    torch.testing.assert_close(
        change, torch.tensor([0.0, 2.0, 0.0, 0.0]).double().repeat_interleave(6)
    )
    torch.testing.assert_close(biased.rnn.bias_hh_l0, plain.rnn.bias_hh_l0)


@CELLS
def test_expansion_widens_the_state_and_projects_down(cell):
    ours = cell(4, expansion=2.5)
    y, state = ours(torch.randn(2, 3, 4))
    assert y.shape == (2, 3, 4)
    assert pack(state).shape == (2, 10 if cell is GRU else 20)
    assert not list(cell(4).down.parameters())


@CELLS
def test_initial_state_follows_the_module_or_what_is_asked(cell):
    def dtypes(state):
        return {leaf.dtype for leaf in (state if isinstance(state, tuple) else (state,))}

    module = cell(4)
    assert dtypes(module.initial_state(3)) == {torch.float32}
    assert dtypes(module.initial_state(3, dtype=torch.float64)) == {torch.float64}
    assert dtypes(module.double().initial_state(3)) == {torch.float64}
    assert dtypes(module.bfloat16().initial_state(3)) == {torch.float32}
    meta = module.initial_state(3, device="meta")
    assert (meta[0] if isinstance(meta, tuple) else meta).device.type == "meta"


def test_wrong_arguments_are_named():
    x = torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match="leaves no hidden units"):
        GRU(4, expansion=0.0)
    with pytest.raises(ValueError, match=r"x must be \(B, T, 4\)"):
        GRU(4)(x[:, 0])
    with pytest.raises(ValueError, match="use forward for more"):
        GRU(4).step(x)
    with pytest.raises(ValueError, match=r"x must be \(B, 4\)"):
        GRU(4).step(x[:, 0, :3])
    with pytest.raises(ValueError, match=r"pass resets\.bool"):
        GRU(4)(x, None, torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"resets must be \(2, 5\)"):
        GRU(4)(x, None, torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="batch of another size"):
        GRU(4)(x, torch.zeros(3, 4))
    with pytest.raises(TypeError, match="tuple of 2, not a Tensor"):
        LSTM(4)(x, torch.zeros(2, 4))
    with pytest.raises(TypeError, match="the state of GRU is a tensor"):
        GRU(4)(x, (torch.zeros(2, 4), torch.zeros(2, 4)))
