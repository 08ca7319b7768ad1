"""The fused MLP does what its parts do."""

import pytest
import torch
from torch import nn

import minrnn
import minrnn.mlp as mlp_module
from minrnn.mlp import MLP


def gradients(module, x, autocast=False):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = module(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], weight)]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 3, 7), (2, 0, 7)])
def test_fused_and_plain_are_equal(shape, autocast):
    torch.manual_seed(0)
    mlp = MLP(7, 30)
    plain = nn.Sequential(*mlp)
    x = torch.randn(shape)
    for one, other in zip(gradients(mlp, x, autocast), gradients(plain, x, autocast), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_fused_path_is_taken_in_training_alone(monkeypatch):
    calls = []

    class Spy:
        @staticmethod
        def apply(*arguments):
            calls.append(arguments)
            return arguments[0]

    monkeypatch.setattr(mlp_module, "_ReluMLP", Spy)
    relu, gelu, x = MLP(2, 4), MLP(2, 4, "gelu"), torch.zeros(1, 3, 2)
    relu(x)
    assert len(calls) == (mlp_module._FUSED is not None)
    calls.clear()
    gelu(x)
    relu(x[0])
    relu.double()(x.double())
    with torch.no_grad():
        relu.float()(x)
    with torch.autocast("cpu", torch.bfloat16):
        relu(x)
    assert not calls


def test_without_bias():
    torch.manual_seed(0)
    mlp = MLP(3, 8)
    mlp[0].bias = mlp[2].bias = None
    x = torch.randn(1, 5, 3)
    for one, other in zip(gradients(mlp, x), gradients(nn.Sequential(*mlp), x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_nan_is_not_swallowed():
    mlp = MLP(2, 4)
    x = torch.tensor([[[float("nan"), 0.0], [1.0, 2.0]]])
    y, grad_x, *_ = gradients(mlp, x)
    assert y[0, 0].isnan().all()
    assert y[0, 1].isfinite().all()
    assert grad_x[0, 1].isfinite().all()


def test_hooks_and_other_layers_are_called():
    seen = []
    mlp = MLP(2, 4)
    mlp[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    mlp(torch.zeros(1, 3, 2))
    assert seen == [(1, 3, 4)]

    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    torch.manual_seed(0)
    plain = MLP(2, 4)
    replaced = MLP(2, 4)
    replaced.load_state_dict(plain.state_dict())
    replaced[2] = Doubled(4, 2)
    replaced[2].load_state_dict(plain[2].state_dict())
    x = torch.randn(1, 3, 2)
    torch.testing.assert_close(replaced(x), 2 * plain(x))

    patched = MLP(2, 4)
    patched[2].forward = lambda hidden: torch.zeros(1, 3, 2)  # as accelerate does
    assert not patched(x).any()

    calls = []
    listened = MLP(2, 4)
    listened[0].register_full_backward_pre_hook(lambda module, grad: calls.append(0))
    listened(x.clone().requires_grad_()).sum().backward()
    assert calls
    longer = MLP(2, 4).append(nn.Tanh())
    assert longer(x).abs().max() < 1


def test_steps_can_be_differentiated_twice_and_mapped():
    torch.manual_seed(0)
    stack = minrnn.Stack(minrnn.StackConfig(dim=4))
    x = torch.randn(3, 4, requires_grad=True)
    (first,) = torch.autograd.grad(stack.step(x)[0].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.abs().sum() > 0
    mapped = torch.func.vmap(lambda row: stack.step(row[None])[0][0])(x)
    torch.testing.assert_close(mapped, stack.step(x)[0])


def test_frozen_layers_get_no_gradient():
    mlp = MLP(2, 4)
    mlp[0].requires_grad_(False)
    mlp(torch.randn(1, 3, 2)).sum().backward()
    assert mlp[0].weight.grad is None
    assert mlp[2].weight.grad is not None
