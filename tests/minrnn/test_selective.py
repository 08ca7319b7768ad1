"""The kernel of the selective scan against the form through `minrnn.scan`."""

import importlib

import pytest
import torch

from minrnn import Mamba
from minrnn.scan import kernel_op
from minrnn.scan.backends import backends

selective = importlib.import_module("minrnn.scan.selective")
needs_numba = pytest.mark.skipif("numba" not in backends(), reason="needs numba")


def arguments(batch, time, width, number, dtype=torch.float64, chance=0.1, start=True):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    u, dt, a = normal(batch, time, width), normal(batch, time, width), normal(width, number)
    b, c, h0 = normal(batch, time, number), normal(batch, time, number), None
    if start:
        h0 = normal(batch, width, number).requires_grad_()
    inputs = [x.requires_grad_() for x in (u, dt.abs(), -a.abs(), b, c)]
    resets = torch.rand(batch, time, generator=generator) < chance if chance else None
    return *inputs, h0, resets


def results(function, given):
    y, last = function(*given)
    loss = y.sin().sum() + last.cos().sum()
    by = [x for x in given if x is not None and x.requires_grad]
    return y, last, *torch.autograd.grad(loss, by, allow_unused=True)


@needs_numba
@pytest.mark.parametrize(
    ("shape", "chance", "start"),
    [
        ((3, 50, 20, 5), 0.1, True),  # channels that fill no vector; chunks with a rest
        ((2, 32, 16, 16), None, False),
        ((2, 33, 8, 1), 1.0, True),
        ((1, 1, 3, 2), None, True),
        ((4, 100, 37, 3), 0.5, False),
    ],
)
def test_it_is_the_reference_and_so_are_its_gradients(shape, chance, start):
    given = arguments(*shape, chance=chance, start=start)
    wanted = results(selective.reference, given)
    torch.testing.assert_close(results(selective.selective_scan, given), wanted)
    narrow = arguments(*shape, dtype=torch.float32, chance=chance, start=start)
    for got, exact in zip(results(selective.selective_scan, narrow), wanted, strict=True):
        scale = exact.abs().max().clamp(min=1e-3).item()
        torch.testing.assert_close(got, exact.float(), rtol=1e-4, atol=1e-5 * scale)


@needs_numba
def test_threads_change_nothing(monkeypatch):
    launch = importlib.import_module("minrnn.scan.cpu.launch")
    for shape in ((5, 40, 16, 4), (1, 40, 70, 4)):
        given = arguments(*shape)
        wanted = results(selective.selective_scan, given)
        with monkeypatch.context() as patched:
            patched.setattr(launch, "GRAIN", 1)
            patched.setattr(torch, "get_num_threads", lambda: 3)
            assert len(launch.parts(shape[0], shape[2], 1000)) > 1
            got = results(selective.selective_scan, given)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@needs_numba
def test_any_strides_will_do():
    given = list(arguments(2, 20, 6, 3))
    wanted = results(selective.selective_scan, given)
    for i in (0, 1, 3, 4, 5):
        strange = given[i].detach().transpose(1, 2).contiguous().transpose(1, 2)
        given[i] = strange.requires_grad_()
    torch.testing.assert_close(results(selective.selective_scan, given), wanted)


@needs_numba
def test_the_op_is_one_that_torch_can_trust():
    torch.library.opcheck(torch.ops.minrnn.selective_scan.default, arguments(2, 20, 6, 3))


@needs_numba
def test_wrong_shapes_and_dtypes_are_refused():
    u, dt, a, b, c, h0, resets = arguments(2, 20, 6, 3)
    with pytest.raises(ValueError, match=r"expected \(2, 20, 3\)"):
        selective.selective_scan(u, dt, a, b[:, 1:], c, h0, resets)
    with pytest.raises(ValueError, match=r"of torch.float64 on a CPU"):
        selective.selective_scan(u, dt.float(), a, b, c, h0, resets)


def test_without_numba_the_cell_does_the_same(monkeypatch):
    torch.manual_seed(0)
    cell, x, resets = Mamba(6), torch.randn(2, 40, 6), torch.rand(2, 40) < 0.1
    wanted = cell(x, None, resets)
    monkeypatch.setattr(kernel_op, "cpu_kernels", lambda _: None)
    torch.testing.assert_close(cell(x, None, resets), wanted)
