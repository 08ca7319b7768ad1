"""Weights of other implementations, against their equations written step by step."""

import pytest
import torch

from minrnn.interop import from_mingru_pytorch


def g(x):
    return torch.where(x >= 0, x + 0.5, x.sigmoid())


def theirs(weights, x):
    """Compute minGRU-pytorch's minGRU or minLSTM, one step after the other."""
    (name,) = weights.keys() - {"to_out.weight"}
    outputs, h = [], None
    for step in x.unbind(1):
        parts = (step @ weights[name].t()).chunk(3 if "f_i" in name else 2, -1)
        if len(parts) == 2:
            keep, enter = 1 - parts[1].sigmoid(), parts[1].sigmoid()
        else:
            f, i = parts[1].sigmoid(), parts[2].sigmoid()
            keep, enter = f / (f + i), i / (f + i)
        h = enter * g(parts[0]) + (0 if h is None else keep * h)
        outputs.append(h)
    y = torch.stack(outputs, 1)
    out = weights.get("to_out.weight")
    return y if out is None else y @ out.t()


@pytest.mark.parametrize("name", ["to_hidden_and_gate.weight", "to_hidden_and_f_i_gate.weight"])
@pytest.mark.parametrize("hidden", [8, 12, 4])
@pytest.mark.parametrize("out", [True, False])
def test_the_cell_computes_what_theirs_does(name, hidden, out):
    torch.manual_seed(0)
    rows = hidden * (3 if "f_i" in name else 2)
    weights = {name: torch.randn(rows, 8, dtype=torch.float64)}
    if out:
        weights["to_out.weight"] = torch.randn(8, hidden, dtype=torch.float64)
    elif hidden != 8:
        with pytest.raises(ValueError, match="need to_out"):
            from_mingru_pytorch(weights)
        return
    cell, x = from_mingru_pytorch(weights), torch.randn(3, 9, 8, dtype=torch.float64)
    wanted = theirs(weights, x)
    torch.testing.assert_close(cell(x)[0], wanted)
    first, state = cell(x[:, :4])
    later, _ = cell(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, later], 1), wanted)
    module = torch.nn.Module()
    attribute = name.removesuffix(".weight")
    setattr(module, attribute, torch.nn.Linear(8, rows, bias=False, dtype=torch.float64))
    if not out:
        module.load_state_dict(weights)
        torch.testing.assert_close(from_mingru_pytorch(module)(x)[0], wanted)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({}, "not nothing"),
        ({"layers.0.2.to_hidden_and_gate.weight": torch.zeros(16, 8)}, r"not layers\.0"),
        ({"to_hidden_and_gate.weight": torch.zeros(15, 8)}, "do not fit"),
        (
            {"to_hidden_and_gate.weight": torch.zeros(16, 8), "to_out.weight": torch.zeros(8, 9)},
            "do not fit",
        ),
        ({"to_hidden_and_gate.weight": torch.zeros(16, 8), "bias": torch.zeros(1)}, "not bias"),
    ],
)
def test_other_weights_are_refused_with_what_they_are(weights, match):
    with pytest.raises(ValueError, match=match):
        from_mingru_pytorch(weights)
