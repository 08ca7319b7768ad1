"""A Decision Transformer of transformers, against its equations and, if installed, against it."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from agents.model.inputs import Inputs
from agents.storage.hugging_face import load_decision_transformer
from envs.errors import UserError

OBS, ACTION, DIM, LAYERS, TIMES, STEPS = 5, 3, 16, 2, 50, 12
SETTINGS = {"n_head": 2, "activation_function": "relu", "hidden_size": DIM, "n_layer": LAYERS}
MEAN, STD = [0.5, -1.0, 0.0, 2.0, 1.0], [2.0, 1.0, 0.5, 1.0, 3.0]


def weights():
    """Return random weights by transformers' names; its Conv1D stores (inputs, outputs)."""
    torch.manual_seed(0)
    shapes = {
        "embed_timestep.weight": (TIMES, DIM),
        "encoder.wpe.weight": (64, DIM),
        "encoder.wte.weight": (1, DIM),
    }
    linear = {"embed_return": (DIM, 1), "embed_state": (DIM, OBS), "embed_action": (DIM, ACTION)}
    linear |= {"predict_action.0": (ACTION, DIM), "embed_ln": (DIM,), "encoder.ln_f": (DIM,)}
    for i in range(LAYERS):
        layer = f"encoder.h.{i}"
        linear |= {f"{layer}.ln_1": (DIM,), f"{layer}.ln_2": (DIM,)}
        for name, ins, outs in (
            ("attn.c_attn", DIM, 3 * DIM),
            ("attn.c_proj", DIM, DIM),
            ("mlp.c_fc", DIM, 4 * DIM),
            ("mlp.c_proj", 4 * DIM, DIM),
        ):
            shapes |= {f"{layer}.{name}.weight": (ins, outs), f"{layer}.{name}.bias": (outs,)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: 0.4 * torch.randn(shape) for name, shape in shapes.items()}


def theirs(w, obs, rtg, action, timestep):
    """Compute the actions (B, T, A) of the scaled inputs: tokens R, s, a at each step."""

    def linear(x, name):
        return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, (DIM,), w[f"{name}.weight"], w[f"{name}.bias"])

    time = w["embed_timestep.weight"][timestep]
    parts = linear(rtg, "embed_return"), linear(obs, "embed_state"), linear(action, "embed_action")
    x = norm(torch.stack([part + time for part in parts], 2).flatten(1, 2), "embed_ln")
    x = x + w["encoder.wpe.weight"][0]
    for i in range(LAYERS):
        layer = f"encoder.h.{i}"

        def conv(x, name, layer=layer):
            return x @ w[f"{layer}.{name}.weight"] + w[f"{layer}.{name}.bias"]

        parts = conv(norm(x, f"{layer}.ln_1"), "attn.c_attn").split(DIM, -1)
        heads = [part.unflatten(-1, (SETTINGS["n_head"], -1)).transpose(1, 2) for part in parts]
        y = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + conv(y, "attn.c_proj")
        x = x + conv(conv(norm(x, f"{layer}.ln_2"), "mlp.c_fc").relu(), "mlp.c_proj")
    return linear(norm(x, "encoder.ln_f")[:, 1::3], "predict_action.0").tanh()


def save(folder, w, **settings):
    save_file(w, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings), encoding="utf-8")


def batch():
    torch.manual_seed(1)
    obs, rtg = torch.randn(2, STEPS, OBS), 100 * torch.randn(2, STEPS, 1)
    return obs, rtg, 2 * torch.rand(2, STEPS, ACTION) - 1, torch.arange(STEPS).expand(2, STEPS)


def ours(model, obs, rtg, action, timestep):
    before = torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], 1)
    with torch.no_grad():
        return model(Inputs(obs, rtg, before, timestep, timestep == 0))[0]


def scaled(obs, rtg, action, timestep):
    return (obs - torch.tensor(MEAN)) / torch.tensor(STD), rtg / 50.0, action, timestep


def test_it_computes_the_same_actions(tmp_path):
    w = weights()
    save(tmp_path, w)
    model = load_decision_transformer(tmp_path, obs_mean=MEAN, obs_std=STD, return_scale=50.0)
    wanted = theirs(w, *scaled(*batch()))
    torch.testing.assert_close(ours(model, *batch()), wanted, rtol=0, atol=2e-6)
    wide = load_decision_transformer(
        tmp_path,
        obs_mean=MEAN,
        obs_std=STD,
        return_scale=50.0,
        action_low=[-2.0, -1.0, 0.0],
        action_high=[2.0, 1.0, 1.0],
    )
    middle, half = torch.tensor([0.0, 0.0, 0.5]), torch.tensor([2.0, 1.0, 0.5])
    torch.testing.assert_close(ours(wide, *batch()), middle + half * wanted, rtol=0, atol=4e-6)


def test_it_computes_what_transformers_does(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.DecisionTransformerConfig(
        state_dim=OBS, act_dim=ACTION, max_ep_len=TIMES, **SETTINGS
    )
    model = transformers.DecisionTransformerModel(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_decision_transformer(tmp_path, obs_mean=MEAN, obs_std=STD, return_scale=50.0)
    obs, rtg, action, timestep = scaled(*batch())
    with torch.no_grad():
        wanted = model(
            states=obs,
            actions=action,
            rewards=None,
            returns_to_go=rtg,
            timesteps=timestep,
            attention_mask=torch.ones(2, STEPS),
        ).action_preds
    torch.testing.assert_close(ours(loaded, *batch()), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"activation_function": "gelu_new"}, "gelu_new"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"action_tanh": False}, "action_tanh"),
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
        ({"n_head": 3}, "num_heads"),
    ],
)
def test_other_equations_are_refused(tmp_path, change, match):
    save(tmp_path, weights(), **change)
    with pytest.raises(UserError, match=match):
        load_decision_transformer(tmp_path, obs_mean=MEAN, obs_std=STD)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="save_pretrained"):
        load_decision_transformer(tmp_path, obs_mean=MEAN, obs_std=STD)
    save(tmp_path, weights())
    with pytest.raises(UserError, match="that fits"):
        load_decision_transformer(tmp_path, obs_mean=MEAN[:3], obs_std=STD[:3])
    save(tmp_path, {"embed_timestep.weight": torch.zeros(TIMES, DIM)})
    with pytest.raises(UserError, match="that fits"):
        load_decision_transformer(tmp_path, obs_mean=MEAN, obs_std=STD)
    (tmp_path / "model.safetensors").write_bytes(b"not that")
    with pytest.raises(UserError, match="that fits"):
        load_decision_transformer(tmp_path, obs_mean=MEAN, obs_std=STD)
