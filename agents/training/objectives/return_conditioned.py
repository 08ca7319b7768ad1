"""Imitate the data's actions, given the return that followed them."""

from __future__ import annotations

from torch import Tensor

from agents.model.inputs import Inputs
from agents.training.objectives.base import Objective, register
from envs.data.sampler import Batch


@register("return_conditioned")
class ReturnConditioned(Objective):
    """The head's loss of the data's actions (Decision Transformer, arXiv:2106.01345)."""

    def loss(self, batch: Batch[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the real steps."""
        y, _ = self.model.features(Inputs.of(batch))
        error = self.model.head.loss(y, batch.action)
        return (error * batch.mask).sum() / batch.mask.sum(), {}
