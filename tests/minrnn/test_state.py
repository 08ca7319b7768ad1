"""States: nested tuples, lists and dicts of tensors."""

import pytest
import torch

from minrnn import detach, pack, reset_rows, select_rows, tree_map, unpack
from minrnn.state import leaves


def nested(batch=3):
    return (
        torch.randn(batch, 2, 2),
        {"b": torch.randn(batch, 1), "a": [torch.arange(batch), torch.ones(batch, 3).bool()]},
    )


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_tree_map_keeps_the_structure():
    mapped = tree_map(lambda leaf: leaf * 1, nested())
    assert isinstance(mapped, tuple)
    assert list(mapped[1]) == ["b", "a"]
    assert isinstance(mapped[1]["a"], list)


def test_pack_and_unpack_undo_each_other():
    state = nested()
    packed = pack(state)
    assert packed.shape == (3, 4 + 1 + 1 + 3)
    assert packed.dtype == torch.float32
    assert_same(unpack(packed, nested(batch=1)), state)


def test_unpack_is_right_when_a_leaf_occurs_twice():
    leaf = torch.zeros(1, 2)
    packed = torch.arange(4.0)[None]
    first, second = unpack(packed, (leaf, leaf))
    assert first.tolist() == [[0, 1]]
    assert second.tolist() == [[2, 3]]


def test_pack_keeps_float64_and_gradients():
    state = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True), torch.zeros(2))
    packed = pack(state)
    assert packed.dtype == torch.float64
    assert packed.requires_grad
    assert not pack(detach(state)).requires_grad


def test_select_rows_takes_indices_or_a_mask():
    state = nested()
    wanted = tree_map(lambda leaf: leaf[[0, 2]], state)
    assert_same(select_rows(state, torch.tensor([0, 2])), wanted)
    assert_same(select_rows(state, torch.tensor([True, False, True])), wanted)


def test_reset_rows_hides_nan_from_values_and_gradients():
    weight = torch.ones((), requires_grad=True)
    state = torch.full((2, 3), float("nan")) * weight
    state = torch.cat([state[:1], torch.ones(1, 3) * weight])
    fresh = torch.zeros(2, 3)
    result = reset_rows((state,), (fresh,), torch.tensor([True, False]))[0]
    assert result.tolist() == [[0.0] * 3, [1.0] * 3]
    leaf = torch.full((1, 2), float("nan"), requires_grad=True)
    reset_rows(leaf, torch.zeros(1, 2), torch.tensor([True])).sum().backward()
    assert leaf.grad.tolist() == [[0.0, 0.0]]


def test_states_of_different_structure_are_refused():
    a = torch.zeros(1)
    with pytest.raises(ValueError, match="tuple of 1 and tuple of 2"):
        tree_map(torch.add, (a,), (a, a))
    with pytest.raises(ValueError, match=r"tuple of 1 and Tensor\(1,\)"):
        tree_map(torch.add, (a,), a)
    with pytest.raises(ValueError, match="keys"):
        tree_map(torch.add, {"a": a}, {"b": a})


def test_leaves_of_a_dict_come_in_the_order_of_its_keys():
    state = {"b": torch.zeros(1), "a": torch.ones(1)}
    assert [leaf.item() for leaf in leaves(state)] == [1.0, 0.0]
