# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
"""Wraps a cell's CPU kernel as one function for autograd and the compiler.

A module of `minrnn.scan.cpu` has two functions:

    forward(*inputs, resets) -> (*outputs, *kept)
    backward(*gradients of the outputs, *saved) -> gradients of the inputs, in their order

The inputs are tensors of one floating dtype, or None where they are optional; resets is (B, T) bool
or None. Only the backward pass sees the kept tensors. A gradient of an output may be None, for
zero; that of an input is None where the input is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.compiling import constant, exporting, traced
from minrnn.derivatives import differentiated, gradients, transformed
from minrnn.scan.backends import cpu_kernels


class KernelOp:
    """A kernel, called by an autograd.Function, or while something traces, by a custom op.

    name: of the op in torch.ops.minrnn. module: of the kernels. inputs, outputs, kept: the names
    of the tensors, with spaces between; "?" ends an optional one. shapes: takes the inputs and
    resets, returns the shapes of outputs and kept, all of the first input's dtype. reference: does
    the same in plain torch, without branches on values, so that it can be differentiated in any way
    (see `minrnn.derivatives`). saved: names of what `backward` gets, if not inputs, resets, kept;
    the first are of the inputs' shapes, or None with them. lean: `forward` takes another argument,
    whether a backward pass may follow: what is kept need not be made where none does.
    """

    def __init__(
        self,
        name: str,
        module: str,
        inputs: str,
        outputs: str,
        kept: str = "",
        *,
        shapes: Callable[..., Sequence[Sequence[int]]],
        reference: Callable[..., Sequence[Tensor]],
        saved: str = "",
        lean: bool = False,
    ) -> None:
        given = [*inputs.split(), "resets?"]
        made = [*outputs.split(), *kept.split()]
        names = [x.removesuffix("?") for x in (*given, *made)]
        wanted = saved.split() or [*names[: len(given)], *kept.split()]
        self._module, self._shapes, self._lean = module, shapes, lean
        self._reference = reference
        self._inputs, self.outputs = len(given) - 1, len(outputs.split())
        self._pick = itemgetter(*(names.index(x) for x in wanted))
        self._op = _define(name, self._run, given, ", ".join("Tensor" for _ in made))
        received = [f"{x}?" for x in (*(f"grad_{x}" for x in outputs.split()), *wanted)]
        self._op_backward = _define(f"{name}_backward", self._run_backward, received, "Tensor[]")
        torch.library.register_fake(f"minrnn::{name}", self._fake)
        torch.library.register_fake(f"minrnn::{name}_backward", self._fake_backward)
        torch.library.register_autograd(
            f"minrnn::{name}", self._backward, setup_context=self._setup_context
        )

    def available(self, device: torch.device) -> bool:
        """Return whether there is a kernel for tensors on that device."""
        return device.type == "cpu" and _is_there(self._module)

    def __call__(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """Return the outputs. tensors: the inputs, and resets."""
        if transformed():
            return tuple(self._reference(*tensors))
        first = next(x for x in tensors if x is not None)
        if exporting(first):
            return tuple(self._reference(*tensors))
        if traced(tensors):
            return _several(self._op(*tensors))[: self.outputs]
        return cast(Any, _Eager.apply)(self, *tensors)

    def forward(self, tensors: tuple[Any, ...], keep: bool) -> tuple[Tensor, ...]:
        """Return the outputs and what is kept."""
        kernels = cast(Any, cpu_kernels(self._module))
        return kernels.forward(*tensors, keep) if self._lean else kernels.forward(*tensors)

    def save(self, ctx: Any, tensors: tuple[Any, ...], results: tuple[Any, ...]) -> None:
        """Save in ctx what the backward pass needs, and the tensors for those after it."""
        ctx.save_for_backward(*tensors, *self._pick(tensors + results))
        ctx.set_materialize_grads(False)

    def backward(self, ctx: Any, grads: Sequence[Any], run: Callable[..., Any]) -> Sequence[Any]:
        """Return the gradients of the inputs and None for resets; run: the backward pass."""
        count = self._inputs + 1
        given = ctx.saved_tensors  # once: a checkpoint computes them again each time
        tensors, saved = given[:count], given[count:]
        if differentiated(grads):
            return gradients(self._reference, tensors, grads)
        return *run(*grads, *saved), None

    def kernel_backward(self, *given: Any) -> Sequence[Tensor | None]:
        """Return the gradients of the inputs."""
        return cast(Any, cpu_kernels(self._module)).backward(*given)

    # The rest is the custom op, which returns the kept tensors as well.

    def _run(self, *tensors: Any) -> Any:
        return _one(self.forward(tensors, True))

    def _fake(self, *tensors: Any) -> Any:
        return _one(tuple(tensors[0].new_empty(x) for x in self._shapes(*tensors)))

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        self.save(ctx, inputs, _several(output))

    def _backward(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        def run(*given: Any) -> list[Tensor | None]:
            found = iter(self._op_backward(*given))
            alike = given[self.outputs : self.outputs + self._inputs]
            return [None if x is None else next(found) for x in alike]

        return tuple(self.backward(ctx, grads[: self.outputs], run))

    def _run_backward(self, *given: Any) -> list[Tensor]:
        return [x for x in self.kernel_backward(*given) if x is not None]

    def _fake_backward(self, *given: Any) -> list[Tensor]:
        alike = given[self.outputs : self.outputs + self._inputs]
        return [x.new_empty(x.shape) for x in alike if x is not None]


def _define(name: str, function: Callable[..., Any], names: list[str], returns: str) -> Any:
    given = ", ".join(f"Tensor? {x[:-1]}" if x.endswith("?") else f"Tensor {x}" for x in names)
    schema = f"({given}) -> ({returns})"
    torch.library.custom_op(f"minrnn::{name}", function, mutates_args=(), schema=schema)
    return getattr(torch.ops.minrnn, name)


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: KernelOp, *tensors: Any) -> tuple[Tensor, ...]:
        wanted = any(ctx.needs_input_grad)
        results = op.forward(tensors, wanted)
        if wanted:
            ctx.op = op
            op.save(ctx, tensors, results)
        return results[: op.outputs]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        return None, *ctx.op.backward(ctx, grad_outputs, ctx.op.kernel_backward)


@constant  # so that a compiler does not trace the import of numba
def _is_there(module: str) -> bool:
    return cpu_kernels(module) is not None


# An op with a single result returns it without a tuple.
def _one(results: tuple[Tensor, ...]) -> Any:
    return results[0] if len(results) == 1 else results


def _several(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)
