"""The examples in the docstrings of envs, run."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "envs.data.builder",
        "envs.behaviour.pointmaze",
        "envs.worlds.flat",
        "envs.worlds.spec",
        "envs.inspect.histogram",
        "envs.data.trajectories",
        "envs.data.sampler",
        "envs.rollout.queue",
        "envs.scoring.statistics",
        "envs.data.combine",
        "envs.sources.names",
    ],
)
def test_examples_do_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
