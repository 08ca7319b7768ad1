"""Marks on functions for torch.compile that do not import it: torch._dynamo takes seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

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


@functools.cache
def _disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Any, torch.compiler).disable(function)
