"""The fused MLP does what its parts do."""

import pytest
import torch
from torch import nn

import minrnn.mlp as mlp_module
from minrnn.mlp import MLP


def gradients(module, x, autocast=False):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = module(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], weight)]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)])
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
    relu, gelu, x = MLP(2, 4), MLP(2, 4, "gelu"), torch.zeros(3, 2)
    relu(x)
    assert len(calls) == (mlp_module._FUSED is not None)
    calls.clear()
    gelu(x)
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
    x = torch.randn(5, 3)
    for one, other in zip(gradients(mlp, x), gradients(nn.Sequential(*mlp), x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_nan_is_not_swallowed():
    mlp = MLP(2, 4)
    x = torch.tensor([[float("nan"), 0.0], [1.0, 2.0]])
    y, grad_x, *_ = gradients(mlp, x)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()
    assert grad_x[1].isfinite().all()


def test_hooks_and_other_layers_are_called():
    seen = []
    mlp = MLP(2, 4)
    mlp[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    mlp(torch.zeros(3, 2))
    assert seen == [(3, 4)]

    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    torch.manual_seed(0)
    plain = MLP(2, 4)
    replaced = MLP(2, 4)
    replaced.load_state_dict(plain.state_dict())
    replaced[2] = Doubled(4, 2)
    replaced[2].load_state_dict(plain[2].state_dict())
    x = torch.randn(3, 2)
    torch.testing.assert_close(replaced(x), 2 * plain(x))
