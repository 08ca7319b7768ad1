"""Every registered cell, and blocks and stacks of them, keeps the contract."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minrnn import Block, Stack, StackConfig, available, build, check_mixer
from minrnn.state import detach, leaves

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)

OPTIONS = {
    "slstm": [{"num_heads": 1}],
    "attention": [
        {"num_heads": 2, "num_kv_heads": 1, "window": 3},
        {"num_heads": 4, "num_kv_heads": 2, "window": 4, "positions": "learned"},
        {"window": 1},
        {"positions": "none"},
    ],
    "mlstm": [{"num_heads": 1}],
    "rwkv": [{"expansion": 1.5}],
    "aaren": [{"num_heads": 2}],
    "gru": [{"expansion": 2.0, "learn_initial_state": True}],
    "lstm": [{"expansion": 0.5, "forget_bias": 1.0, "learn_initial_state": True}],
    "mingru": [
        {"candidate": "tanh"},
        {"candidate": "linear", "expansion": 0.5},
        {"expansion": 2.0, "forget_bias": 3.0, "learn_initial_state": True},
        {"candidate": "tanh", "learn_initial_state": True, "signed": True},
    ],
    "minlstm": [
        {"candidate": "tanh"},
        {"candidate": "linear", "normalize": False},
        {"expansion": 2.0, "forget_bias": 3.0, "learn_initial_state": True},
        {"candidate": "tanh", "learn_initial_state": True, "signed": True},
    ],
    "s4d": [{"d_state": 6, "dt_max": 1.0}],
    "mamba": [{"expand": 1.5, "d_state": 3, "d_conv": 2, "dt_rank": 2}],
}
CELLS = [(name, options) for name in available() for options in ({}, *OPTIONS.get(name, []))]


def make(name, options, dim=4):
    """Build a cell whose learned initial state, if it has one, is not zero."""
    cell = build(name, dim, **options)
    for path, parameter in cell.named_parameters():
        if "initial" in path:
            torch.nn.init.normal_(parameter)
    return cell


@DTYPES
@pytest.mark.parametrize(("name", "options"), CELLS, ids=str)
def test_cell_keeps_the_contract(name, options, dtype):
    check_mixer(lambda: make(name, options), dtype=dtype)


@DTYPES
@pytest.mark.parametrize("name", available())
def test_stack_keeps_the_contract(name, dtype):
    config = StackConfig(dim=4, num_layers=2, backbone=name, norm="rmsnorm", activation="gelu")
    check_mixer(Stack(config), dtype=dtype)


def test_block_without_mlp_keeps_the_contract():
    check_mixer(Block(build("mingru", 4), mlp_ratio=0))


def _stack(name):
    torch.manual_seed(0)
    options = OPTIONS.get(name, [])
    learns = any("learn_initial_state" in given for given in options)
    learned = {"learn_initial_state": True} if learns else {}
    stack = Stack(StackConfig(dim=4, num_layers=2, backbone=name, cell=learned))
    for path, parameter in stack.named_parameters():
        if "initial" in path:
            torch.nn.init.normal_(parameter)
    return stack.double().eval()


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(available()),
    batch=st.integers(1, 4),
    length=st.integers(1, 90),
    starts=st.sets(st.integers(0, 359), max_size=40),
    cut=st.integers(0, 90),
    seed=st.integers(0, 2**16),
)
@torch.no_grad()
def test_any_shape_resets_and_cut_give_the_same_as_steps(name, batch, length, starts, cut, seed):
    stack = _stack(name)
    torch.manual_seed(seed)
    x = torch.randn(batch, length, 4, dtype=torch.float64)
    resets = torch.zeros(batch * length, dtype=torch.bool)
    resets[[s for s in starts if s < batch * length]] = True
    resets = resets.view(batch, length)
    _, start = stack(torch.randn(batch, 3, 4, dtype=torch.float64))

    whole, end = stack(x, start, resets)
    state, outputs = start, []
    for t in range(length):
        y, state = stack.step(x[:, t], state, resets[:, t])
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    torch.testing.assert_close(stack.pack(state), stack.pack(end))
    if 0 < cut < length:
        first, middle = stack(x[:, :cut], start, resets[:, :cut])
        packed = stack.pack(middle)
        second, other = stack(x[:, cut:], stack.unpack(packed), resets[:, cut:])
        torch.testing.assert_close(torch.cat([first, second], 1), whole)
        torch.testing.assert_close(stack.pack(other), stack.pack(end))


@pytest.mark.parametrize("name", available())
def test_state_stays_float32_under_bfloat16(name):
    x = torch.randn(2, 5, 4)
    stack = Stack(StackConfig(dim=4, num_layers=2, backbone=name))
    with torch.autocast("cpu", torch.bfloat16):
        y, state = stack(x)
        step, stepped = stack.step(x[:, 0], state)
        (y.float().sum() + step.float().sum()).backward()
    for leaf in leaves(state) + leaves(stepped) + leaves(stack.initial_state(2)):
        assert leaf.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stack.parameters())
    y32, _ = stack(x)
    torch.testing.assert_close(y.float(), y32, rtol=0.1, atol=0.1)

    half = build(name, 4).bfloat16()
    y, state = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y, state = half.step(x[:, 0].bfloat16(), state)
    assert y.dtype == torch.bfloat16
    assert all(leaf.dtype == torch.float32 for leaf in leaves(state))


@pytest.mark.filterwarnings("ignore")  # the compiler's own, about torch
@pytest.mark.parametrize("name", available())
def test_step_compiles_in_one_graph(name):
    stack = Stack(StackConfig(dim=4, num_layers=2, backbone=name)).eval()
    compiled = torch.compile(stack.step, backend="eager", fullgraph=True)
    x, state = torch.randn(2, 4), stack.initial_state(2)
    resets = torch.tensor([True, False])
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, state, resets), stack.step(x, state, resets))
    torch.compiler.reset()


@pytest.mark.parametrize("name", available())
@torch.no_grad()
def test_no_rows_are_no_failure(name):
    stack = Stack(StackConfig(dim=4, num_layers=2, backbone=name))
    x, resets = torch.zeros(0, 3, 4), torch.zeros(0, 3, dtype=torch.bool)
    for state in (None, stack.initial_state(0)):
        y, new = stack(x, state, resets)
        assert y.shape == x.shape
        assert stack.pack(new).shape == (0, stack.state_size)
        assert stack.step(x[:, 0], state, resets[:, 0])[0].shape == (0, 4)


@pytest.mark.parametrize("name", available())
def test_what_is_not_a_number_reaches_neither_earlier_steps_nor_other_episodes(name):
    # In values, and in the gradients of what is finite.
    torch.manual_seed(0)
    cell = make(name, {})
    resets = torch.zeros(2, 12, dtype=torch.bool)
    resets[0, 7] = True
    x = torch.randn(2, 12, 4)
    x[0, 5, 1] = torch.nan
    x.requires_grad_()
    y, _ = cell(x, None, resets)
    clean = torch.ones(2, 12, dtype=torch.bool)
    clean[0, 5:7] = False
    assert y[clean].isfinite().all()
    assert y[0, 5].isnan().any()
    after = torch.autograd.grad(y[0, 7:].square().sum() + y[1].square().sum(), x)[0]
    assert after[0, 7:].isfinite().all()
    assert after[1].isfinite().all()


@pytest.mark.filterwarnings("ignore")  # the compiler's own, about torch
@pytest.mark.parametrize("name", [*available(), "mingru with a convolution"])
def test_training_compiles_in_one_graph_with_the_same_gradients(name):
    torch.manual_seed(0)
    torch.compiler.reset()
    backbone, _, more = name.partition(" ")
    config = StackConfig(dim=4, num_layers=1, backbone=backbone, conv=3 if more else 0)
    stack = Stack(config).double()
    x, resets = torch.randn(2, 40, 4).double(), torch.rand(2, 40) < 0.1
    # Rows of gru and lstm are cut at their resets, which no graph can hold.
    compiled = torch.compile(stack, fullgraph=name not in ("gru", "lstm"), backend="aot_eager")
    for state in (None, stack.initial_state(2)):
        found = []
        for go in (stack, compiled):
            y, last = go(x, state, resets)
            grads = torch.autograd.grad(y.square().sum(), list(stack.parameters()))
            found.append((y, last, grads))
        torch.testing.assert_close(found[1], found[0])
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # the compiler's own, about torch
@pytest.mark.parametrize("name", available())
def test_longer_and_longer_rows_need_few_graphs(name):
    torch.manual_seed(0)
    torch.compiler.reset()
    stack = Stack(StackConfig(dim=4, num_layers=1, backbone=name)).double()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    # At the compiler's limit of eight graphs, one that has to be whole is an error. Older versions
    # of torch make one for each length of these two cells.
    old = torch.__version__ < torch.torch_version.TorchVersion("2.13") and name in (
        "aaren",
        "mlstm",
    )
    whole = name not in ("gru", "lstm") and not old
    compiled = torch.compile(stack, fullgraph=whole, backend=keep)
    lengths = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 400, 7, 1)
    for length in lengths:
        x = torch.randn(2, length, 4, dtype=torch.float64, requires_grad=True)
        resets = torch.rand(2, length) < 0.1
        found = []
        for go in (stack, compiled):
            y, state = go(x, None, resets)
            found.append((y, stack.pack(state), torch.autograd.grad(y.square().sum(), x)))
        torch.testing.assert_close(found[1], found[0])
    assert 2 <= len(graphs) <= (6 if whole else len(lengths))
    torch.compiler.reset()


@pytest.mark.parametrize("conv", [0, 4])
@pytest.mark.parametrize("name", available())
def test_gradients_do_not_depend_on_how_rows_are_cut_or_episodes_packed(name, conv):
    torch.manual_seed(0)
    stack = Stack(StackConfig(dim=4, num_layers=2, backbone=name, conv=conv)).double()
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    resets = torch.zeros(3, 7, dtype=torch.bool)
    resets[0, 4] = resets[2, 1] = resets[2, 2] = True
    start = stack.pack(stack(torch.randn(3, 5, 4, dtype=torch.float64))[1]).detach()
    weights = torch.randn(3, 7, 4, dtype=torch.float64)

    def gradients(rows):
        """rows: (row, first, stop, whether from the row's initial state) of each piece."""
        given = x.clone().requires_grad_(), start.clone().requires_grad_()
        loss, state = torch.zeros(()), None
        for row, first, stop, begins in rows:
            place = slice(None) if row is None else slice(row, row + 1)
            state = stack.unpack(given[1][place]) if begins else state
            flags = resets[place, first:stop]
            y, state = stack(given[0][place, first:stop], state, flags)
            loss = loss + (y * weights[place, first:stop]).sum()
            if stop == 7:
                loss = loss + stack.pack(state).sin().sum()
        return torch.autograd.grad(loss, [*given, *stack.parameters()])

    whole = gradients([(None, 0, 7, True)])
    # Pieces shorter than the convolution, and each row by itself.
    pieces = [(None, 0, 1, True), (None, 1, 3, False), (None, 3, 4, False), (None, 4, 7, False)]
    alone = [(row, 0, 7, True) for row in range(3)]
    for rows in (pieces, alone):
        for one, other in zip(whole, gradients(rows), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", available())
def test_training_goes_on_from_a_detached_state(name):
    torch.manual_seed(0)
    stack = Stack(StackConfig(dim=4, num_layers=2, backbone=name, conv=4))
    optimizer, state = torch.optim.SGD(stack.parameters(), lr=0.1), None
    for _ in range(3):
        y, state = stack(torch.randn(2, 3, 4), state)
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()
        kept = stack.pack(state).detach().clone()
        state = detach(state)
        assert not any(leaf.requires_grad for leaf in leaves(state))
        torch.testing.assert_close(stack.pack(state), kept, rtol=0, atol=0)
