"""minGRU and minLSTM, and lucidrains' minGRU-pytorch. Tried with 0.2.1."""

import pytest
import torch

from minrnn import MinGRU, MinLSTM

DIM = 8
INPUTS = {
    "minGRU": ("to_hidden_and_gate", ("candidate", "gate")),
    "minLSTM": ("to_hidden_and_f_i_gate", ("candidate", "forget_gate", "input_gate")),
}


def pair(name):
    """Return one of our cells and the peer's with the same weights."""
    peers = pytest.importorskip(f"minGRU_pytorch.{name}")
    torch.manual_seed(0)
    cell = {"minGRU": MinGRU, "minLSTM": MinLSTM}[name](DIM, expansion=2.0)
    peer = getattr(peers, name)(DIM, expansion_factor=2.0)
    packed, parts = INPUTS[name]
    with torch.no_grad():
        for part in (*parts, "down"):
            getattr(cell, part).bias.zero_()  # the peer has none
        weights = [getattr(cell, part).weight for part in parts]
        getattr(peer, packed).weight.copy_(torch.cat(weights))
        peer.to_out.weight.copy_(cell.down.weight)
    return cell, peer


@pytest.mark.parametrize("name", INPUTS)
def test_outputs_and_gradients_agree(name):
    cell, peer = pair(name)
    x = torch.randn(3, 50, DIM, requires_grad=True)
    y, wanted = cell(x)[0], peer(x)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(y)
    mine = torch.autograd.grad((y * weight).sum(), x)[0]
    torch.testing.assert_close(
        mine, torch.autograd.grad((wanted * weight).sum(), x)[0], rtol=1e-3, atol=1e-5
    )


def gap(run, x, cut):
    """Return how far two pieces, with the state carried between them, are from one pass."""
    whole, _ = run(x, None)
    first, state = run(x[:, :cut], None)
    second, _ = run(x[:, cut:], state)
    return (torch.cat([first, second], 1) - whole).abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize(("name", "right"), [("minGRU", True), ("minLSTM", False)])
def test_the_peers_minlstm_carries_a_wrong_state_and_ours_does_not(name, right):
    # It takes log_g of the carried state, which is no pre-activation, where log was meant.
    cell, peer = pair(name)
    x = torch.randn(3, 50, DIM)
    assert gap(cell, x, 20) < 1e-6

    def theirs(x, state):
        return peer(x, state, return_next_prev_hidden=True)

    assert (gap(theirs, x, 20) < 1e-4) == right
    assert right or gap(theirs, x, 20) > 0.05
