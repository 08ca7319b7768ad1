"""Two tasks that show what a recurrent state can hold: selective copying and parity.

Both are sequences of tokens with answers to the last of them; a model reads the whole of a sequence
and is asked for the answers alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task(ABC):
    """A task: sequences to train and test on."""

    vocab: int
    """Number of input tokens; the answers are among them."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of a guess."""

    @abstractmethod
    def sample(self, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return tokens (rows, L) and the answers (rows, A) that belong to the last A of them."""

    @abstractmethod
    def tested(self, length: int) -> int:
        """Return how many of the last answers count in a test."""


@dataclass(frozen=True)
class SelectiveCopying(Task):
    """A task: output in order the data tokens, which stand at random places among noise.

    As in Mamba (arXiv:2312.00752, section 4.1.1): token 0 is noise, the last of the vocabulary asks
    for the next data token, the others are data. A sequence is `length` positions with `tokens`
    of data among them, then `tokens` that ask.
    """

    vocab: int = 16
    tokens: int = 8

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / (self.vocab - 2)

    def sample(self, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return tokens (rows, length + tokens) and answers (rows, tokens)."""
        shape = (rows, self.tokens)
        data = torch.randint(1, self.vocab - 1, shape, generator=generator)
        order = torch.rand(rows, length, generator=generator)
        places = order.topk(self.tokens, dim=1).indices.sort(1).values
        noise = torch.zeros(rows, length, dtype=torch.long)
        ask = torch.full(shape, self.vocab - 1)
        return torch.cat([noise.scatter(1, places, data), ask], 1), data

    def tested(self, length: int) -> int:
        """Return the number of data tokens: all answers count."""
        return self.tokens


@dataclass(frozen=True)
class Parity(Task):
    """A task: tell whether the number of ones so far is odd.

    Learnt at every position, which is every length up to `length` at once; tested at the last.
    """

    vocab: int = 2

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 0.5

    def sample(self, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return bits (rows, length) and the parity of the bits up to each (rows, length)."""
        bits = torch.randint(0, 2, (rows, length), generator=generator)
        return bits, bits.cumsum(1) % 2

    def tested(self, length: int) -> int:
        """Return 1: short prefixes would be easy."""
        return 1


TASKS: dict[str, Task] = {"copying": SelectiveCopying(), "parity": Parity()}
