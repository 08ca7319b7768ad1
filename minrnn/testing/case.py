"""Tools of the checks: a mixer, random arguments, packed rows, comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.interface import SequenceMixer, State
from minrnn.state import leaves, select_rows, tree_map

# Where episodes start in the five rows of a batch of ten steps: 1, 2 and 3 steps apart, at the
# first step, nowhere, everywhere.
STARTS: tuple[tuple[int, ...], ...] = ((3, 4, 6, 9), (0,), (), (0, 1, 7), tuple(range(10)))
BATCH, LENGTH = len(STARTS), 10


class law:
    """Context: turn errors into an AssertionError that starts with the name of the law."""

    def __init__(self, name: str, doing: str) -> None:
        self.name, self.doing = name, doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Broken):
            raise AssertionError(f"{self.name}: {error}") from None
        if isinstance(error, Exception):
            raise AssertionError(
                f"{self.name}: {self.doing} raised {type(error).__name__}: {error}"
            ) from error


class Broken(Exception):
    """Raised when a mixer breaks a law; the message says how."""


@dataclass(frozen=True)
class Case:
    """A mixer under test, and random arguments for it."""

    module: SequenceMixer
    dim: int
    dtype: torch.dtype
    device: torch.device
    tolerance: float
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers, the same ones for every dtype."""
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.device, self.dtype)

    def x(self, length: int = LENGTH) -> Tensor:
        """Return an input (BATCH, length, dim)."""
        return self.normal(BATCH, length, self.dim)

    def resets(self) -> Tensor:
        """Return (BATCH, LENGTH) bool, set at STARTS."""
        resets = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        for row, starts in enumerate(STARTS):
            resets[row, list(starts)] = True
        return resets.to(self.device)

    def state(self) -> State:
        """Return a state that the mixer returned, different in each row."""
        with torch.no_grad():
            return self.module(self.x())[1]

    def close(self, got: Tensor, wanted: Tensor, what: str, scale: float = 1.0) -> None:
        """Raise `Broken` unless the tensors agree."""
        if got.shape != wanted.shape:
            raise Broken(f"{what}: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}")
        got, wanted = got.detach().double(), wanted.detach().double()
        bound = self.tolerance * scale
        if not torch.allclose(got, wanted, rtol=bound, atol=bound):
            worst = (got - wanted).abs().max().item()
            raise Broken(f"{what}: they differ by {worst:.2g} (tolerance {bound:.2g})")

    def close_states(self, got: State, wanted: State, what: str) -> None:
        """Raise `Broken` unless the states agree, leaf by leaf."""
        for number, (one, other) in pairs(got, wanted):
            self.close(one, other, f"{what}, leaf {number}")


def clone(state: State) -> State:
    """Return a copy of a state."""
    return tree_map(Tensor.clone, state)


def run(
    module: SequenceMixer, x: Tensor, state: State | None = None, resets: Tensor | None = None
) -> tuple[Tensor, State]:
    """Call forward, on copies: whether arguments are modified is for the law of purity to say."""
    return module(
        x.clone(),
        None if state is None else clone(state),
        None if resets is None else resets.clone(),
    )


def walk(
    module: SequenceMixer, x: Tensor, state: State | None = None, resets: Tensor | None = None
) -> tuple[Tensor, State]:
    """Do the same as `run`, step by step."""
    outputs: list[Tensor] = []
    for t in range(x.shape[1]):
        old = None if state is None else clone(state)
        now = None if resets is None else resets[:, t].clone()
        y, state = module.step(x[:, t].clone(), old, now)
        outputs.append(y)
    assert state is not None
    return torch.stack(outputs, 1), state


def episodes() -> Iterator[tuple[int, int, int]]:
    """Yield (row, start, stop) of every episode, including those that started before x."""
    for row, starts in enumerate(STARTS):
        bounds = sorted({0, *starts, LENGTH})
        for start, stop in itertools.pairwise(bounds):
            yield row, start, stop


def apart(
    case: Case, x: Tensor, start: State, row: int, first: int, stop: int
) -> tuple[Tensor, State]:
    """Run one episode of one row by itself."""
    state = None
    if first not in STARTS[row]:
        state = select_rows(start, torch.tensor([row]))
    return run(case.module, x[row : row + 1, first:stop], state)


def gradients_of(loss: Tensor, by: list[Tensor]) -> list[Tensor]:
    """Return the gradients, zero for what the loss does not depend on."""
    found = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, by, allow_unused=True))
    return [torch.zeros_like(x) if g is None else g for x, g in zip(by, found, strict=True)]


def pairs(one: State, other: State) -> list[tuple[int, tuple[Tensor, Tensor]]]:
    """Return the leaves of two states side by side, numbered."""
    return list(enumerate(zip(leaves(one), leaves(other), strict=True)))
