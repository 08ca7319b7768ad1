"""The law of gradients: forward, steps and finite differences agree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from minrnn.interface import SequenceMixer, State
from minrnn.state import leaves, tree_map
from minrnn.testing.case import Broken, Case, gradients_of, run, walk

Go = Callable[..., tuple[Tensor, State]]


def gradients(case: Case) -> None:
    """Gradients by x, state and parameters are right, through forward and through steps."""
    x, start, resets = case.x(), case.state(), case.resets()
    weight = case.normal(*x.shape)
    exact = copy.deepcopy(case.module).double()
    for given in (start, None):
        arguments = _Arguments.of(case.module, x, given)
        value = arguments.loss(run, resets, weight)
        if not value.requires_grad:
            raise Broken("the output does not depend on the arguments by autograd")
        doubles = _Arguments.of(exact, x.double(), given)
        found = arguments.gradients(run, resets, weight)
        wanted = doubles.gradients(run, resets, weight.double())
        stepped = doubles.gradients(walk, resets, weight.double())
        for name, leaf in doubles.named.items():
            direction = case.normal(*leaf.shape).double()
            slope = doubles.slope(leaf, direction, resets, weight.double())
            told = (wanted[name] * direction).sum()
            if abs(told - slope) > 1e-5 * (1 + abs(slope)):
                raise Broken(
                    f"the loss changes with {name} by {slope:.6g}, its gradient says {told:.6g}"
                )
            size = max(1.0, wanted[name].abs().max().item())
            exactly = max(1.0, 1e-8 / case.tolerance) * size
            case.close(found[name], wanted[name], f"gradient by {name}, and in float64", 10 * size)
            case.close(stepped[name], wanted[name], f"gradient by {name}, by steps", exactly)


@dataclass(frozen=True)
class _Arguments:
    """The tensors that the output depends on, as leaves that require a gradient."""

    module: SequenceMixer
    x: Tensor
    state: State | None
    named: dict[str, Tensor]

    @staticmethod
    def of(module: SequenceMixer, x: Tensor, state: State | None) -> _Arguments:
        def leaf_of(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point():
                return leaf
            dtype = torch.float64 if x.dtype == torch.float64 else leaf.dtype
            return leaf.detach().to(dtype, copy=True).requires_grad_()

        x = leaf_of(x)
        state = None if state is None else tree_map(leaf_of, state)
        named = {"x": x}
        if state is not None:
            inner = [leaf for leaf in leaves(state) if leaf.is_floating_point()]
            named |= {f"leaf {i} of the initial state": leaf for i, leaf in enumerate(inner)}
        parameters = cast("Iterator[tuple[str, Tensor]]", module.named_parameters())
        named |= {name: p for name, p in parameters if p.requires_grad}
        return _Arguments(module, x, state, named)

    def loss(self, go: Go, resets: Tensor, weight: Tensor):
        y, state = go(self.module, self.x, self.state, resets)
        loss = (y * weight).sum()
        for leaf in leaves(state):
            if leaf.is_floating_point():
                loss = loss + leaf.to(loss.dtype).sin().sum()
        return loss

    def gradients(self, go: Go, resets: Tensor, weight: Tensor) -> dict[str, Tensor]:
        found = gradients_of(self.loss(go, resets, weight), list(self.named.values()))
        return dict(zip(self.named, found, strict=True))

    @torch.no_grad()
    def slope(self, leaf: Tensor, direction: Tensor, resets: Tensor, weight: Tensor) -> float:
        # A central difference; its error is about 1e-9 here.
        size = 1e-6
        leaf.add_(direction, alpha=size)
        above = self.loss(run, resets, weight)
        leaf.sub_(direction, alpha=2 * size)
        below = self.loss(run, resets, weight)
        leaf.add_(direction, alpha=size)
        return (above - below).item() / (2 * size)
