from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.scoring.score import CONVENTION, iqm, nested_interval, protocol, rate_interval, row_means

SCORES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert iqm([100, 1, 2, 3, 4, -50, 2, 2]) == 2.25  # of 2 2 2 3
    assert iqm([1.0, 2.0, 6.0]) == 3.0  # fewer than four: the mean


@given(SCORES, st.floats(-10, 10))
def test_the_interquartile_mean_is_between_and_moves_along(scores: list[float], by: float) -> None:
    assert min(scores) - 1e-9 <= iqm(scores) <= max(scores) + 1e-9
    assert iqm(np.array(scores) + by) == pytest.approx(iqm(scores) + by, abs=1e-6)
    assert iqm(scores[::-1]) == iqm(scores)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        low, high = nested_interval(rng.normal(size=40), row_means, level=0.9, samples=200, seed=i)
        hits += low <= 0.0 <= high
    assert 0.82 < hits / 200 < 0.96


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    scores = np.random.default_rng(0).normal(size=10)
    assert nested_interval(scores, seed=3) == nested_interval(scores, seed=3)
    assert nested_interval(scores, seed=3) != nested_interval(scores, seed=4)


def test_no_scores_are_refused() -> None:
    for function in (iqm, nested_interval):
        with pytest.raises(ValueError, match="of no scores"):
            function(np.zeros(0))


def test_the_convention_is_true_of_every_environment_with_constants() -> None:
    assert "v2" not in CONVENTION
    assert "Hopper-v5 and AdroitHandDoor-v1" in CONVENTION


@pytest.mark.parametrize(
    ("won", "of", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_a_rate_is_wilsons(won: int, of: int, low: float, high: float) -> None:
    successes = [True] * won + [False] * (of - won)
    assert rate_interval(successes) == pytest.approx((low, high), abs=5e-5)


def test_a_protocol_names_everything_and_fits_json() -> None:
    entries = protocol(
        data="minrnn/hopper/medium-v0",
        env="Hopper-v5",
        targets=np.array([1000, 2000], np.float32),  # type: ignore[arg-type]
        episodes=20,
        seeds=range(3),
        memory="carry",
    )
    assert json.loads(json.dumps(entries)) == entries
    text = json.dumps(entries)
    for part in ("minrnn/hopper/medium-v0", "Hopper-v5", "1000.0, 2000.0", "0, 1, 2", "3234.3"):
        assert part in text
    for part in ("convention", "last", "carry", entries["mujoco"], entries["gymnasium"]):
        assert part in text


def test_a_protocol_says_where_no_reference_is_known() -> None:
    entries = protocol(data="a/b-v0", env="Pendulum-v1", targets=[], episodes=1, seeds=[0])
    assert entries["reference_max"] is None
    assert "raw returns only" in entries["note"]
