"""minrnn: minimal recurrent networks behind one contract.

A `SequenceMixer` reads (B, T, dim) in parallel or (B, dim) step by step, with a state that is
passed in and out and can be reset anywhere. `Stack` is the one to plug into an agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minrnn.block import Block
from minrnn.cells import (
    GRU,
    LSTM,
    MLSTM,
    RWKV,
    S4D,
    SLSTM,
    Aaren,
    Attention,
    Mamba,
    MinGRU,
    MinLSTM,
)
from minrnn.conv import ShortConv
from minrnn.interface import SequenceMixer, State
from minrnn.registry import available, build, register
from minrnn.scan import scan
from minrnn.stack import Stack, StackConfig
from minrnn.state import detach, pack, reset_rows, select_rows, tree_map, unpack

if TYPE_CHECKING:
    from minrnn.testing import check_mixer

__all__ = [
    "GRU",
    "LSTM",
    "MLSTM",
    "RWKV",
    "S4D",
    "SLSTM",
    "Aaren",
    "Attention",
    "Block",
    "Mamba",
    "MinGRU",
    "MinLSTM",
    "SequenceMixer",
    "ShortConv",
    "Stack",
    "StackConfig",
    "State",
    "available",
    "build",
    "check_mixer",
    "detach",
    "pack",
    "register",
    "reset_rows",
    "scan",
    "select_rows",
    "tree_map",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name == "check_mixer":  # needed by tests only
        from minrnn.testing import check_mixer

        return check_mixer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
