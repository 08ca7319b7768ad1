"""sLSTM and xlstm's, of its backend in plain torch ("vanilla").

Tried with xlstm 2.0.6.
"""

import pytest
import torch

from minrnn import SLSTM

vanilla = pytest.importorskip("xlstm.blocks.slstm.src.vanilla")


@pytest.mark.parametrize("num_heads", [1, 4])
def test_outputs_states_and_gradients_agree(num_heads):
    torch.manual_seed(0)
    dim, size = 16, 16 // num_heads
    cell = SLSTM(dim, num_heads=num_heads)
    torch.nn.init.normal_(cell.recurrent, std=0.3)
    torch.nn.init.normal_(cell.input.weight, std=0.5)
    x = torch.randn(3, 50, dim)
    y, state = cell(x)

    # Theirs: gates before heads, time first; matrices (head, gate and to, from).
    def gates_first(z):
        return z.unflatten(-1, (num_heads, 4, size)).transpose(-3, -2).flatten(-3)

    gates = gates_first(x @ cell.input.weight.T).transpose(0, 1)
    r = cell.recurrent.permute(0, 2, 3, 1).reshape(num_heads, 4 * size, size)
    pointwise = vanilla.slstm_pointwise_function_registry["slstm"]
    every, last, _ = vanilla.slstm_forward(
        gates, torch.zeros(4, 3, dim), r, gates_first(cell.input.bias), pointwise
    )
    h = every[0, 1:].transpose(0, 1).unflatten(-1, (num_heads, size))
    wanted = torch.nn.functional.layer_norm(h, (size,)).flatten(-2) * cell.norm
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    for one, other in zip(state, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    weight = torch.randn_like(y)
    grads = (torch.autograd.grad((z * weight).sum(), list(cell.parameters())) for z in (y, wanted))
    for one, other in zip(*grads, strict=True):
        scale = 1e-4 * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=scale)
