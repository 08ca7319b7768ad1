"""Implementations of the scans: this project's backends, and peers, on the same inputs.

Each runs in the layout of its own inputs, made beforehand: nobody's transposition is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.timing import optional
from minrnn.scan import backends, mingru_scan, minlstm_scan, scan
from minrnn.scan.gates import mingru_gates, minlstm_gates

OURS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "linear": scan,
    "mingru": mingru_scan,
    "minlstm": minlstm_scan,
}
GATES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "linear": lambda a, b: (a, b),
    "mingru": mingru_gates,
    "minlstm": minlstm_gates,
}
INPUTS = {"linear": 2, "mingru": 2, "minlstm": 3}


@dataclass(frozen=True)
class Implementation:
    """An implementation of a scan: `run` takes leaves in its layout and returns h in it."""

    name: str
    run: Callable[..., Tensor]
    layout: Literal["apart", "packed", "transposed"] = "apart"
    """`apart`: each input (B, T, D). `packed`: one (B, T, n D), the candidate first, as a peer's
    Linear makes it. `transposed`: each (B, D, T)."""

    def leaves(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of the inputs (B, T, D) in this layout, to be differentiated."""
        if self.layout == "packed":
            inputs = [torch.cat([inputs[-1], *inputs[:-1]], -1)]
        elif self.layout == "transposed":
            inputs = [x.transpose(1, 2).contiguous() for x in inputs]
        return [x.detach().clone().requires_grad_() for x in inputs]

    def state(self, h: Tensor) -> Tensor:
        """Turn h or its gradient from (B, T, D) into this layout, or back: the same thing."""
        return h.transpose(1, 2).contiguous() if self.layout == "transposed" else h

    def gradients(self, grads: Sequence[Tensor], count: int) -> list[Tensor]:
        """Return the gradients of the leaves as those of the `count` inputs (B, T, D)."""
        if self.layout == "packed":
            first, *others = grads[0].chunk(count, -1)
            return [*others, first]
        return [self.state(grad) for grad in grads]

    def step(self, inputs: Sequence[Tensor], grad_h: Tensor) -> Callable[[], Sequence[Tensor]]:
        """Return a function that runs forward and backward once, with h first."""
        leaves, grad = self.leaves(inputs), self.state(grad_h)

        def forward_and_backward() -> Sequence[Tensor]:
            h = self.run(*leaves)
            return h.detach(), *torch.autograd.grad(h, leaves, grad)

        return forward_and_backward


def implementations(peers: bool = True) -> dict[str, list[Implementation]]:
    """Return all implementations of each kind of gates, the default of this project first."""
    found: dict[str, list[Implementation]] = {
        gates: [
            Implementation(f"minrnn, {name}", partial(_ours, OURS[gates], name))
            for name in backends()
        ]
        for gates in OURS
    }
    if not peers:
        return found
    for gates in found:
        found[gates].append(Implementation("Python loop", partial(_loop, GATES[gates])))
    if (module := optional("accelerated_scan.ref", "accelerated-scan")) is not None:
        for gates in found:
            run = partial(_accelerated, module.scan, GATES[gates])
            found[gates].append(Implementation("accelerated-scan, ref", run, "transposed"))
    for gates, name, projection in (
        ("mingru", "minGRU", "to_hidden_and_gate"),
        ("minlstm", "minLSTM", "to_hidden_and_f_i_gate"),
    ):
        if (module := optional(f"minGRU_pytorch.{name}", "mingru-pytorch")) is not None:
            layer = _unprojected(getattr(module, name), projection)
            found[gates].append(Implementation("mingru-pytorch", layer, "packed"))
    return found


def _ours(function: Callable[..., tuple[Tensor, Tensor]], backend: str, *inputs: Tensor) -> Tensor:
    return function(*inputs, backend=backend)[0]


def _loop(gates: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor) -> Tensor:
    # unbind, not a[:, t]: the backward pass of an index fills a whole (B, T, D) with zeros.
    decays, updates = (x.unbind(1) for x in gates(*inputs))
    h = updates[0]
    states = [h]
    for decay, update in zip(decays[1:], updates[1:], strict=True):
        h = decay * h + update
        states.append(h)
    return torch.stack(states, 1)


def _accelerated(
    tree_scan: Callable[[Tensor, Tensor], Tensor],
    gates: Callable[..., tuple[Tensor, Tensor]],
    *inputs: Tensor,
) -> Tensor:
    # Its implementation in torch, the one that runs on a CPU; it pads T to a power of two itself.
    return tree_scan(*gates(*inputs))


def _unprojected(kind: type[nn.Module], projection: str) -> nn.Module:
    # The peer's own forward: its Linear gives way to what it would have returned.
    layer = kind(1)
    setattr(layer, projection, nn.Identity())
    return layer
