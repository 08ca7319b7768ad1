"""The running maximum is that of a loop, and its last step has the loop's gradient."""

import pytest
import torch

from minrnn.scan.maximum import running_max

KINDS = ["none", "constant", "free"]


def loop(f, i, m0=None, resets=None):
    batch, length, width = i.shape
    m = torch.full((batch, width), -torch.inf, dtype=i.dtype) if m0 is None else m0
    rows = []
    for t in range(length):
        if resets is not None:
            m = m.masked_fill(resets[:, t, None], -torch.inf)
        decay = 0.0 if f is None else f if f.dim() == 1 else f[:, t]
        m = torch.maximum(m + decay, i[:, t])
        rows.append(m)
    return torch.stack(rows, 1)


def arguments(kind, length, density=0.2, dtype=torch.float64):
    torch.manual_seed(length)
    i = 3 * torch.randn(3, length, 5, dtype=dtype)
    shape = {"none": None, "constant": (5,), "free": (3, length, 5)}[kind]
    f = None if shape is None else -torch.rand(shape, dtype=dtype)
    return f, i, torch.randn(3, 5, dtype=dtype), torch.rand(3, length) < density


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 3, 8, 33, 100])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.5])
def test_it_is_the_loop(kind, length, density):
    f, i, m0, resets = arguments(kind, length, density)
    for given in ((f, i), (f, i, m0), (f, i, None, resets), (f, i, m0, resets)):
        m, last = running_max(*given)
        torch.testing.assert_close(m, loop(*given))
        torch.testing.assert_close(last, m[:, -1])
        wanted = [x for x in given[:3] if x is not None]
        wanted = [x.clone().requires_grad_() for x in wanted]
        leaves = iter(wanted)
        graded = [None if x is None else next(leaves) for x in given[:3]] + list(given[3:])
        m, last = running_max(*graded)
        assert not m.requires_grad
        weight = torch.randn_like(last)
        got = torch.autograd.grad((last * weight).sum(), wanted, allow_unused=True)
        loss = (loop(*graded)[:, -1] * weight).sum()
        exact = torch.autograd.grad(loss, wanted, allow_unused=True)
        for one, other in zip(got, exact, strict=True):
            zero = torch.zeros((), dtype=torch.float64)  # None: not looked at
            pair = torch.broadcast_tensors(*(zero if x is None else x for x in (one, other)))
            torch.testing.assert_close(*pair)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_before_a_reset_is_seen(kind):
    f, i, m0, _ = arguments(kind, 12)
    resets = torch.zeros(3, 12, dtype=torch.bool)
    resets[:, 7] = True
    clean = running_max(f, i, m0, resets)
    for bad in (torch.nan, torch.inf):
        i[:, :7], m0[:] = bad, bad
        if kind == "free":
            f[:, :7] = bad
        m, last = running_max(f, i, m0, resets)
        assert torch.equal(m[:, 7:], clean[0][:, 7:])
        assert torch.equal(last, clean[1])
        one = running_max(f, i[:, :1], m0, torch.ones(3, 1, dtype=torch.bool))[1]
        assert torch.equal(one.nan_to_num(), i[:, 0].nan_to_num())


def test_float32_is_as_good_as_its_numbers():
    f, i, m0, resets = arguments("free", 3000, 0.002)
    got, _ = running_max(f.float(), i.float(), m0.float(), resets)
    torch.testing.assert_close(got.double(), loop(f, i, m0, resets), rtol=1e-6, atol=1e-5)
