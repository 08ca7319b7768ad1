"""What the ops of all cells share; each cell's tests check its own."""

import pytest
import torch

from minrnn.scan.backends import backends
from minrnn.scan.conv import short_conv
from minrnn.scan.slstm import slstm_scan

pytestmark = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


def arguments():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 4), torch.randn(4, 3), torch.randn(4)
    return [z.requires_grad_() for z in (x, weight, bias)]


def test_the_op_does_without_what_is_optional():
    torch.library.opcheck(torch.ops.minrnn.short_conv.default, (*arguments(), None, None))


def test_the_op_has_the_gradients_of_the_function():
    given = arguments()
    results = []
    for go in (short_conv, torch.ops.minrnn.short_conv):
        y = go(*given, None, None)
        results.append((y, *torch.autograd.grad(y.sin().sum(), given)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_tensors_without_numbers_are_traced():
    x, r, start = torch.rand(2, 5, 1, 4, 3), torch.rand(1, 3, 4, 3), torch.rand(2, 4, 1, 3)
    with torch._subclasses.FakeTensorMode() as mode:
        y, last = slstm_scan(*(mode.from_tensor(z) for z in (x, r, start)))
    assert (y.shape, last.shape) == ((2, 5, 1, 3), start.shape)
