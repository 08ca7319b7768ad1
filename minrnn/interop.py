"""Weights of other implementations of the same equations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minrnn.cells.mingru import MinGRU
from minrnn.cells.minlstm import MinLSTM

# The projection of all gates, and the layers of ours that its rows are of, in their order.
_KINDS: dict[str, tuple[type[MinGRU | MinLSTM], tuple[str, ...]]] = {
    "to_hidden_and_gate.weight": (MinGRU, ("candidate", "gate")),
    "to_hidden_and_f_i_gate.weight": (MinLSTM, ("candidate", "forget_gate", "input_gate")),
}
_OUT = "to_out.weight"


def from_mingru_pytorch(weights: Mapping[str, Tensor] | nn.Module) -> MinGRU | MinLSTM:
    """Return the cell with the weights of a minGRU or minLSTM of lucidrains' minGRU-pytorch.

    weights: the module or its state_dict. Both compute the same from an empty state, in whole
    sequences and in steps; given a state in front of a sequence, theirs applies g to it once more.
    Raises ValueError for the weights of something else, such as a whole language model, whose
    blocks compute other equations than ours.

    >>> import torch
    >>> cell = from_mingru_pytorch({"to_hidden_and_gate.weight": torch.randn(16, 8)})
    >>> cell(torch.randn(2, 5, 8))[0].shape
    torch.Size([2, 5, 8])
    """
    found = dict(weights.state_dict() if isinstance(weights, nn.Module) else weights)
    kind = next((name for name in _KINDS if name in found), None)
    if kind is None or found.keys() - {kind, _OUT}:
        raise ValueError(
            f"the weights of a minGRU or minLSTM are {' or '.join(_KINDS)}, and perhaps {_OUT}; "
            f"not {', '.join(sorted(found)) or 'nothing'}"
        )
    make, names = _KINDS[kind]
    rows, dim = found[kind].shape
    hidden = rows // len(names)
    out = found.get(_OUT)
    if rows % len(names) or (out.shape if out is not None else (dim, hidden)) != (dim, hidden):
        shapes = {name: tuple(x.shape) for name, x in found.items()}
        raise ValueError(f"the weights do not fit each other: {shapes}")
    if out is None and hidden != dim:
        raise ValueError(f"{hidden} hidden units for inputs of {dim} need {_OUT}")
    cell = make(dim, expansion=hidden / dim).to(found[kind].dtype)
    layers = dict(zip(names, found[kind].chunk(len(names)), strict=True))
    if out is not None:
        cell.down = nn.Linear(hidden, dim, dtype=out.dtype)
        layers["down"] = out
    with torch.no_grad():
        for name, weight in layers.items():
            layer = cell.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(weight)
            layer.bias.zero_()
    return cell
