"""Aaren is softmax attention from one learned query, whatever the scores."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from minrnn import Aaren
from tests.support.equations import assert_equations, assert_survives, twins


def attention(cell, x, resets=None):
    """Attend with torch's own attention, masked to the episode so far. All in the dtype of x."""
    batch, length, dim = x.shape
    keys = x @ cell.key.weight.T
    values = x @ cell.value.weight.T + cell.value.bias
    keys, values = (
        z.view(batch, length, cell.num_heads, -1).transpose(1, 2) for z in (keys, values)
    )
    mask = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, 1, -1, -1)
    if resets is not None:
        episode = resets.cumsum(1)
        mask = mask & (episode[:, None, :, None] == episode[:, None, None, :])
    query = cell.query.view(1, cell.num_heads, 1, -1).expand(batch, -1, length, -1)
    o = scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return o.transpose(1, 2).reshape(batch, length, dim) @ cell.out.weight.T + cell.out.bias


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("density", [None, 0.01, 0.4])
def test_outputs_and_gradients_are_those_of_attention(num_heads, density):
    cell, exact = twins(Aaren, 16, num_heads=num_heads)
    assert_equations(cell, exact, attention, torch.randn(2, 300, 16), density)


def test_scores_may_be_huge():
    cell, exact = twins(Aaren, 8, num_heads=2)
    x = torch.randn(3, 50, 8) * torch.tensor([1e2, 1e4, 1e6]).view(3, 1, 1)
    assert_survives(cell, x, attention(exact, x.double()))


def test_a_zero_score_is_not_an_empty_state():
    cell = Aaren(4)
    empty = cell.initial_state(1)
    y, state = cell(torch.zeros(1, 1, 4))
    assert empty[1].item() == 0
    assert state[1].item() == 1
    same, _ = cell.step(torch.zeros(1, 4), empty)
    assert torch.equal(same, y[:, 0])


def test_what_is_not_a_state_is_refused():
    cell = Aaren(4)
    x = torch.randn(2, 3, 4)
    with pytest.raises(TypeError, match="tuple of 3"):
        cell(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="batch of another size"):
        cell(x, cell.initial_state(3))
    with pytest.raises(ValueError, match="bool"):
        cell(x, None, torch.zeros(2, 3))
