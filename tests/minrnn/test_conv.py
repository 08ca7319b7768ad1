"""ShortConv, alone and in a Block."""

import importlib
import itertools

import pytest
import torch
import torch.nn.functional as F

from minrnn import Block, MinGRU, Stack, StackConfig, check_mixer
from minrnn.conv import ShortConv
from minrnn.scan.backends import backends

conv_op = importlib.import_module("minrnn.scan.conv")
needs_numba = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def episodes_apart(conv, x, resets):
    """Run torch's convolution over each episode by itself. x: (T, dim), resets: (T,)."""
    starts = [0, *[t for t in range(1, len(x)) if resets[t]], len(x)]
    parts = []
    for start, stop in itertools.pairwise(starts):
        padded = F.pad(x[start:stop].t()[None], (conv.width - 1, 0))
        parts.append(F.conv1d(padded, conv.weight.unsqueeze(1), conv.bias, groups=conv.dim)[0].t())
    return torch.cat(parts)


@DTYPES
@pytest.mark.parametrize("width", [2, 4])
def test_convolution_keeps_the_contract(width, dtype, form):
    check_mixer(lambda: ShortConv(4, width), dtype=dtype)


@DTYPES
def test_block_and_stack_with_a_convolution_keep_the_contract(dtype):
    check_mixer(lambda: Block(MinGRU(4), conv=4), dtype=dtype)
    check_mixer(lambda: Stack(StackConfig(dim=4, num_layers=2, conv=3)), dtype=dtype)


@pytest.mark.parametrize("chance", [0.0, 0.02, 0.5, 1.0])
def test_it_is_torchs_convolution_of_each_episode(chance, form):
    torch.manual_seed(0)
    conv = ShortConv(6).double()
    x = torch.randn(3, 70, 6, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(3, 70) < chance
    y, state = conv(x, None, resets)
    wanted = torch.stack([episodes_apart(conv, *row) for row in zip(x, resets, strict=True)])
    torch.testing.assert_close(y, wanted)
    by, weight = [x, *conv.parameters()], torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), by),
        torch.autograd.grad((wanted * weight).sum(), by),
    )
    if chance == 0.0:
        assert torch.equal(state, x[:, -3:])
        torch.testing.assert_close(conv(x)[0], y)


def test_nothing_before_a_boundary_is_multiplied(form):
    conv = ShortConv(2)
    x = torch.randn(1, 5, 2)
    x[:, :2] = float("nan")
    resets = torch.tensor([[False, False, True, False, False]])
    y, state = conv(x, torch.full((1, 3, 2), float("inf")), resets)
    torch.testing.assert_close(y[:, 2:], conv(x[:, 2:])[0])
    torch.testing.assert_close(state, x[:, 2:])
    (y[:, 2:].sum()).backward()
    y, state = conv.step(x[:, 2], torch.full((1, 3, 2), float("nan")), torch.tensor([True]))
    assert y.isfinite().all()
    assert state.isfinite().all()


def test_skip_starts_as_the_input_plus_the_convolution():
    torch.manual_seed(0)
    plain = ShortConv(4)
    torch.manual_seed(0)
    skip = ShortConv(4, skip=True)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(skip(x)[0], x + plain(x)[0])


def test_a_block_without_a_convolution_has_the_state_and_parameters_of_before():
    block = Block(MinGRU(4))
    assert isinstance(block.initial_state(2), torch.Tensor)
    assert not any("conv" in name for name in block.state_dict())
    extra = set(Block(MinGRU(4), conv=4).state_dict()) - set(block.state_dict())
    assert extra == {"conv.weight", "conv.bias"}


def test_a_stack_with_convolutions_packs():
    stack = Stack(StackConfig(dim=4, num_layers=2, conv=4))
    _, state = stack(torch.randn(2, 5, 4))
    assert stack.state_size == 2 * (3 * 4 + 4)
    torch.testing.assert_close(stack.unpack(stack.pack(state)), state)


def test_half_precision_sums_in_float32():
    conv = ShortConv(4).bfloat16()
    x = torch.randn(2, 9, 4).bfloat16()
    y, state = conv(x)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y, conv.float()(x.float())[0].bfloat16())


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="use 2 or more"):
        ShortConv(4, 1)
    with pytest.raises(ValueError, match="conv must be 0 for none"):
        StackConfig(conv=1)
    with pytest.raises(ValueError, match=r"the state of ShortConv must be \(2, 3, 4\)"):
        ShortConv(4)(torch.zeros(2, 5, 4), torch.zeros(1, 3, 4))
    with pytest.raises(TypeError, match="the convolution's, the mixer's"):
        Block(MinGRU(4), conv=4)(torch.zeros(2, 5, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="resets must be"):
        ShortConv(4).step(torch.zeros(2, 4), None, torch.zeros(2, 1, dtype=torch.bool))
