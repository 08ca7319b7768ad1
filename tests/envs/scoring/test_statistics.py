from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.scoring.statistics import iqm, nested_interval, rate_interval, row_means

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


@pytest.mark.parametrize(("runs", "share"), [(2, 0.5), (3, 0.7), (5, 0.85), (10, 0.9)])
def test_the_interval_over_few_runs_covers_it_as_often_as_is_told(runs: int, share: float) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        scores = rng.normal(size=(runs, 1)) + 0.1 * rng.normal(size=(runs, 20))
        low, high = nested_interval(scores, row_means, samples=200, seed=i)
        hits += low <= 0.0 <= high
    assert hits / 200 == pytest.approx(share, abs=0.08)


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    scores = np.random.default_rng(0).normal(size=10)
    assert nested_interval(scores, seed=3) == nested_interval(scores, seed=3)
    assert nested_interval(scores, seed=3) != nested_interval(scores, seed=4)


def test_no_scores_are_refused() -> None:
    for function in (iqm, nested_interval):
        with pytest.raises(ValueError, match="at least one score"):
            function(np.zeros(0))


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
