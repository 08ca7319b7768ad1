"""The examples in the docstrings of envs, run."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "envs.assembly",
        "envs.behaviour.pointmaze",
        "envs.flat",
        "envs.histogram",
        "envs.trajectories",
        "envs.sampler",
        "envs.rollout",
        "envs.score",
        "envs.sources.combine",
        "envs.sources.names",
    ],
)
def test_examples_do_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
