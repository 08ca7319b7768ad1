"""Stack, Block and their configuration."""

import copy
import pickle

import pytest
import torch

from minrnn import Block, MinGRU, Stack, StackConfig, available, check_mixer


def test_packing_keeps_every_number_and_the_structure():
    stack = Stack(StackConfig(dim=4, num_layers=3, cell={"expansion": 1.5}))
    _, state = stack(torch.randn(2, 5, 4))
    packed = stack.pack(state)
    assert packed.shape == (2, stack.state_size) == (2, 18)
    again = stack.unpack(packed)
    assert isinstance(again, tuple)
    torch.testing.assert_close(again, state, rtol=0, atol=0)


def test_an_all_zero_packed_state_is_the_initial_one():
    stack = Stack(StackConfig(dim=4))
    torch.testing.assert_close(
        stack.unpack(torch.zeros(2, stack.state_size)), stack.initial_state(2)
    )


def test_a_packed_state_given_unpacked_is_refused_with_a_hint():
    stack = Stack(StackConfig(dim=4))
    with pytest.raises(ValueError, match="unpack first"):
        stack(torch.randn(2, 3, 4), torch.zeros(2, stack.state_size))
    with pytest.raises(ValueError, match=r"is \(B, 12\), not \(2, 5\)"):
        stack.unpack(torch.zeros(2, 5))


def test_no_weight_decay_names_gates_only():
    stack = Stack(StackConfig(dim=4, num_layers=2))
    assert stack.no_weight_decay() == {
        f"blocks.{i}.mixer.gate.{p}" for i in range(2) for p in ("weight", "bias")
    }
    assert Block(MinGRU(4)).no_weight_decay() == {"mixer.gate.weight", "mixer.gate.bias"}


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("mlp_ratio", [0.0, 2.0])
def test_every_option_trains(norm, activation, mlp_ratio):
    config = StackConfig(
        dim=4, num_layers=2, norm=norm, activation=activation, mlp_ratio=mlp_ratio, dropout=0.5
    )
    stack = Stack(config)
    stack(torch.randn(2, 3, 4))[0].square().sum().backward()
    assert all(p.grad is not None for p in stack.parameters())


def test_dropout_acts_in_training_only():
    stack, x = Stack(StackConfig(dim=4, dropout=0.5)), torch.randn(2, 3, 4)
    assert not torch.equal(stack(x)[0], stack(x)[0])
    stack.eval()
    assert torch.equal(stack(x)[0], stack(x)[0])


def test_a_block_adds_to_its_input():
    block, x = Block(MinGRU(4)), torch.randn(2, 3, 4)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    # With all parameters zero the norm gives 0, z = 0.5 and g(0) = 0.5: h is 1/4, 3/8, 7/16.
    wanted = torch.tensor([0.25, 0.375, 0.4375])[None, :, None].expand(2, 3, 4)
    torch.testing.assert_close(block(x)[0] - x, wanted)


@pytest.mark.parametrize("name", available())
def test_a_copy_behaves_the_same(name):
    stack, x = Stack(StackConfig(dim=4, backbone=name)), torch.randn(2, 3, 4)
    for other in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        torch.testing.assert_close(other(x), stack(x), rtol=0, atol=0)
        assert other.config == stack.config
        other.load_state_dict(stack.state_dict())


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("no cell 'transformer'; there is .*mingru", {"backbone": "transformer"}),
        ("did you mean 'mingru'", {"backbone": "minGRU"}),
        ("did you mean 'expansion'", {"cell": {"expansio": 2}}),
        ("has no option 'normalize'; there is expansion", {"cell": {"normalize": True}}),
        ("one for each of the 3 layers, not 2: mingru, lstm", {"backbone": ("mingru", "lstm")}),
        ("did you mean 'mingru'", {"backbone": ("gru", "gru", "minGRU")}),
        (
            "none of gru, attention has the option 'windw'; did you mean 'window'",
            {"backbone": ("gru", "gru", "attention"), "cell": {"windw": 3}},
        ),
        ("there is layernorm, rmsnorm", {"norm": "batchnorm"}),
        ("there is relu, gelu", {"activation": "swish"}),
        ("dim must be at least 1", {"dim": 0}),
        ("num_layers must be at least 1", {"num_layers": 0}),
        ("mlp_ratio must not be negative", {"mlp_ratio": -1.0}),
        (r"dropout must be in \[0, 1\)", {"dropout": 1.0}),
    ],
)
def test_a_wrong_configuration_lists_what_there_is(message, options):
    with pytest.raises(ValueError, match=message):
        Stack(StackConfig(**options))


def test_layers_may_have_cells_of_their_own_each_with_the_options_it_has():
    config = StackConfig(
        dim=4,
        num_layers=3,
        backbone=("mingru", "attention", "mingru"),
        cell={"expansion": 2.0, "window": 3, "num_heads": 1},
    )
    stack = Stack(config)
    first, second, third = (block.mixer for block in stack.blocks)
    assert first.hidden == third.hidden == 8
    assert second.window == 3
    check_mixer(stack)
    packed = stack.pack(stack(torch.randn(2, 5, 4))[1])
    assert packed.shape == (2, stack.state_size)
