"""Rollouts: play every episode of a queue, without bias, over many environments at once."""

from envs.rollout.queue import Progress, Rollout, TooManyFailed, rollout, too_many

__all__ = ["Progress", "Rollout", "TooManyFailed", "rollout", "too_many"]
