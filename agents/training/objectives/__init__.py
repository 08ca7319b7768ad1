"""Objectives: what training minimises. One file each; `OBJECTIVES` has all of them by name."""

from agents.training.objectives.base import OBJECTIVES, Objective, make, register
from agents.training.objectives.return_conditioned import ReturnConditioned

__all__ = ["OBJECTIVES", "Objective", "ReturnConditioned", "make", "register"]
