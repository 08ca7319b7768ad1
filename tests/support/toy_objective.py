"""An objective with a second network and a target copy of it: python toy_objective.py [train.py's].

Imitation, beside a value function learned by TD(0): what a critic needs of the trainer, which is
transitions, and parameters, targets, groups and metrics of its own.
"""

import copy
import sys

import torch
from torch import nn
from torch.nn import functional as F

import train
from agents.training.objectives import ReturnConditioned, register
from agents.training.optimiser import param_groups
from envs.script import run_script


@register("toy_td")
class ToyTD(ReturnConditioned):
    """Return-conditioned imitation and a TD(0) value function of the observation."""

    transitions = True

    def __init__(self, model, discount=0.99, lr=3e-3):
        super().__init__(model)
        self.discount, self.lr = discount, lr
        self.value = nn.Sequential(nn.Linear(model.obs_dim, 16), nn.ReLU(), nn.Linear(16, 1))
        self.target = copy.deepcopy(self.value).requires_grad_(False)
        self.register_buffer("moves", torch.zeros((), dtype=torch.int64))

    def loss(self, batch):
        imitation, metrics = super().loss(batch)
        with torch.no_grad():
            later = self.target(batch.next_obs).squeeze(-1) * ~batch.terminated
        error = self.value(batch.obs).squeeze(-1) - (batch.reward + self.discount * later)
        td = (F.huber_loss(error, torch.zeros_like(error), reduction="none") * batch.mask).sum()
        td = td / batch.mask.sum()
        return imitation + td, {**metrics, "td": td}

    def param_groups(self, weight_decay):
        groups = param_groups(self.model, weight_decay)
        return [*groups, {"params": list(self.value.parameters()), "lr": self.lr}]

    def after_update(self):
        self.moves += 1
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.value.parameters(), strict=True):
                slow.lerp_(fast, 0.05)


if __name__ == "__main__":
    sys.exit(run_script(train.main))
