"""Attention: the equation in a loop, torch's own module, long rows, and what its options mean."""

import math

import pytest
import torch
from torch import nn

from minrnn import Attention, Stack, StackConfig, pack

OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 2, "window": 5},
        {"num_heads": 4, "num_kv_heads": 2, "window": 40},
        {"num_heads": 4, "num_kv_heads": 1, "window": 7, "positions": "learned"},
        {"window": 33, "positions": "none"},
        {"window": 1},
        {"window": 2, "positions": "learned"},
    ],
    ids=str,
)


def make(options, dim=8):
    torch.manual_seed(0)
    cell = Attention(dim, **options).double()
    if cell.bias is not None:
        nn.init.normal_(cell.bias)
    return cell


def rotated(vector, position):
    """Turn the pairs (i, i + d/2) of a vector (d,) by position * 10000 ** (-2 i / d)."""
    half = len(vector) // 2
    rates = torch.tensor([10000.0 ** (-2 * i / len(vector)) for i in range(half)]).double()
    pairs = torch.complex(vector[:half], vector[half:])
    pairs = pairs * torch.polar(torch.ones_like(rates), position * rates)
    return torch.cat([pairs.real, pairs.imag])


def loop(cell, x, resets):
    """Compute the equation, one query at a time, with absolute positions."""
    batch, length, dim = x.shape
    heads, groups = cell.num_heads, cell.num_kv_heads
    size = dim // heads
    z = x @ cell.qkv.weight.T + cell.qkv.bias
    y = torch.zeros_like(x)
    for b in range(batch):
        start = 0
        for t in range(length):
            if resets[b, t]:
                start = t
            seen = range(max(start, t - cell.window + 1), t + 1)
            outputs = []
            for h in range(heads):
                g = h * groups // heads
                q = z[b, t, h * size : (h + 1) * size]
                scores, values = [], []
                for s in seen:
                    k = z[b, s, dim + g * size : dim + (g + 1) * size]
                    v = z[b, s, dim + (groups + g) * size : dim + (groups + g + 1) * size]
                    if cell.positions == "rotary":
                        score = rotated(q, t) @ rotated(k, s) / math.sqrt(size)
                    else:
                        score = q @ k / math.sqrt(size)
                    if cell.positions == "learned":
                        score = score + cell.bias[h, t - s]
                    scores.append(score)
                    values.append(v)
                outputs.append(torch.stack(scores).softmax(0) @ torch.stack(values))
            y[b, t] = torch.cat(outputs)
    return y @ cell.out.weight.T + cell.out.bias


@OPTIONS
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_it_is_the_equation(options, rate):
    cell = make(options)
    x = torch.randn(2, 50, 8, dtype=torch.float64)
    resets = torch.rand(2, 50) < rate
    with torch.no_grad():
        torch.testing.assert_close(cell(x, None, resets)[0], loop(cell, x, resets))


def test_gradients_are_those_of_the_equation():
    cell = make({"num_heads": 2, "num_kv_heads": 1, "window": 6, "positions": "learned"})
    x = torch.randn(1, 36, 8, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(1, 36) < 0.1
    arguments = [x, *cell.parameters()]
    got = torch.autograd.grad(cell(x, None, resets)[0].square().sum(), arguments)
    wanted = torch.autograd.grad(loop(cell, x, resets).square().sum(), arguments)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("window", [3, 50, 64])
def test_it_is_the_attention_of_torch(window):
    cell = make({"num_heads": 4, "window": window, "positions": "none"})
    module = nn.MultiheadAttention(8, 4, batch_first=True).double()
    module.load_state_dict(
        {
            "in_proj_weight": cell.qkv.weight,
            "in_proj_bias": cell.qkv.bias,
            "out_proj.weight": cell.out.weight,
            "out_proj.bias": cell.out.bias,
        }
    )
    x = torch.randn(3, 50, 8, dtype=torch.float64)
    age = torch.arange(50).unsqueeze(1) - torch.arange(50)
    mask = torch.zeros(50, 50).double().masked_fill((age < 0) | (age >= window), -torch.inf)
    torch.testing.assert_close(cell(x)[0], module(x, x, x, attn_mask=mask)[0])


@OPTIONS
@torch.no_grad()
def test_long_rows_in_blocks_are_the_same_as_steps(options):
    cell = make(options)
    x = torch.randn(3, 130, 8, dtype=torch.float64)
    resets = torch.rand(3, 130) < torch.tensor([0.0, 0.02, 0.5]).unsqueeze(1)
    _, state = cell(torch.randn(3, 20, 8, dtype=torch.float64))
    y, end = cell(x, state, resets)
    for t in range(130):
        out, state = cell.step(x[:, t], state, resets[:, t])
        torch.testing.assert_close(out, y[:, t])
    torch.testing.assert_close(state, end)


@torch.no_grad()
def test_ten_thousand_steps_lose_no_precision():
    cell = make({"num_heads": 2, "window": 16})
    x = torch.randn(1, 10_000, 8)
    exact, _ = cell(x.double())
    last, _ = cell(x[:, -16:].double())
    torch.testing.assert_close(exact[:, -1], last[:, -1], rtol=1e-12, atol=1e-12)
    cell = cell.float()
    y, state = cell(x)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-6)
    _, fresh = cell(x[:, -15:])
    torch.testing.assert_close(state, fresh)


@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
def test_large_inputs_stay_finite(positions):
    cell = make({"window": 4, "positions": positions}).float()
    x = (1e3 * torch.randn(2, 80, 8)).requires_grad_()
    y, _ = cell(x, None, torch.rand(2, 80) < 0.2)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_a_nan_is_seen_by_its_window_and_episode_alone():
    cell = make({"window": 6})
    x = torch.randn(1, 50, 8, dtype=torch.float64)
    x[0, [10, 40]] = torch.nan
    resets = torch.zeros(1, 50, dtype=torch.bool)
    resets[0, 42] = True
    y, _ = cell(x, None, resets)
    spoilt = y.isnan().any(-1)[0].nonzero().flatten().tolist()
    assert spoilt == [10, 11, 12, 13, 14, 15, 40, 41]


def test_what_empty_slots_hold_is_invisible():
    cell = make({"window": 6})
    memory, count = cell(torch.randn(2, 3, 8, dtype=torch.float64))[1]
    assert count.tolist() == [3.0, 3.0]
    assert (memory[:, :2] == 0).all()
    spoilt = memory.clone()
    spoilt[:, :2] = torch.nan
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    for call, argument in ((cell.forward, x), (cell.step, x[:, 0])):
        wanted, got = call(argument, (memory, count)), call(argument, (spoilt, count))
        torch.testing.assert_close(got, wanted)


def test_a_window_beyond_the_row_is_no_window():
    torch.testing.assert_close(
        *(make({"window": w})(torch.ones(1, 20, 8).double())[0] for w in (20, 900))
    )


def test_the_state_packs_at_every_window():
    for window in (1, 2, 5):
        stack = Stack(StackConfig(8, 1, "attention", {"window": window}))
        _, state = stack(torch.randn(2, 3, 8))
        torch.testing.assert_close(stack.unpack(stack.pack(state)), state)
        assert pack(state).shape[1] == max(window - 1, 1) * 16 + 1


def test_the_tables_follow_the_module():
    cell = Attention(8)
    assert cell.turns.dtype == torch.float32
    assert cell.bfloat16().turns.dtype == torch.float32
    assert cell.double().turns.dtype == torch.float64
    torch.testing.assert_close(cell.turns, make({}).turns)
    assert set(cell.state_dict()) == {"qkv.weight", "qkv.bias", "out.weight", "out.bias"}


def test_learned_positions_are_not_decayed():
    assert Attention(8, positions="learned").no_weight_decay() == {"bias"}
    assert Attention(8).no_weight_decay() == set()


def test_wrong_arguments_are_named():
    for options, message in (
        ({"num_heads": 3}, "num_heads must divide dim 8"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 4"),
        ({"window": 0}, "window must be at least 1"),
        ({"positions": "absolute"}, "there is rotary, learned, none"),
        ({"num_heads": 8}, "rotary positions need an even width"),
    ):
        with pytest.raises(ValueError, match=message):
            Attention(8, **options)
    cell = Attention(8, window=4)
    with pytest.raises(TypeError, match="tuple of 2, not a Tensor"):
        cell(torch.randn(2, 5, 8), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="leaf 0 of the state of Attention must be"):
        cell.step(torch.randn(2, 8), cell.initial_state(3))
