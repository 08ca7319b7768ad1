"""What the options of minGRU and minLSTM mean; arguments that every cell refuses."""

import pytest
import torch

import minrnn
from minrnn import MinGRU, MinLSTM
from minrnn.scan import gates

CELLS = pytest.mark.parametrize("cell", [MinGRU, MinLSTM])


def twin(cell, **options):
    """Build a cell with the same random numbers each time."""
    torch.manual_seed(0)
    return cell(4, **options)


def test_mingru_is_the_equation_of_the_paper():
    cell, x = twin(MinGRU, candidate="linear").double(), torch.randn(1, 2, 4).double()
    z, candidate = cell.gate(x).sigmoid(), cell.candidate(x)
    first = z[:, 0] * candidate[:, 0]
    second = (1 - z[:, 1]) * first + z[:, 1] * candidate[:, 1]
    torch.testing.assert_close(cell(x)[0], torch.stack([first, second], 1))


@pytest.mark.parametrize("normalize", [True, False])
def test_minlstm_is_the_equation_of_the_paper(normalize):
    cell = twin(MinLSTM, candidate="tanh", normalize=normalize).double()
    x = torch.randn(1, 2, 4).double()
    f, i = cell.forget_gate(x).sigmoid(), cell.input_gate(x).sigmoid()
    if normalize:
        f, i = f / (f + i), i / (f + i)
    candidate = cell.candidate(x).tanh()
    first = i[:, 0] * candidate[:, 0]
    second = f[:, 1] * first + i[:, 1] * candidate[:, 1]
    torch.testing.assert_close(cell(x)[0], torch.stack([first, second], 1))


@CELLS
def test_a_forget_bias_makes_the_cell_forget_less(cell):
    x = torch.randn(3, 4)

    def forget_gate(module):
        if cell is MinGRU:
            return gates.mingru_gates(module.gate(x), x)[0]
        return gates.minlstm_gates(module.forget_gate(x), module.input_gate(x), x)[0]

    assert (forget_gate(twin(cell, forget_bias=3.0)) > forget_gate(twin(cell))).all()


def test_a_forget_bias_is_added_to_the_default_initialisation():
    torch.testing.assert_close(
        twin(MinGRU, forget_bias=3.0).gate.bias, twin(MinGRU).gate.bias - 3.0
    )
    plain, biased = twin(MinLSTM), twin(MinLSTM, forget_bias=3.0)
    torch.testing.assert_close(biased.forget_gate.bias, plain.forget_gate.bias + 3.0)
    torch.testing.assert_close(biased.input_gate.bias, plain.input_gate.bias)
    assert biased.forget_gate.bias.is_leaf
    assert biased.forget_gate.bias.requires_grad


@CELLS
def test_expansion_widens_the_state_and_projects_down(cell):
    wide = twin(cell, expansion=2.5)
    y, state = wide(torch.randn(2, 3, 4))
    assert y.shape == (2, 3, 4)
    assert state.shape == (2, 10)
    assert not list(twin(cell).down.parameters())


@CELLS
def test_a_reset_returns_to_the_learned_initial_state_and_trains_it(cell):
    module = twin(cell, learn_initial_state=True).double()
    torch.nn.init.constant_(module.initial, 2.0)
    x = torch.randn(1, 6, 4, dtype=torch.float64)
    resets = torch.tensor([[False, False, False, True, False, False]])
    packed, _ = module(x, torch.randn(1, 4).double(), resets)
    alone, _ = module(x[:, 3:])
    torch.testing.assert_close(packed[:, 3:], alone)
    (by_reset,) = torch.autograd.grad(packed[:, 3:].sum(), module.initial)
    (by_start,) = torch.autograd.grad(alone.sum(), module.initial)
    torch.testing.assert_close(by_reset, by_start)
    assert (by_reset != 0).all()


@CELLS
def test_a_learned_initial_state_at_zero_has_a_gradient(cell):
    module = twin(cell, learn_initial_state=True)
    y, _ = module(torch.randn(2, 3, 4))
    (grad,) = torch.autograd.grad(y.sum(), module.initial)
    assert (grad != 0).all()
    y, _ = module.step(torch.randn(2, 4), module.initial_state(2))
    (grad,) = torch.autograd.grad(y.sum(), module.initial)
    assert (grad != 0).all()


@CELLS
def test_gates_and_initial_state_are_the_parameters_without_weight_decay(cell):
    module = twin(cell, learn_initial_state=True, expansion=2.0)
    names = {name for name, _ in module.named_parameters()}
    decayed = names - module.no_weight_decay()
    assert module.no_weight_decay() <= names
    assert decayed == {"candidate.weight", "candidate.bias", "down.weight", "down.bias"}


@CELLS
def test_initial_state_follows_the_module_or_what_is_asked(cell):
    module = twin(cell)
    assert module.initial_state(3).dtype == torch.float32
    assert module.initial_state(3, dtype=torch.float64).dtype == torch.float64
    assert module.initial_state(3, device="meta").device.type == "meta"
    assert module.double().initial_state(3).dtype == torch.float64
    assert module.bfloat16().initial_state(3).dtype == torch.float32


@CELLS
def test_wrong_arguments_are_named(cell):
    with pytest.raises(ValueError, match="there is g, tanh, linear"):
        cell(4, candidate="relu")
    with pytest.raises(ValueError, match="leaves no hidden units"):
        cell(4, expansion=0.0)
    with pytest.raises(TypeError, match=r"is a tensor \(2, 4\), not a tuple"):
        cell(4)(torch.randn(2, 3, 4), (torch.zeros(2, 4),))
    with pytest.raises(ValueError, match=r"must be \(2, 4\)"):
        cell(4)(torch.randn(2, 3, 4), torch.zeros(3, 4))


@pytest.mark.parametrize("cell", [minrnn.Aaren, minrnn.SLSTM, minrnn.MLSTM])
def test_only_as_many_heads_as_divide_the_width(cell):
    with pytest.raises(ValueError, match="num_heads has to divide"):
        cell(8, num_heads=3)


@pytest.mark.parametrize("name", minrnn.available())
@pytest.mark.parametrize(
    ("x", "rows", "resets", "message"),
    [
        ((3, 4), 3, torch.zeros(3, 1, dtype=torch.bool), "resets must be"),
        ((3, 4), 3, torch.zeros(3), "resets must be bool"),
        ((3, 4), 1, None, "must be"),
        ((3, 4), 5, None, "must be"),
        ((3, 3, 4), 3, None, "one time step"),
    ],
)
def test_a_step_refuses_what_would_broadcast(name, x, rows, resets, message):
    cell = minrnn.build(name, 4)
    with pytest.raises(ValueError, match=message):
        cell.step(torch.zeros(x), cell.initial_state(rows), resets)
    if rows == 3:
        with pytest.raises(ValueError, match=message):
            cell.step(torch.zeros(x), None, resets)
