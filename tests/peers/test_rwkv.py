"""RWKV and the attention of transformers' RWKV, which runs in plain torch on a CPU.

Tried with transformers 5.23.0.
"""

import pytest
import torch

from minrnn import RWKV

modeling = pytest.importorskip("transformers.models.rwkv.modeling_rwkv")
NAMES = {
    "time_decay": "decay",
    "time_first": "bonus",
    "time_mix_key": "mix_key",
    "time_mix_value": "mix_value",
    "time_mix_receptance": "mix_receptance",
    "key.weight": "key.weight",
    "value.weight": "value.weight",
    "receptance.weight": "receptance.weight",
    "output.weight": "out.weight",
}


@pytest.mark.parametrize("expansion", [1.0, 2.0])
def test_outputs_states_and_gradients_agree(expansion):
    torch.manual_seed(0)
    dim, hidden = 16, round(16 * expansion)
    config = modeling.RwkvConfig(
        hidden_size=dim, attention_hidden_size=hidden, num_hidden_layers=2, vocab_size=8
    )
    peer = modeling.RwkvSelfAttention(config)
    cell = RWKV(dim, expansion=expansion)
    ours = dict(cell.named_parameters())
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            parameter.copy_(ours[NAMES[name]].view_as(parameter))
    x = torch.randn(3, 40, dim)
    y, state = cell(x)
    wanted, _ = peer(x)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)

    grads = torch.autograd.grad(y.square().sum(), list(cell.parameters()))
    found = dict(zip(ours, grads, strict=True))
    theirs = dict(peer.named_parameters())
    exact = torch.autograd.grad(wanted.square().sum(), list(theirs.values()))
    for name, grad in zip(theirs, exact, strict=True):
        mine = found[NAMES[name]].view_as(grad)
        torch.testing.assert_close(mine, grad, rtol=1e-4, atol=1e-5 * grad.abs().max().item())

    # Its state: x for the channel mixing (not here), x, a, b, p; for each layer.
    old = [torch.zeros(3, size, 1) for size in (dim, dim, hidden, hidden, hidden)]
    old[4] -= 1e30
    with torch.no_grad():
        _, new = peer(x, old, use_cache=True)
        for one, other in zip(state, new[1:], strict=True):
            torch.testing.assert_close(one, other[..., 0], rtol=1e-5, atol=1e-5)
        # Two more steps: at one, theirs mixes the rows of a batch.
        more = torch.randn(3, 2, dim)
        y, state = cell.step(more[:, 0], state)
        z, state = cell.step(more[:, 1], state)
        wanted, _ = peer(more, new)
        torch.testing.assert_close(torch.stack([y, z], 1), wanted, rtol=1e-5, atol=1e-6)
