"""What the presets build."""

import pytest
import torch

from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs
from agents.model.normaliser import Spaces
from configs import PRESETS

HOPPER = Spaces([0.0] * 11, [1.0] * 11, [-1.0] * 3, [1.0] * 3, 1000.0, 0.0, 3200.0)
PEERS = ("dt", "daaren", "ds4", "dmamba", "dxlstm", "drwkv", "dlstm", "dgru")


def parameters(name):
    return sum(p.numel() for p in DecisionModel(PRESETS[name].model, HOPPER).parameters())


@pytest.mark.parametrize("name", PEERS)
def test_peers_have_as_many_parameters_as_the_papers_agent(name):
    assert parameters(name) == pytest.approx(parameters("paper-mingru"), rel=0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_acts(name):
    model = DecisionModel(PRESETS[name].model, HOPPER).eval()
    first = torch.ones(2, dtype=torch.bool)
    now = torch.zeros(2, dtype=torch.long)
    action, _ = model.step(
        Inputs(torch.zeros(2, 11), torch.ones(2, 1), torch.zeros(2, 3), now, first)
    )
    assert action.shape == (2, 3)
    assert action.isfinite().all()
