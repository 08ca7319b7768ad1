"""The scans against a float64 loop: outputs and every gradient."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minrnn import scan as scan_function
from minrnn.scan import backends, gates, mingru_scan, minlstm_scan, ops, scan
from minrnn.scan.backends import load
from minrnn.scan.reference import loop_scan
from tests.support.scan_cases import (
    CANDIDATES,
    RESETS,
    SCANS,
    arguments,
    assert_equals_loop,
    results,
)


@pytest.fixture(params=[name for name in backends() if name != "triton"], autouse=True)
def backend(request, monkeypatch):
    """Let "auto" mean each backend in turn. Triton's has files of its own, for it is slow here."""
    monkeypatch.setattr(
        ops, "load", lambda name, device: load(request.param if name == "auto" else name, device)
    )
    return request.param


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("name", SCANS)
def test_outputs_and_all_gradients_equal_the_loop(name, resets):
    torch.manual_seed(0)
    for length in (1, 2, 9, 65, 130):
        for h0, init in ((False, False), (True, False), (False, True), (True, True)):
            inputs = arguments(name, 3, length, 11, h0=h0, init=init)
            assert_equals_loop(name, *inputs, RESETS[resets](3, length))


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the backend: set once is right
)
@given(
    name=st.sampled_from(sorted(SCANS)),
    batch=st.integers(1, 4),
    length=st.integers(1, 150),
    width=st.integers(1, 40),
    starts=st.sets(st.integers(0, 599), max_size=80),
    h0=st.booleans(),
    init=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_shape_and_any_resets_equal_the_loop(
    name, batch, length, width, starts, h0, init, seed
):
    torch.manual_seed(seed)
    resets = torch.zeros(batch * length, dtype=torch.bool)
    resets[[s for s in starts if s < batch * length]] = True
    inputs = arguments(name, batch, length, width, h0=h0, init=init)
    assert_equals_loop(name, *inputs, resets.view(batch, length))


@pytest.mark.parametrize("length", [63, 64, 65, 1000, 4096])
def test_float32_stays_near_float64_at_any_length(length):
    torch.manual_seed(0)
    for name in ("scan", "mingru-g", "minlstm-g-normalized"):
        inputs, h0, init = arguments(name, 2, length, 19, torch.float32)
        resets = torch.rand(2, length) < 0.01
        assert_equals_loop(name, inputs, h0, init, resets, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["scan", "mingru-g", "minlstm-g-normalized"])
def test_65536_steps(name):
    torch.manual_seed(0)
    inputs, h0, _ = arguments(name, 1, 65536, 17, torch.float32, init=False)
    with torch.no_grad():
        h, last = SCANS[name][1](*inputs, h0)
        wanted, _ = loop_scan(*SCANS[name][2](*[x.double() for x in inputs]), h0)
    torch.testing.assert_close(h.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(last, h[:, -1])
    # Each half, with the state carried, has the gradients of the whole.
    weight = torch.randn_like(h)
    whole = torch.autograd.grad(SCANS[name][1](*inputs, h0)[0], [*inputs, h0], weight)
    first, state = SCANS[name][1](*[x[:, :30000] for x in inputs], h0)
    second, _ = SCANS[name][1](*[x[:, 30000:] for x in inputs], state)
    halves = torch.autograd.grad(torch.cat([first, second], 1), [*inputs, h0], weight)
    for one, other in zip(halves, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["scan", "mingru-g", "mingru-tanh", "minlstm-g-normalized"])
def test_half_precision_is_read_and_written_exactly(name, dtype):
    # Forward: nothing is lost but in the inputs. Backward: a gradient is rounded once.
    torch.manual_seed(0)
    inputs, h0, init = arguments(name, 3, 70, 37, dtype)
    resets = torch.rand(3, 70) < 0.1
    h, _ = SCANS[name][1](*inputs, h0, resets, init=init)
    wide = [x.detach().float().requires_grad_() for x in inputs]
    exact, _ = SCANS[name][1](*wide, h0, resets, init=init)
    torch.testing.assert_close(h, exact, rtol=1e-6, atol=1e-6)
    assert h.dtype == torch.float32
    weight = torch.randn_like(h)
    got = torch.autograd.grad(h, inputs, weight)
    wanted = torch.autograd.grad(exact, wide, weight)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other.to(dtype), rtol=0.008, atol=1e-6)
        assert torch.equal(one, other.to(dtype)) or (one == other.to(dtype)).float().mean() > 0.99


@pytest.mark.parametrize(("batch", "width"), [(1, 2), (64, 160)])  # in chunks, and in one loop
def test_chunks_and_one_loop_agree(batch, width):
    torch.manual_seed(0)
    inputs = arguments("scan", batch, 70, width)
    assert_equals_loop("scan", *inputs, torch.rand(batch, 70) < 0.02)


def test_slow_decay_over_thousands_of_steps_keeps_its_digits():
    a = torch.full((1, 4000, 1), 0.9999)
    b = torch.full((1, 4000, 1), 1e-4)
    h, _ = scan(a, b)
    torch.testing.assert_close(h.double(), loop_scan(a, b)[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["scan", "mingru-g", "minlstm-g-normalized", "minlstm-tanh-raw"])
def test_gradcheck(name):
    torch.manual_seed(1)
    inputs, h0, init = arguments(name, 2, 6, 2)
    resets = torch.zeros(2, 6, dtype=torch.bool)
    resets[0, 3] = resets[1, 0] = resets[1, 1] = True

    def run(*x):
        return SCANS[name][1](*x[:-2], x[-2], resets, init=x[-1])

    assert torch.autograd.gradcheck(run, (*inputs, h0, init))


def test_last_alone_and_h_alone_give_gradients():
    a, b = (torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    by_last = torch.autograd.grad(scan(a, b)[1].sum(), (a, b))
    by_h = torch.autograd.grad(scan(a, b)[0][:, -1].sum(), (a, b))
    torch.testing.assert_close(by_last, by_h)


def test_strided_and_expanded_inputs_are_read_right():
    torch.manual_seed(0)
    a = torch.rand(2, 3, 90, dtype=torch.float64).transpose(1, 2)
    b = torch.randn(2, 180, 6, dtype=torch.float64)[:, ::2, ::2]
    weight = torch.randn(3, dtype=torch.float64)
    for one, other in ((a, b), (a, weight.expand(2, 90, 3)), (weight.sigmoid().expand_as(b), b)):
        h, last = scan(one, other)
        torch.testing.assert_close((h, last), loop_scan(one, other))
    h, _ = scan(a, b)
    assert h.is_contiguous()


@pytest.mark.parametrize("name", SCANS)
def test_every_number_of_the_results_is_written(name, monkeypatch):
    torch.manual_seed(0)
    inputs, h0, init = arguments(name, 2, 5, 19)
    resets = torch.tensor([[False] * 5, [True, False, True, True, False]])
    empty = torch.empty

    def poisoned(*size, **options):
        x = empty(*size, **options)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", poisoned)
    h, last = SCANS[name][1](*inputs, h0, resets, init=init)
    for x in (h, last, *torch.autograd.grad(h.sum() + last.sum(), [*inputs, h0, init])):
        assert x.isfinite().all()


@pytest.mark.parametrize("name", SCANS)
def test_arguments_are_not_modified(name):
    torch.manual_seed(0)
    inputs, h0, init = arguments(name, 2, 70, 3)
    resets = torch.rand(2, 70) < 0.2
    before = [x.detach().clone() for x in (*inputs, h0, init, resets)]
    results(*SCANS[name][1](*inputs, h0, resets, init=init), inputs)
    for now, then in zip((*inputs, h0, init, resets), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("length", [9, 100])
@pytest.mark.parametrize("name", ["scan", "mingru-g", "minlstm-g-normalized"])
def test_nothing_of_before_a_reset_is_seen_after_it(name, length, init, bad):
    torch.manual_seed(0)
    inputs, h0, init = arguments(name, 2, length, 3, init=init)
    resets = torch.zeros(2, length, dtype=torch.bool)
    resets[0, 5] = True
    fused = SCANS[name][1]
    clean, _ = fused(*inputs, h0, resets, init=init)
    for where in ("inputs", "h0"):
        spoilt = [x.detach().clone() for x in (*inputs, h0)]
        if where == "inputs":
            for x in spoilt[:-1]:
                x[0, :5] = bad
        else:
            spoilt[-1][0] = bad
        spoilt = [x.requires_grad_() for x in spoilt]
        h, last = fused(*spoilt, resets, init=init)
        torch.testing.assert_close(h[0, 5:], clean[0, 5:])
        torch.testing.assert_close(h[1], clean[1])
        loss = h[0, 5:].sum() + h[1].sum() + last.sum()
        for grad in torch.autograd.grad(loss, spoilt[:-1]):
            assert grad[0, 5:].isfinite().all()
            assert grad[1].isfinite().all()


def test_a_nan_gradient_of_a_later_episode_does_not_reach_an_earlier_one():
    for length in (9, 100):
        a, b = (torch.rand(1, length, 2, requires_grad=True) for _ in range(2))
        resets = torch.arange(length).unsqueeze(0) == 4
        h, _ = scan(a, b, None, resets)
        weight = torch.ones_like(h)
        weight[:, 4:] = float("nan")
        for grad in torch.autograd.grad(h, (a, b), weight):
            assert grad[:, :4].isfinite().all()


def test_the_decay_at_a_reset_is_not_looked_at():
    a = torch.full((1, 3, 1), 0.5)
    a[0, 1] = float("nan")
    resets = torch.tensor([[False, True, False]])
    h, _ = scan(a, torch.ones(1, 3, 1), None, resets)
    assert h.flatten().tolist() == [1.0, 1.0, 1.5]


def test_the_decay_of_a_first_step_is_looked_at_where_there_is_a_state():
    a, b = torch.full((1, 2, 3), 0.5), torch.ones(1, 2, 3)
    a[0, 0] = float("nan")
    assert scan(a, b)[0].isfinite().all()
    assert scan(a, b, torch.zeros(1, 3))[0].isnan().all()
    assert scan(a, b, init=torch.zeros(3))[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_gates_are_closed_or_open(dtype):
    infinite = torch.full((1, 1, 17), float("inf"), dtype=dtype)
    one, h0 = torch.ones_like(infinite), torch.full((1, 17), 2.0, dtype=dtype)
    for h, wanted in (
        (mingru_scan(infinite, one, h0)[0], 1.5),
        (mingru_scan(-infinite, one, h0)[0], 2.0),
        (minlstm_scan(infinite, infinite, one, h0)[0], 1.75),
        (minlstm_scan(-infinite, infinite, one, h0)[0], 1.5),
        (minlstm_scan(infinite, -infinite, one, h0)[0], 2.0),
        (minlstm_scan(infinite, infinite, one, h0, normalize=False)[0], 3.5),
    ):
        torch.testing.assert_close(h, torch.full_like(h, wanted))


def test_nan_is_not_swallowed():
    x = torch.zeros(1, 4, 1)
    x[0, 1] = float("nan")
    zero = torch.zeros(1, 4, 1)
    for h in (
        scan(zero + 0.5, x)[0],
        scan(x, zero + 1)[0],
        mingru_scan(x, zero)[0],
        mingru_scan(zero, x)[0],
        minlstm_scan(x, zero, zero)[0],
        minlstm_scan(zero, x, zero)[0],
        minlstm_scan(zero, zero, x)[0],
    ):
        assert h.isnan().flatten().tolist() == [False, True, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CANDIDATES)
def test_huge_pre_activations_give_finite_states_and_gradients(kind, dtype):
    huge = torch.tensor([-200.0, -90.0, -30.0, 0.0, 30.0, 90.0, 200.0], dtype=dtype)
    f, i = (x.flatten() for x in torch.meshgrid(huge, huge, indexing="ij"))
    c = torch.cat([huge, huge.flip(0)]).repeat(4)[: len(f)]
    f, i, c = (x.repeat(1, 3, 1).requires_grad_() for x in (f, i, c))
    for h, leaves in (
        (mingru_scan(f, c, candidate=kind)[0], (f, c)),
        (minlstm_scan(f, i, c, candidate=kind)[0], (f, i, c)),
        (minlstm_scan(f, i, c, candidate=kind, normalize=False)[0], (f, i, c)),
    ):
        assert h.isfinite().all()
        for grad in torch.autograd.grad(h.sum(), leaves):
            assert grad.isfinite().all()


def test_minlstm_gates_are_a_ratio_even_where_both_vanish():
    f, i = torch.tensor([-200.0, -200.0, 200.0]), torch.tensor([-200.0, -199.0, 200.0])
    a, b = gates.minlstm_gates(f, i, torch.ones(3), "linear")
    odds = torch.sigmoid(torch.tensor([0.0, -1.0, 0.0]))
    torch.testing.assert_close(a, odds)
    torch.testing.assert_close(a + b, torch.ones(3))


@pytest.mark.parametrize("k", [-17.0, -10.0, 10.0, 17.0])
def test_tiny_gates_keep_their_digits_in_float32(k):
    # h = z c with z = 4e-8, or 4e-8 of h0 that is left: a subtraction would leave no digit of it.
    gate, c = torch.full((1, 1, 19), k), torch.full((1, 1, 19), 2.0 if k < 0 else 0.0)
    h0 = torch.zeros(1, 19) if k < 0 else torch.full((1, 19), 2.0)
    exact = 2.0 * torch.tensor(-abs(k), dtype=torch.float64).sigmoid()
    for h, _ in (
        mingru_scan(gate, c, h0, candidate="linear"),
        minlstm_scan(-gate, gate, c, h0, candidate="linear", normalize=False),
    ):
        torch.testing.assert_close(h.double(), exact.expand_as(h), rtol=1e-6, atol=0)
    h, _ = minlstm_scan(-gate, gate, c, h0, candidate="linear")
    wanted, _ = loop_scan(
        *gates.minlstm_gates(-gate.double(), gate.double(), c.double(), "linear"), h0
    )
    torch.testing.assert_close(h.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", [-10.0, 10.0])
def test_tiny_gates_over_thousands_of_steps(k):
    torch.manual_seed(0)
    gate = k + 0.1 * torch.randn(1, 4096, 19)
    c = torch.randn(1, 4096, 19)
    h, _ = mingru_scan(gate, c)
    wanted, _ = loop_scan(*gates.mingru_gates(gate.double(), c.double()))
    # A decay next to 1 is rounded to float32 at best: that alone comes to 4e-6 here.
    assert (h - wanted).norm() / wanted.norm() < 1e-5


@pytest.mark.parametrize(
    ("point", "slope"), [(0.0, 1.0), (-0.0, 1.0), (1e-30, 1.0), (-1e-30, 0.25)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_of_g_at_zero_is_one_sided(point, slope, dtype):
    c = torch.full((1, 1, 1), point, dtype=dtype, requires_grad=True)
    k = torch.full((1, 1, 1), 30.0, dtype=dtype)
    for h in (
        mingru_scan(k, c)[0],
        minlstm_scan(-k, k, c)[0],
        gates.candidate(c, "g"),
    ):
        (grad,) = torch.autograd.grad(h.sum(), c)
        assert grad.item() == pytest.approx(slope)


def test_half_precision_inputs_accumulate_in_float32():
    torch.manual_seed(0)
    k, c = (torch.randn(1, 2000, 4).bfloat16().requires_grad_() for _ in range(2))
    h, last = mingru_scan(k, c)
    assert h.dtype == last.dtype == torch.float32
    wanted, _ = loop_scan(*gates.mingru_gates(k.double(), c.double()))
    torch.testing.assert_close(h.double(), wanted, rtol=1e-5, atol=1e-5)
    h.sum().backward()
    assert k.grad.dtype == c.grad.dtype == torch.bfloat16


def test_backends_are_chosen_by_name():
    a = torch.rand(1, 3, 2)
    for name in ("auto", *backends()):
        torch.testing.assert_close(scan(a, a, backend=name)[0], loop_scan(a, a)[0].float())
    assert scan_function is scan


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("one shape", (torch.rand(2, 3, 4), torch.rand(2, 3, 5))),
        ("one shape", (torch.rand(3, 4), torch.rand(3, 4))),
        ("T >= 1", (torch.rand(2, 0, 4), torch.rand(2, 0, 4))),
        (r"h0 must be \(2, 4\)", (torch.rand(2, 3, 4), torch.rand(2, 3, 4), torch.rand(4))),
        (r"resets must be \(2, 3\)", (*[torch.rand(2, 3, 4)] * 2, None, torch.ones(3).bool())),
        ("resets.bool()", (*[torch.rand(2, 3, 4)] * 2, None, torch.ones(2, 3))),
        ("there is auto", (*[torch.rand(2, 3, 4)] * 2, None, None, "abacus")),
    ],
)
def test_wrong_arguments_are_named(message, arguments):
    with pytest.raises(ValueError, match=message):
        scan(*arguments)


def test_an_unknown_candidate_is_named():
    with pytest.raises(ValueError, match="there is g, tanh, linear"):
        mingru_scan(torch.rand(1, 1, 1), torch.rand(1, 1, 1), candidate="relu")
