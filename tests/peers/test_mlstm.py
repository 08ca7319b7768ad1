"""mLSTM and those of xlstm (its functions, and the cell of its first model) and transformers.

Tried with xlstm 2.0.6 and transformers 5.23.0.
"""

import pytest
import torch

from minrnn import MLSTM


def cell_of(dim, num_heads):
    torch.manual_seed(0)
    cell = MLSTM(dim, num_heads=num_heads)
    for gate in (cell.input_gate, cell.forget_gate):
        torch.nn.init.normal_(gate.weight, std=0.3)
    torch.nn.init.normal_(cell.norm, mean=1.0, std=0.1)
    return cell


def heads_of(cell, x):
    """Return q, k, v (B, H, T, d) and i, f (B, H, T, 1) of x."""
    q, k, v = (
        z(x).unflatten(-1, (cell.num_heads, -1)).transpose(1, 2)
        for z in (cell.query, cell.key, cell.value)
    )
    i, f = (z(x).transpose(1, 2).unsqueeze(-1) for z in (cell.input_gate, cell.forget_gate))
    return q, k, v, i, f


def finish(cell, x, h):
    """Return y for h (B, H, T, d)."""
    h = torch.nn.functional.layer_norm(h, h.shape[-1:]).transpose(1, 2).flatten(2)
    return cell.out(torch.sigmoid(cell.output_gate(x)) * h * cell.norm)


@pytest.mark.parametrize("length", [20, 64, 200])
def test_outputs_are_those_of_the_parallel_form(length):
    backends = pytest.importorskip("xlstm.blocks.mlstm.backends")
    cell, x = cell_of(32, 4), torch.randn(2, length, 32)
    weight = torch.randn_like(x)
    y, _ = cell(x)
    wanted = finish(cell, x, backends.parallel_stabilized_simple(*heads_of(cell, x)))
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    grads = (torch.autograd.grad((z * weight).sum(), list(cell.parameters())) for z in (y, wanted))
    for one, other in zip(*grads, strict=True):
        scale = 1e-4 * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=scale)


@torch.no_grad()
def test_outputs_and_states_are_those_of_the_recurrent_form():
    backends = pytest.importorskip("xlstm.blocks.mlstm.backends")
    cell, x = cell_of(32, 4), torch.randn(2, 100, 32)
    y, state = cell(x)
    c, n, m = (leaf.clone() for leaf in cell.initial_state(2))
    state_of_theirs = c, n.unsqueeze(-1), m[..., None, None]
    outputs = []
    for t in range(100):
        gates = heads_of(cell, x[:, t : t + 1])
        h, state_of_theirs = backends.recurrent_step_stabilized_simple(*state_of_theirs, *gates)
        outputs.append(finish(cell, x[:, t : t + 1], h))
    torch.testing.assert_close(y, torch.cat(outputs, 1), rtol=1e-4, atol=1e-5)
    for one, other in zip(state, state_of_theirs, strict=True):
        torch.testing.assert_close(one, other.reshape(one.shape), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_outputs_are_those_of_the_cell():
    peer = pytest.importorskip("xlstm.blocks.mlstm.cell")
    cell, x = cell_of(32, 4), torch.randn(2, 50, 32)
    config = peer.mLSTMCellConfig(context_length=50, embedding_dim=32, num_heads=4)
    theirs = peer.mLSTMCell(config)
    # Its gates read q, k and v, from which x can be had.
    theirs.outnorm.weight.copy_(cell.norm - 1)
    into = torch.linalg.inv(cell.query.weight)
    for ours, gate in ((cell.input_gate, theirs.igate), (cell.forget_gate, theirs.fgate)):
        gate.weight.zero_()
        gate.weight[:, :32] = ours.weight @ into
        gate.bias.copy_(ours.bias)
    h = theirs(cell.query(x), cell.key(x), cell.value(x))
    wanted = cell.out(torch.sigmoid(cell.output_gate(x)) * h)
    torch.testing.assert_close(cell(x)[0], wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_outputs_are_those_of_the_large_layer(monkeypatch):
    utils = pytest.importorskip("transformers.utils")
    # Its own layer, not that of xlstm, which wants kernels for a GPU.
    monkeypatch.setattr(utils, "is_xlstm_available", lambda: False)
    modeling = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
    cell, x = cell_of(32, 4), torch.randn(2, 64, 32)
    config = modeling.xLSTMConfig(
        hidden_size=32,
        num_heads=4,
        num_hidden_layers=1,
        vocab_size=8,
        qk_dim_factor=1.0,
        v_dim_factor=1.0,
        gate_soft_cap=1e6,
        norm_eps=1e-5,
        weight_mode="single",
        chunk_size=64,
    )
    theirs = modeling.xLSTMLayer(config)
    names = {
        "q": "query",
        "k": "key",
        "v": "value",
        "igate_preact": "input_gate",
        "fgate_preact": "forget_gate",
        "ogate_preact": "output_gate",
        "out_proj": "out",
    }
    for name, ours in names.items():
        theirs.get_submodule(name).load_state_dict(cell.get_submodule(ours).state_dict())
    theirs.multihead_norm.weight.copy_(cell.norm.view_as(theirs.multihead_norm.weight))
    wanted, _ = theirs(x)
    torch.testing.assert_close(cell(x)[0], wanted, rtol=1e-3, atol=1e-4)
