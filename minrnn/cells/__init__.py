"""The cells: one file each, each a SequenceMixer, registered by name when imported."""

from minrnn.cells.mingru import MinGRU
from minrnn.cells.minlstm import MinLSTM

__all__ = ["MinGRU", "MinLSTM"]
