"""Training and acting are the same function: teacher-forced actions equal stepped actions."""

import pytest
import torch

import minrnn
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs
from agents.model.normaliser import Spaces
from agents.training.objectives import ReturnConditioned
from agents.training.optimiser import param_groups
from configs import ModelConfig
from envs.data.sampler import Batch
from minrnn.registry import cell_options

OBS, ACTION = 5, 3
SPACES = Spaces([0.5] * OBS, [2.0] * OBS, [-1.0, -2.0, 0.0], [1.0, 2.0, 4.0], 100.0, -200.0, 200.0)


def make(backbone="mingru", tokens="fused", prev_action=False, timesteps=0, **kwargs):
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=backbone,
        dim=16,
        num_layers=2,
        tokens=tokens,
        prev_action=prev_action,
        timestep_embedding=timesteps,
        **kwargs,
    )
    return DecisionModel(config, SPACES).double().eval()


def episodes(B=3, T=12):
    """Rows with a reset at t = 0 and others inside, as inputs of `forward`."""
    generator = torch.Generator().manual_seed(1)
    resets = torch.zeros(B, T, dtype=torch.bool)
    resets[:, 0] = True
    resets[0, 5] = resets[0, 6] = resets[2, T - 1] = True
    timestep = torch.zeros(B, T, dtype=torch.long)
    for t in range(1, T):
        timestep[:, t] = torch.where(resets[:, t], 0, timestep[:, t - 1] + 1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    prev_action = draw(B, T, ACTION).masked_fill((timestep == 0).unsqueeze(-1), 0)
    return Inputs(draw(B, T, OBS), 50 * draw(B, T, 1), prev_action, timestep, resets)


@pytest.mark.parametrize("backbone", minrnn.available())
@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
@pytest.mark.parametrize("prev_action", [False, True])
@pytest.mark.parametrize("timesteps", [0, 20])
def test_teacher_forced_actions_equal_stepped_actions(backbone, tokens, prev_action, timesteps):
    learned = "learn_initial_state" in (cell_options(backbone) or ())
    model = make(backbone, tokens, prev_action, timesteps, learn_initial_state=learned)
    inputs = episodes()
    forced, _ = model(inputs)
    state = None
    for t in range(forced.shape[1]):
        stepped, state = model.step(inputs.map(lambda part, t=t: part[:, t]), state)
        torch.testing.assert_close(stepped, forced[:, t], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
@pytest.mark.parametrize("prev_action", [False, True])
def test_an_episode_in_a_packed_row_acts_as_if_it_were_alone(tokens, prev_action):
    model = make(tokens=tokens, prev_action=prev_action)
    inputs = episodes()
    packed, _ = model(inputs)
    alone, _ = model(inputs.map(lambda part: part[:1, 6:]))
    torch.testing.assert_close(packed[:1, 6:], alone)


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
def test_actions_do_not_see_the_future(tokens):
    model = make(tokens=tokens, prev_action=True)
    obs, rtg, prev_action, timestep, resets, *_ = episodes()
    before, _ = model(Inputs(obs, rtg, prev_action, timestep, resets))
    obs[:, 8:] += 1
    rtg[:, 8:] -= 1
    after, _ = model(Inputs(obs, rtg, prev_action, timestep, resets))
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
def test_a_row_that_starts_in_mid_episode_sees_its_previous_action(tokens):
    model = make(tokens=tokens, prev_action=True)
    obs, rtg, prev_action, timestep, resets = (part[:, :4] for part in episodes()[:5])
    timestep = timestep + 7
    first, _ = model(Inputs(obs, rtg, prev_action, timestep, resets))
    second, _ = model(Inputs(obs, rtg, prev_action + 1, timestep, resets))
    assert not torch.allclose(first[:, 0], second[:, 0])


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
def test_the_first_step_of_an_episode_ignores_the_previous_action(tokens):
    model = make(tokens=tokens, prev_action=True)
    obs, rtg, prev_action, timestep, resets, *_ = episodes()
    first, _ = model(Inputs(obs, rtg, prev_action, timestep, resets))
    garbage = prev_action.masked_fill((timestep == 0).unsqueeze(-1), 1e3)
    second, _ = model(Inputs(obs, rtg, garbage, timestep, resets))
    starts = timestep == 0
    torch.testing.assert_close(first[starts], second[starts])


def test_actions_stay_inside_the_bounds_of_the_environment():
    model = make()
    with torch.no_grad():
        model.head.mean.weight.mul_(1e3)
    actions, _ = model(episodes())
    assert (actions >= model.head.action_low).all()
    assert (actions <= model.head.action_high).all()
    assert actions[..., 1].abs().max() > 1.5  # the wide dimension is used


def test_a_return_beyond_the_data_is_taken_for_the_largest_there():
    model = make()
    obs, _, prev_action, timestep, resets, *_ = episodes()
    first, second, inside = (
        model(Inputs(obs, torch.full_like(obs[..., :1], rtg), prev_action, timestep, resets))[0]
        for rtg in (200.0, 9999.0, 150.0)
    )
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, inside)


def test_padding_does_not_enter_the_loss():
    model = make()
    obs, rtg, prev_action, timestep, resets, *_ = episodes()
    action = torch.zeros_like(prev_action)
    mask = torch.ones_like(resets)
    mask[1, 6:] = False
    batch = Batch(obs, action, prev_action, rtg, timestep, resets, mask)
    loss = lambda action: ReturnConditioned(model).loss(batch._replace(action=action))[0]  # noqa: E731
    first = loss(action)
    spoilt = action.clone()
    spoilt[1, 6:] = 100
    assert loss(spoilt) == first
    spoilt[1, 5] = 100
    assert loss(spoilt) > first


def test_a_model_in_bfloat16_autocast_stays_close_to_float32():
    model = make().float()
    inputs = episodes().map(lambda part: part.float() if part.is_floating_point() else part)
    exact, _ = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = model(inputs)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0.1)


def test_weight_decay_leaves_gates_biases_and_norms_alone():
    model = make(timesteps=20)
    decayed, exempt = param_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert exempt["weight_decay"] == 0.0
    names = {id(p): name for name, p in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    exempt_names = {names[id(p)] for p in exempt["params"]}
    assert decayed_names | exempt_names == set(names.values())
    assert not decayed_names & exempt_names
    assert "head.mean.weight" in decayed_names
    assert all(not name.endswith("bias") for name in decayed_names)
    assert "tokens.embed.timestep.weight" in exempt_names
    gates = [name for name in exempt_names if "gate" in name and name.endswith("weight")]
    assert len(gates) == 2  # one a layer


def test_cells_take_their_options_and_layers_may_differ():
    cell = {"window": 4, "num_heads": 2}
    model = make("mingru,attention", cell=cell, expansion=2.0)
    first, second = (block.mixer for block in model.stack.blocks)
    assert (first.hidden, second.window) == (32, 4)
    with pytest.raises(ValueError, match="no option 'windw'"):
        make("attention", cell={"windw": 4})
    with pytest.raises(ValueError, match="empty name"):
        make("mingru,")


def test_a_cell_of_ones_own_needs_no_options_to_be_an_agents_backbone():
    @minrnn.register("plain-for-test")
    def build(dim):
        return minrnn.MinGRU(dim)

    assert isinstance(make("plain-for-test").stack.blocks[0].mixer, minrnn.MinGRU)
    with pytest.raises(ValueError, match="no option 'expansion'"):
        make("plain-for-test", expansion=2.0)
