"""The Triton kernels against a float64 loop: on a GPU where there is one, else interpreted.

Triton's interpreter runs the same kernels on the CPU with NumPy, one program after another.
"""

import functools
import itertools
import sys

import pytest
import torch

from minrnn.scan import mingru_scan, minlstm_scan, scan
from minrnn.scan.reference import loop_scan
from tests.support.scan_cases import (
    CANDIDATES,
    RESETS,
    SCANS,
    arguments,
    assert_equals_loop,
    results,
)

pytest.importorskip("triton", reason="triton is not installed")
# NumPy's word for a NaN or an infinity that is meant.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRITON = {"backend": "triton"}


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            # Read when the kernels are defined: they are imported again, whoever did so before.
            patch.setenv("TRITON_INTERPRET", "1")
            for name in ("gpu", "gpu_kernels"):
                patch.delitem(sys.modules, f"minrnn.scan.{name}", raising=False)
                patch.delattr(sys.modules["minrnn.scan"], name, raising=False)
            registry = sys.modules["minrnn.scan.backends"]
            patch.setattr(registry, "_module", functools.cache(registry._module.__wrapped__))
        yield


@pytest.fixture(params=["over time", "in chunks"])
def schedule(request, monkeypatch):
    """Force a schedule; the few chunks of these short rows are cut into chunks, too."""
    from minrnn.scan import gpu

    chunk = 10**9 if request.param == "over time" else gpu.STEPS
    monkeypatch.setattr(gpu, "chunk_length", lambda programs, length, sms: min(chunk, length))
    return request.param


def case(name, batch, length, width, resets="none", dtype=torch.float64, h0=True, init=True):
    inputs = arguments(name, batch, length, width, dtype, h0, init, DEVICE)
    mask = RESETS[resets](batch, length)
    return *inputs, None if mask is None else mask.to(DEVICE)


@pytest.mark.parametrize("name", SCANS)
def test_outputs_and_all_gradients_equal_the_loop(name):
    torch.manual_seed(0)
    for length in (1, 7):
        assert_equals_loop(name, *case(name, 2, length, 3, "dense"), backend="triton")


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize(("h0", "init"), [(False, False), (True, False), (True, True)])
def test_states_and_resets_of_every_kind_equal_the_loop(resets, h0, init, schedule):
    torch.manual_seed(0)
    inputs = case("scan", 2, 10, 2, resets, h0=h0, init=init)
    assert_equals_loop("scan", *inputs, backend="triton")


@pytest.mark.parametrize("name", ["scan", "mingru-g", "minlstm-g-normalized", "minlstm-g-raw"])
def test_chunks_with_resets_and_without_equal_the_loop(name, schedule):
    torch.manual_seed(0)
    for resets in ("none", "consecutive"):
        assert_equals_loop(name, *case(name, 2, 10, 3, resets), backend="triton")


@pytest.mark.parametrize("length", [40, 41])
def test_long_rows_equal_the_loop(length, schedule):
    torch.manual_seed(0)
    assert_equals_loop("mingru-g", *case("mingru-g", 1, length, 2, "sparse"), backend="triton")


@pytest.mark.parametrize("width", [1, 6, 33, 260])
def test_rows_of_any_width_equal_the_loop(width, schedule):
    torch.manual_seed(0)
    inputs = case("mingru-g", 2, 6, width, "dense", torch.float32)
    assert_equals_loop("mingru-g", *inputs, 1e-5, 1e-5, backend="triton")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["scan", "mingru-tanh", "minlstm-g-normalized"])
def test_half_precision_inputs_accumulate_in_float32(name, dtype, schedule):
    torch.manual_seed(0)
    inputs, h0, init, mask = case(name, 1, 14, 8, "sparse", dtype)
    _, fused, to_gates = SCANS[name]
    h, last = fused(*inputs, h0, mask, init=init, **TRITON)
    assert h.dtype == last.dtype == torch.float32
    wanted, _ = loop_scan(*to_gates(*(x.double() for x in inputs)), h0, mask, init)
    torch.testing.assert_close(h.double(), wanted, rtol=1e-5, atol=1e-5)
    for x, got, true in zip(
        (*inputs, h0, init),
        torch.autograd.grad(h.square().sum(), (*inputs, h0, init)),
        torch.autograd.grad(wanted.square().sum(), (*inputs, h0, init)),
        strict=True,
    ):
        assert got.dtype == x.dtype
        torch.testing.assert_close(got.double(), true.double(), rtol=2e-2, atol=1e-2)


def test_strided_expanded_and_unaligned_inputs_are_read_right(schedule):
    torch.manual_seed(0)
    wide = torch.randn(2, 9, 24, dtype=torch.float64, device=DEVICE)
    a, b, unaligned = wide.sigmoid()[..., :8], wide[..., 8:16], wide[..., 3:11]
    weight = torch.rand(8, dtype=torch.float64, device=DEVICE)
    turned = torch.randn(9, 8, 2, dtype=torch.float64, device=DEVICE).permute(2, 0, 1)
    backwards = torch.rand(2, 8, 9, dtype=torch.float64, device=DEVICE).transpose(1, 2)
    mask = torch.zeros(9, 2, dtype=torch.bool, device=DEVICE)
    mask[4, 1] = mask[6, 0] = True
    starts = (None, weight.expand(2, 8), torch.randn(8, 2, dtype=torch.float64, device=DEVICE).T)
    for one, other, h0 in (
        (a, b, None),
        (a, unaligned, starts[1]),
        (weight.expand(2, 9, 8), b[:, :1].expand(2, 9, 8), starts[2]),
        (backwards, turned, starts[1]),
        (wide[::2, ::3, 5:6], wide[::2, 1::3, 6:7], None),
    ):
        short = mask.T[: one.shape[0], : one.shape[1]]
        leaves = [x.detach().requires_grad_() for x in (one, other)]
        h, last = scan(*leaves, h0, short, **TRITON)
        wanted = loop_scan(*leaves, h0, short)
        torch.testing.assert_close((h, last), wanted)
        assert h.is_contiguous()
        for weights in (torch.randn_like(h), torch.randn(1, 1, 1).double().to(DEVICE).expand_as(h)):
            got = torch.autograd.grad(h, leaves, weights, retain_graph=True)
            true = torch.autograd.grad(wanted[0], leaves, weights, retain_graph=True)
            torch.testing.assert_close(got, true)


@pytest.mark.parametrize("name", ["scan", "mingru-g", "minlstm-tanh-raw"])
def test_every_element_is_written_and_no_argument_is(name, schedule, monkeypatch):
    torch.manual_seed(0)
    inputs, h0, init, mask = case(name, 1, 7, 3, "consecutive")
    arrays = (*inputs, h0, init, mask)
    before = [x.detach().clone() for x in arrays]
    empty = torch.empty

    def poisoned(*args, **kwargs):
        x = empty(*args, **kwargs)
        return x.fill_(float("nan") if x.is_floating_point() else 1)

    monkeypatch.setattr(torch, "empty", poisoned)
    leaves = [*inputs, h0, init]
    for array in results(*SCANS[name][1](*inputs, h0, mask, init=init, **TRITON), leaves):
        assert array.isfinite().all()
    for now, then in zip(arrays, before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("name", ["scan", "minlstm-g-normalized"])
def test_nothing_of_before_a_reset_is_seen_after_it(name, init, bad, schedule):
    torch.manual_seed(0)
    inputs, h0, init, _ = case(name, 2, 11, 3, init=init)
    resets = torch.zeros(2, 11, dtype=torch.bool, device=DEVICE)
    resets[0, 5] = True
    fused = SCANS[name][1]
    clean, _ = fused(*inputs, h0, resets, init=init, **TRITON)
    spoilt = [x.detach().clone() for x in (*inputs, h0)]
    for x in spoilt[:-1]:
        x[0, :5] = bad
    spoilt[-1][0] = bad
    spoilt = [x.requires_grad_() for x in spoilt]
    h, last = fused(*spoilt, resets, init=init, **TRITON)
    torch.testing.assert_close(h[0, 5:], clean[0, 5:])
    torch.testing.assert_close(h[1], clean[1])
    loss = h[0, 5:].sum() + h[1].sum() + last.sum()
    for grad in torch.autograd.grad(loss, spoilt[:-1]):
        assert grad[0, 5:].isfinite().all()
        assert grad[1].isfinite().all()


def test_a_nan_gradient_of_a_later_episode_does_not_reach_an_earlier_one(schedule):
    a, b = (torch.rand(1, 11, 2, device=DEVICE, requires_grad=True) for _ in range(2))
    resets = torch.arange(11, device=DEVICE).unsqueeze(0) == 5
    h, last = scan(a, b, None, resets, **TRITON)
    weight = torch.ones_like(h)
    weight[:, 5:] = float("nan")
    for grad in torch.autograd.grad((h, last), (a, b), (weight, weight[:, -1])):
        assert grad[:, :5].isfinite().all()
        assert grad[:, 6:].isnan().all()


def test_the_decay_at_a_reset_and_of_no_h0_is_not_looked_at(schedule):
    a = torch.full((1, 6, 1), 0.5, device=DEVICE)
    a[0, 0] = a[0, 1] = a[0, 4] = float("nan")
    resets = torch.tensor([[False, True, False, False, True, False]], device=DEVICE)
    h, _ = scan(a, torch.ones_like(a), None, resets, **TRITON)
    assert h.flatten().tolist() == [1.0, 1.0, 1.5, 1.75, 1.0, 1.5]


def test_nan_is_not_swallowed(schedule):
    x = torch.zeros(1, 6, 1, device=DEVICE)
    x[0, 1] = float("nan")
    zero = torch.zeros_like(x)
    for kind in CANDIDATES:
        for h, _ in (
            scan(zero + 0.5, x, **TRITON),
            scan(x, zero + 1, **TRITON),
            *(mingru_scan(*y, candidate=kind, **TRITON) for y in ((x, zero), (zero, x))),
            *(
                minlstm_scan(*y, candidate=kind, normalize=normalize, **TRITON)
                for y in ((x, zero, zero), (zero, x, zero), (zero, zero, x))
                for normalize in (True, False)
            ),
        ):
            assert h.isnan().flatten().tolist() == [False, True, True, True, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CANDIDATES)
def test_huge_pre_activations_give_finite_states_and_gradients(kind, dtype, schedule):
    huge = torch.tensor([-1e4, -200.0, -90.0, -30.0, 0.0, 30.0, 90.0, 200.0, 1e4], dtype=dtype)
    f, i = (x.flatten() for x in torch.meshgrid(huge, huge, indexing="ij"))
    c = torch.cat([huge, huge.flip(0)]).repeat(5)[: len(f)]
    f, i, c = (x.repeat(1, 5, 1).to(DEVICE).requires_grad_() for x in (f, i, c))
    for h, leaves in (
        (mingru_scan(f, c, candidate=kind, **TRITON)[0], (f, c)),
        (minlstm_scan(f, i, c, candidate=kind, **TRITON)[0], (f, i, c)),
        (minlstm_scan(f, i, c, candidate=kind, normalize=False, **TRITON)[0], (f, i, c)),
    ):
        assert h.isfinite().all()
        for grad in torch.autograd.grad(h.sum(), leaves):
            assert grad.isfinite().all()


def test_normalized_gates_are_a_ratio_even_where_both_vanish():
    f, i = torch.tensor([-200.0, -200.0, 200.0, -85.0]), torch.tensor([-200.0, -199.0, 200.0, 0.0])
    f, i = (x.to(DEVICE).view(1, 1, 4) for x in (f, i))
    one, zero = torch.ones(1, 4, device=DEVICE), torch.zeros_like(f)
    decay, _ = minlstm_scan(f, i, zero, one, candidate="linear", **TRITON)
    odds = torch.tensor([0.0, -1.0, 0.0, -85.0 + 0.6931471805599453], dtype=torch.float64)
    wanted = odds.sigmoid().view(1, 1, 4).to(DEVICE)
    torch.testing.assert_close(decay.double(), wanted, rtol=1e-5, atol=0)
    both, _ = minlstm_scan(f, i, zero + 1, one, candidate="linear", **TRITON)
    torch.testing.assert_close(both, zero + 1)


def test_tiny_gates_and_candidates_keep_their_digits_in_float32():
    x = torch.tensor([-17.0, -10.0, -1e-3, 1e-4, 0.2, 0.3, 10.0, 17.0]).view(1, 1, 8).to(DEVICE)
    zero, one = torch.zeros_like(x), torch.ones(1, 8, device=DEVICE)
    near = {"rtol": 4e-6, "atol": 0}  # the hardware rounds x log2(e) before its exponential
    update, _ = mingru_scan(x, zero + 1, 0 * one, candidate="linear", **TRITON)
    decay, _ = mingru_scan(x, zero, one, candidate="linear", **TRITON)
    torch.testing.assert_close(update.double(), x.double().sigmoid(), **near)
    torch.testing.assert_close(decay.double(), (-x.double()).sigmoid(), **near)
    c = x.clone().requires_grad_()
    h, _ = mingru_scan(zero + 60, c, candidate="tanh", **TRITON)
    torch.testing.assert_close(h.double(), x.double().tanh(), **near)
    (slope,) = torch.autograd.grad(h.sum(), c)
    torch.testing.assert_close(slope.double(), x.double().cosh() ** -2, **near)


@pytest.mark.parametrize("point", [0.0, -0.0])
def test_the_derivative_of_g_at_zero_is_one_sided(point):
    c = torch.full((1, 1, 1), point, device=DEVICE, requires_grad=True)
    k = torch.full((1, 1, 1), 30.0, device=DEVICE)
    for h in (mingru_scan(k, c, **TRITON)[0], minlstm_scan(-k, k, c, **TRITON)[0]):
        (grad,) = torch.autograd.grad(h.sum(), c)
        assert grad.item() == pytest.approx(1.0)


def test_empty_batches_and_rows_are_empty(schedule):
    for shape in ((0, 9, 3), (2, 9, 0)):
        inputs, h0, init, mask = case("mingru-g", *shape, "dense")
        h, last = mingru_scan(*inputs, h0, mask, init=init, **TRITON)
        assert h.shape == shape
        for grad in torch.autograd.grad(h.sum() + last.sum(), (*inputs, h0, init)):
            assert not grad.any()


def test_gradients_are_the_same_bits_in_every_run(schedule):
    torch.manual_seed(0)
    inputs, h0, init, mask = case("mingru-g", 2, 12, 5, "dense", torch.float32)
    leaves = [*inputs, h0, init]
    one, other = (
        results(*mingru_scan(*inputs, h0, mask, init=init, **TRITON), leaves) for _ in range(2)
    )
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_the_schedule_fills_the_chip_and_no_more():
    from minrnn.scan import gpu

    sms = 132
    assert gpu.chunk_length(4096, 65536, sms) == 65536  # full anyway
    assert gpu.chunk_length(1, 256, sms) == 256  # too short
    assert gpu.chunk_length(0, 1024, 0) == 1024  # the interpreter
    for programs, length in itertools.product((1, 2, 8, 100, 500), (257, 1000, 4096, 65536, 10**6)):
        chunk = gpu.chunk_length(programs, length, sms)
        num_chunks = -(-length // chunk)
        assert chunk % gpu.STEPS == 0
        assert 1 < num_chunks < 65536  # the limit of a grid's second dimension
        assert chunk >= 64
        assert programs * num_chunks < 2 * 8 * sms
        if chunk >= 128:
            assert programs * num_chunks >= 8 * sms / 2
