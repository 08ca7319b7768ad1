"""What concerns tracing and torch.compile, without importing it: torch._dynamo takes seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """Do as torch.compiler.disable: the function runs between graphs, not inside one."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return (_disabled(function) if torch.compiler.is_compiling() else function)(*args)

    return cast(Function, call)


def constant(function: Function) -> Function:
    """Do as torch.compiler.assume_constant_result: the function is called, and not traced."""
    cast(Any, function)._dynamo_marked_constant = True  # what torch.compiler's decorator sets
    return function


def _disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Any, torch.compiler).disable(function)


def traced(tensors: Sequence[Tensor | None]) -> bool:
    """Return whether tensors may have no data (tracing): torch's dispatcher handles these."""
    if torch.compiler.is_compiling():
        return True
    inside = cast(Any, torch._C)  # pyright: ignore[reportPrivateUsage]
    return (
        inside._len_torch_dispatch_stack() > 0
        or inside._functorch.peek_interpreter_stack() is not None
        or inside._is_tracing()
        or any(type(x) not in _PLAIN or x.is_meta for x in tensors if x is not None)
    )


_PLAIN = (Tensor, torch.nn.Parameter)


def exporting(x: Tensor) -> bool:
    """Return whether x (B, T, ...) is being exported, without gradients and for this T alone.

    The graph is then for others to read, and contains no operations of this library.
    """
    if not torch.compiler.is_exporting() or torch.is_grad_enabled():
        return False
    return not isinstance(x.shape[1], torch.SymInt)


def latest(values: Tensor) -> Tensor:
    """Return the largest so far of whole numbers (B, T), over T."""
    if not exporting(values):
        return values.cummax(1).values
    # ONNX has no cumulative maximum.
    length = values.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=values.device).tril()
    least = torch.iinfo(values.dtype).min
    return torch.where(past, values.unsqueeze(1), least).amax(-1)
