"""What torch.compile is told of a function, without importing it: torch._dynamo takes seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """Return the function as torch.compiler.disable does: it runs between graphs, not in one."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return (_disabled(function) if torch.compiler.is_compiling() else function)(*args)

    return cast(Function, call)


def constant(function: Function) -> Function:
    """Return the function as torch.compiler.assume_constant_result does: asked, not looked into."""
    cast(Any, function)._dynamo_marked_constant = True  # what that does once it has been imported
    return function


@functools.cache
def _disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Any, torch.compiler).disable(function)
