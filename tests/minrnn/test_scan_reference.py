"""The paper's log-space form against the loop, and the trap of the carried state."""

import pytest
import torch

from minrnn.scan import gates, mingru_scan
from minrnn.scan.reference import log_g, log_mingru_gates, log_minlstm_gates, log_scan, loop_scan

FORMS = {
    "mingru": (2, log_mingru_gates, gates.mingru_gates),
    "minlstm": (3, log_minlstm_gates, gates.minlstm_gates),
}


def pre_activations(count, length=20, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(2, length, 3, dtype=dtype) for _ in range(count)]


@pytest.mark.parametrize("name", FORMS)
def test_log_space_equals_linear_space(name):
    count, log_gates, linear_gates = FORMS[name]
    x = pre_activations(count)
    h0 = torch.rand(2, 3, dtype=torch.float64) + 0.1
    wanted, _ = loop_scan(*linear_gates(*x), h0)
    torch.testing.assert_close(log_scan(*log_gates(*x), h0.log()), wanted)
    wanted, _ = loop_scan(*linear_gates(*x))
    torch.testing.assert_close(log_scan(*log_gates(*x)), wanted)


@pytest.mark.parametrize("name", FORMS)
def test_the_carried_state_enters_as_its_logarithm_and_not_through_log_g(name):
    count, log_gates, _ = FORMS[name]
    log_a, log_b = log_gates(*pre_activations(count))
    whole = log_scan(log_a, log_b)
    carried = whole[:, 9]
    right = log_scan(log_a[:, 10:], log_b[:, 10:], carried.log())
    torch.testing.assert_close(right, whole[:, 10:])
    trap = log_scan(log_a[:, 10:], log_b[:, 10:], log_g(carried))
    assert (trap - whole[:, 10:]).abs().max() > 0.1


def test_log_g_is_the_logarithm_of_g_with_the_same_derivative():
    c = torch.tensor([-60.0, -1.0, -1e-9, 0.0, 1e-9, 2.0, 60.0], dtype=torch.float64)
    c.requires_grad_()
    torch.testing.assert_close(log_g(c), gates.candidate(c, "g").log())
    (one,) = torch.autograd.grad(log_g(c).sum(), c)
    (other,) = torch.autograd.grad(gates.candidate(c, "g").log().sum(), c)
    torch.testing.assert_close(one, other)
    assert (one != 0).all()


def test_g_is_positive_continuous_and_increasing():
    c = torch.linspace(-30, 30, 10001, dtype=torch.float64)
    g = gates.candidate(c, "g")
    assert (g > 0).all()
    assert (g.diff() > 0).all()
    assert g.diff().max() < 0.01


def test_linear_space_is_more_accurate_than_log_space_over_a_long_sequence():
    k, c = pre_activations(2, 4000)
    exact, _ = loop_scan(*gates.mingru_gates(k, c))

    def error(h):
        return ((h.double() - exact).norm() / exact.norm()).item()

    linear = error(mingru_scan(k.float(), c.float())[0])
    log = error(log_scan(*log_mingru_gates(k.float(), c.float())))
    assert linear < 1e-6
    assert log > 10 * linear


def test_a_reset_is_not_possible_in_log_space():
    log_a = torch.zeros(1, 3, 1)
    log_a[0, 1] = -float("inf")
    assert log_scan(log_a, torch.zeros(1, 3, 1)).isnan().any()
