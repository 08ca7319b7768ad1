"""Attention and that of transformers: Llama's (rotary, grouped) and GPT-2's (of the original DT).

Tried with transformers 5.23.0.
"""

import pytest
import torch

from minrnn import Attention

llama = pytest.importorskip("transformers.models.llama.modeling_llama")
gpt2 = pytest.importorskip("transformers.models.gpt2.modeling_gpt2")
DIM, LENGTH = 16, 70


def mask_of(window):
    """Return (1, 1, T, T): zero where a step is seen, else minus infinity."""
    age = torch.arange(LENGTH).unsqueeze(1) - torch.arange(LENGTH)
    return torch.zeros(1, 1, LENGTH, LENGTH).masked_fill((age < 0) | (age >= window), -torch.inf)


def compare(cell, x, wanted, peer_parameters):
    """Compare outputs, the gradient by x, and those of parameters {name: (gradient's view)}."""
    y, _ = cell(x)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(y)
    got = torch.autograd.grad((y * weight).sum(), [x, cell.qkv.weight, cell.out.weight])
    by = torch.autograd.grad((wanted * weight).sum(), [x, *peer_parameters])
    return got, by


@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (4, 4), (4, 2), (2, 1)])
@pytest.mark.parametrize("window", [5, 33, 70])
def test_rotary_agrees_with_llama(heads, groups, window):
    torch.manual_seed(0)
    config = llama.LlamaConfig(
        hidden_size=DIM,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        attention_bias=True,
        attn_implementation="eager",
    )
    peer = llama.LlamaAttention(config, 0)
    cell = Attention(DIM, num_heads=heads, num_kv_heads=groups, window=window)
    sizes = [DIM, groups * DIM // heads, groups * DIM // heads]
    projections = (peer.q_proj, peer.k_proj, peer.v_proj)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = getattr(cell.qkv, name).split(sizes)
            for module, part in zip(projections, parts, strict=True):
                getattr(module, name).copy_(part)
            getattr(peer.o_proj, name).copy_(getattr(cell.out, name))
    x = torch.randn(2, LENGTH, DIM, requires_grad=True)
    turns = llama.LlamaRotaryEmbedding(config)(x, torch.arange(LENGTH).unsqueeze(0))
    wanted, _ = peer(x, turns, mask_of(window))
    weights = [module.weight for module in (*projections, peer.o_proj)]
    got, by = compare(cell, x, wanted, weights)
    by = (by[0], torch.cat(by[1:4]), by[4])
    torch.testing.assert_close(got, by, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 4])
def test_without_positions_it_agrees_with_gpt2(heads):
    torch.manual_seed(0)
    config = gpt2.GPT2Config(n_embd=DIM, n_head=heads, attn_implementation="eager")
    peer = gpt2.GPT2Attention(config, layer_idx=0).eval()
    cell = Attention(DIM, num_heads=heads, window=20, positions="none")
    with torch.no_grad():
        peer.c_attn.weight.copy_(cell.qkv.weight.T)  # its weights are the other way round
        peer.c_attn.bias.copy_(cell.qkv.bias)
        peer.c_proj.weight.copy_(cell.out.weight.T)
        peer.c_proj.bias.copy_(cell.out.bias)
    x = torch.randn(2, LENGTH, DIM, requires_grad=True)
    wanted, *_ = peer(x, attention_mask=mask_of(20))
    got, by = compare(cell, x, wanted, [peer.c_attn.weight, peer.c_proj.weight])
    torch.testing.assert_close(got, (by[0], by[1].T, by[2].T), rtol=1e-4, atol=1e-5)
