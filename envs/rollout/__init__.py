"""Rollouts: run every episode of a queue, without bias, in many environments at once."""

from envs.rollout.queue import Progress, Rollout, TooManyFailed, check_failures, rollout

__all__ = ["Progress", "Rollout", "TooManyFailed", "check_failures", "rollout"]
