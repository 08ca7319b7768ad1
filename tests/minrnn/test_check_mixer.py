"""check_mixer passes what is right, and rejects what is broken, naming the law."""

import pytest
import torch
from torch import nn

from minrnn import MinGRU, check_mixer
from minrnn.testing import LAWS
from tests.support.broken import BROKEN, Good


def test_a_good_cell_passes_however_it_is_given():
    check_mixer(Good, dim=4)
    check_mixer(lambda: Good(3))
    check_mixer(Good(3), dtype=torch.float32)


@pytest.mark.parametrize("cell", BROKEN, ids=lambda cell: cell.__name__)
def test_a_broken_cell_is_rejected_by_the_law_it_breaks(cell):
    with pytest.raises(AssertionError, match=f"^{BROKEN[cell]}: "):
        check_mixer(cell, dim=4)


def test_there_is_a_broken_cell_for_every_law():
    assert {law.__name__.capitalize() for law in LAWS} == set(BROKEN.values())
    assert len(LAWS) == 8


def test_an_exception_is_reported_under_the_law_that_met_it():
    class Raises(MinGRU):
        def step(self, x, state=None, resets=None):
            raise RuntimeError("no steps here")

    with pytest.raises(AssertionError, match=r"^Purity: running .* RuntimeError: no steps here"):
        check_mixer(Raises, dim=4)


def test_a_wrong_output_shape_is_rejected():
    class Narrow(MinGRU):
        def forward(self, x, state=None, resets=None):
            y, state = super().forward(x, state, resets)
            return y[..., :-1], state

    with pytest.raises(AssertionError, match="shape"):
        check_mixer(Narrow, dim=4)


def test_neither_the_module_nor_the_global_random_state_is_touched():
    module = MinGRU(4).train()
    before = {name: p.clone() for name, p in module.named_parameters()}
    random = torch.random.get_rng_state()
    check_mixer(module)
    assert torch.equal(random, torch.random.get_rng_state())
    assert module.training
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


class _Tracked(nn.Module):
    """A mixer with nothing from minrnn: an nn.GRU, dict state and a count of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 3
        self.cell = nn.GRUCell(3, 3)

    def initial_state(self, batch_size, device=None, dtype=None):
        like = self.cell.weight_ih
        return {
            "h": torch.zeros(batch_size, 3, dtype=dtype or like.dtype, device=device),
            "n": torch.zeros(batch_size, dtype=torch.int64, device=device),
        }

    def step(self, x, state=None, resets=None):
        state = state or self.initial_state(len(x))
        h, n = state["h"], state["n"]
        if resets is not None:
            h = torch.where(resets[:, None], 0.0, h)
            n = torch.where(resets, 0, n)
        h = self.cell(x, h)
        return h + (n[:, None] % 5).to(h.dtype), {"h": h, "n": n + 1}

    def forward(self, x, state=None, resets=None):
        outputs = []
        for t in range(x.shape[1]):
            y, state = self.step(x[:, t], state, None if resets is None else resets[:, t])
            outputs.append(y)
        return torch.stack(outputs, 1), state


def test_a_module_of_anyone_with_integers_in_its_state_passes():
    check_mixer(_Tracked())
