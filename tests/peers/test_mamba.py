"""Mamba, mambapy's, and the one in transformers, which both run in plain torch on a CPU.

Tried with mambapy 1.2.0 and transformers 5.23.0.
"""

import pytest
import torch

from minrnn import Mamba


def shared(cell):
    """Return the parameters of a cell under the names of the original."""
    named = dict(cell.named_parameters())
    weight, bias = named.pop("conv.weight"), named.pop("conv.bias")
    return named | {"conv1d.weight": weight.unsqueeze(1), "conv1d.bias": bias}


def make(module):
    """Return a cell with random parameters, and a peer with the same, copied in."""
    torch.manual_seed(0)
    cell = Mamba(16, d_state=8)
    with torch.no_grad():
        cell.D.normal_()
        cell.A_log.add_(0.1 * torch.randn_like(cell.A_log))
        own = shared(cell)
        assert own.keys() == dict(module.named_parameters()).keys()
        for name, parameter in module.named_parameters():
            parameter.copy_(own[name])
    return cell


def agree(cell, peer, y, wanted):
    """Check outputs, and the gradients of all parameters."""
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    (wanted * weight).sum().backward()
    for name, parameter in peer.named_parameters():
        mine = dict(cell.named_parameters())[name.replace("conv1d", "conv")].grad
        torch.testing.assert_close(mine, parameter.grad.view_as(mine), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", [2, 5, 64])
@pytest.mark.parametrize("parallel", [True, False])
def test_mambapy_agrees(length, parallel):
    mambapy = pytest.importorskip("mambapy.mamba")
    config = mambapy.MambaConfig(d_model=16, n_layers=1, d_state=8, pscan=parallel)
    peer = mambapy.MambaBlock(config)
    cell = make(peer)
    x = torch.randn(3, length, 16)
    agree(cell, peer, cell(x)[0], peer(x))


@torch.no_grad()
def test_mambapys_steps_agree():
    mambapy = pytest.importorskip("mambapy.mamba")
    peer = mambapy.MambaBlock(mambapy.MambaConfig(d_model=16, n_layers=1, d_state=8))
    cell = make(peer)
    cache, state = (None, torch.zeros(3, 32, 3)), None
    for x in torch.randn(20, 3, 16):
        y, state = cell.step(x, state)
        wanted, cache = peer.step(x, cache)
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state[1], cache[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state[0], cache[1].transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_the_mixer_in_transformers_agrees():
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    config = modeling.MambaConfig(hidden_size=16, state_size=8, num_hidden_layers=1)
    peer = modeling.MambaMixer(config, layer_idx=0)
    cell = make(peer)
    x = torch.randn(3, 40, 16)
    agree(cell, peer, cell(x)[0], peer(x))
