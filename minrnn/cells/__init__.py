"""The cells: one file each, each a SequenceMixer, registered by name when imported."""

from minrnn.cells.aaren import Aaren
from minrnn.cells.attention import Attention
from minrnn.cells.gru import GRU
from minrnn.cells.lstm import LSTM
from minrnn.cells.mamba import Mamba
from minrnn.cells.mingru import MinGRU
from minrnn.cells.minlstm import MinLSTM
from minrnn.cells.mlstm import MLSTM
from minrnn.cells.rwkv import RWKV
from minrnn.cells.s4d import S4D
from minrnn.cells.slstm import SLSTM

__all__ = [
    "GRU",
    "LSTM",
    "MLSTM",
    "RWKV",
    "S4D",
    "SLSTM",
    "Aaren",
    "Attention",
    "Mamba",
    "MinGRU",
    "MinLSTM",
]
