"""What every backend is tried on: all scans, their float64 loop, and resets of every kind."""

import torch

from minrnn.interface import state_dtype
from minrnn.scan import gates, mingru_scan, minlstm_scan, scan
from minrnn.scan.reference import loop_scan

CANDIDATES = ("g", "tanh", "linear")

# name: (number of (B, T, D) inputs, fused scan, gates from the inputs)
SCANS = {"scan": (2, scan, lambda a, b: (a, b))}
for _kind in CANDIDATES:
    SCANS[f"mingru-{_kind}"] = (
        2,
        lambda *x, _kind=_kind, **kw: mingru_scan(*x, candidate=_kind, **kw),
        lambda *x, _kind=_kind: gates.mingru_gates(*x, _kind),
    )
    for _normalize in (True, False):
        SCANS[f"minlstm-{_kind}-{'normalized' if _normalize else 'raw'}"] = (
            3,
            lambda *x, _k=_kind, _n=_normalize, **kw: minlstm_scan(
                *x, candidate=_k, normalize=_n, **kw
            ),
            lambda *x, _k=_kind, _n=_normalize: gates.minlstm_gates(*x, _k, _n),
        )

RESETS = {
    "none": lambda b, t: None,
    "never": lambda b, t: torch.zeros(b, t, dtype=torch.bool),
    "sparse": lambda b, t: torch.rand(b, t) < 0.05,
    "dense": lambda b, t: torch.rand(b, t) < 0.6,
    "always": lambda b, t: torch.ones(b, t, dtype=torch.bool),
    "first": lambda b, t: torch.arange(t).expand(b, t) == 0,
    "consecutive": lambda b, t: (torch.arange(t).expand(b, t) % 7) < 3,
}


def arguments(name, batch, length, width, dtype=torch.float64, h0=True, init=True, device="cpu"):
    """Return inputs, h0 and init, leaves of a graph; the states in the dtype of the sums."""
    inputs = [torch.randn(batch, length, width, dtype=dtype) for _ in range(SCANS[name][0])]
    if name == "scan":
        inputs[0] = inputs[0].sigmoid()
    wide = state_dtype(dtype)
    start = torch.randn(batch, width, dtype=wide).to(device) if h0 else None
    fresh = torch.randn(width, dtype=wide).to(device) if init else None
    return (
        [x.to(device).requires_grad_() for x in inputs],
        None if start is None else start.requires_grad_(),
        None if fresh is None else fresh.requires_grad_(),
    )


def results(h, last, leaves):
    """Return the outputs, and the gradients of a loss that uses both of them, twice over."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(h.shape, generator=generator, dtype=torch.float64).to(h.device)
    loss = (h * weight).sum() + (last * weight[:, 0]).sum() + (h[:, -1] * last).sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    grads = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return [h, last, *grads]


def assert_equals_loop(name, inputs, h0, init, resets, rtol=1e-9, atol=1e-9, backend="auto"):
    """Compare h, last and every gradient with the float64 loop's."""
    _, fused, to_gates = SCANS[name]
    leaves = [x for x in (*inputs, h0, init) if x is not None]
    got = results(*fused(*inputs, h0, resets, init=init, backend=backend), leaves)
    doubles = [x.double() for x in inputs]
    wanted = results(*loop_scan(*to_gates(*doubles), h0, resets, init), leaves)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=atol)
