"""`check_mixer`: the contract of `minrnn.interface` as a function, for anyone's own cell."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from minrnn.interface import SequenceMixer
from minrnn.testing.case import Case, law
from minrnn.testing.gradients import gradients
from minrnn.testing.laws import canonical, carry, causality, hygiene, purity, reset, step

__all__ = ["check_mixer"]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
LAWS = (purity, causality, step, carry, reset, hygiene, canonical, gradients)


def check_mixer(
    make_or_module: SequenceMixer | Callable[..., SequenceMixer],
    *,
    dim: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    tolerance: float | None = None,
) -> None:
    """Check that a sequence mixer keeps the eight laws of `minrnn.interface`.

    make_or_module: a module, or what makes one: called with `dim` if that is given, else without
    arguments. The module need not be a `SequenceMixer`; it needs `forward`, `step` and
    `initial_state`, and `dim` unless that is given. A copy of it is checked, in `dtype` and in
    eval mode; neither it nor the global random state is touched (what
    torch.compile has cached is). tolerance: relative and absolute;
    by default 1e-9 for float64, 1e-4 for float32, 3e-2 for others. Finite differences in float64
    are the reference of the gradients.

    Raises AssertionError at the first law broken; the message starts with its name: Purity,
    Causality, Step, Carry, Reset, Hygiene, Canonical or Gradients.

    >>> from minrnn import MinGRU
    >>> check_mixer(MinGRU, dim=4)
    """
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        _check(make_or_module, dim, dtype, seed, tolerance)
    finally:
        torch.random.set_rng_state(state)


def _check(
    make_or_module: SequenceMixer | Callable[..., SequenceMixer],
    dim: int | None,
    dtype: torch.dtype,
    seed: int,
    tolerance: float | None,
) -> None:
    if isinstance(make_or_module, nn.Module):
        module = cast(SequenceMixer, make_or_module)
    else:
        module = make_or_module() if dim is None else make_or_module(dim)
    with law("Purity", "copying the module"):
        module = copy.deepcopy(module).to(dtype).eval()
    like = next(iter(module.parameters()), torch.zeros(()))
    case = Case(
        module,
        module.dim if dim is None else dim,
        dtype,
        like.device,
        TOLERANCES.get(dtype, 3e-2) if tolerance is None else tolerance,
        torch.Generator().manual_seed(seed),
    )
    for check in LAWS:
        with law(check.__name__.capitalize(), "running the module"):
            check(case)
