from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.data.sampler import Batch, PackedSampler, Sampler, WindowSampler
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from tests.support.toys import ACTION, OBS, data

SAMPLERS = (PackedSampler, WindowSampler)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def steps_of(batch: Batch) -> np.ndarray[Any, Any]:
    """obs[..., 0] of the toy data is the step's place in the data."""
    return np.round(batch.obs[..., 0]).astype(int)


def asked(batch: Batch) -> list[np.ndarray[Any, Any]]:
    """Return the arrays of a batch, without the fields that were not asked for."""
    return [values for values in batch if values is not None]


def check(batch: Batch, source: Trajectories) -> None:
    """Every real step of a batch is what the data has there; padding is zero and to the right."""
    steps, mask = steps_of(batch), batch.mask
    rtg, timesteps = source.returns_to_go(), source.timesteps()
    for b, t in np.argwhere(mask):
        n = steps[b, t]
        np.testing.assert_array_equal(batch.obs[b, t], source.obs[n])
        np.testing.assert_array_equal(batch.action[b, t], source.action[n])
        first = timesteps[n] == 0
        before = np.zeros(source.action_dim) if first else source.action[n - 1]
        np.testing.assert_array_equal(batch.prev_action[b, t], before)
        assert batch.rtg[b, t, 0] == rtg[n]
        assert batch.timestep[b, t] == timesteps[n]
        assert batch.resets[b, t] == (t == 0 or first)
        if t and not first:
            assert steps[b, t - 1] == n - 1
    assert mask[:, 0].all()
    assert batch.resets[:, 0].all()
    assert (mask[:, :-1] >= mask[:, 1:]).all()
    for values in asked(batch):
        assert not values[~mask].any()


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 15), st.integers(0, 9))
@settings(max_examples=40)
def test_batches_hold_what_the_data_holds(
    sampler: type[Sampler], lengths: list[int], batch_size: int, length: int, seed: int
) -> None:
    source = data(lengths)
    drawn = sampler(source, batch_size, length, seed)
    for _ in range(3):
        check(drawn.sample(), source)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_shapes_and_types_are_those_of_the_batch(sampler: type[Sampler]) -> None:
    batch = sampler(data([5, 9, 2]), 4, 7).sample()
    shapes = [(4, 7, OBS), (4, 7, ACTION), (4, 7, ACTION), (4, 7, 1), (4, 7), (4, 7), (4, 7)]
    assert [values.shape for values in asked(batch)] == shapes
    types = [np.float32] * 4 + [np.int64, np.bool_, np.bool_]
    assert [values.dtype for values in asked(batch)] == types
    assert all(values.flags.c_contiguous and values.flags.owndata for values in asked(batch))


@given(LENGTHS, st.integers(1, 15), st.integers(0, 9))
def test_packed_rows_deal_every_step_once_in_an_epoch(
    lengths: list[int], length: int, seed: int
) -> None:
    source = data(lengths)
    rows = -(-source.num_steps // length)
    batch = PackedSampler(source, rows, length, seed).sample()
    assert batch.mask.all()
    count = np.bincount(steps_of(batch).ravel(), minlength=source.num_steps)
    assert (count >= 1).all()
    assert count.sum() - source.num_steps == rows * length - source.num_steps < length


def test_packed_rows_hold_several_episodes_with_resets_at_their_starts() -> None:
    source = data([3] * 30)
    batch = PackedSampler(source, 4, 12).sample()
    assert (batch.resets[:, 1:].sum(axis=1) >= 3).all()


def test_packed_rows_start_at_every_step_of_an_episode_longer_than_a_row() -> None:
    sampler = PackedSampler(data([50]), 5, 10, seed=1)
    seen = {int(n) for _ in range(400) for n in steps_of(sampler.sample())[:, 0]}
    assert seen == set(range(50))


def test_packed_rows_of_one_batch_are_not_neighbours() -> None:
    sampler = PackedSampler(data([1000] * 20), 8, 100, seed=0)
    episodes = {int(n) // 1000 for n in steps_of(sampler.sample())[:, 0]}
    assert len(episodes) > 4


def test_windows_that_overlap_an_episode_are_equally_likely() -> None:
    source = data([2, 18, 5])
    sampler = WindowSampler(source, 500, 4, seed=3)
    starts = np.concatenate([steps_of(sampler.sample())[:, 0] for _ in range(100)])
    count = np.bincount(starts, minlength=25)
    expected = np.ones(25)
    expected[[0, 2, 20]] = 4  # the windows that begin before the episode begin with it
    expected *= 50_000 / expected.sum()
    assert ((count - expected) ** 2 / expected).sum() < 52  # chi-squared(24), 99.9 %


def test_no_step_is_shown_less_often_than_others_because_of_where_it_is() -> None:
    sampler = WindowSampler(data([3, 40, 7]), 500, 5, seed=3)
    batches = [sampler.sample() for _ in range(100)]
    count = np.bincount(np.concatenate([steps_of(b)[b.mask] for b in batches]), minlength=50)
    inside = count[10:38].mean()
    assert count.min() > 0.9 * inside
    assert count.max() < 2.2 * inside


def test_windows_stay_in_one_episode() -> None:
    batch = WindowSampler(data([3, 4, 2]), 64, 6).sample()
    assert not batch.resets[:, 1:].any()
    assert batch.mask.sum(axis=1).max() <= 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_weights_choose_the_episodes(sampler: type[Sampler]) -> None:
    source = data([5, 5, 5, 5])
    weighted = sampler(source, 50, 5, weights=[0, 3, 1, 0])
    steps = np.concatenate([steps_of(b)[b.mask] for b in (weighted.sample() for _ in range(80))])
    count = np.bincount(steps // 5, minlength=4)
    assert count[0] == count[3] == 0
    assert 2.6 < count[1] / count[2] < 3.4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_weights_of_the_data_count_where_none_are_given(sampler: type[Sampler]) -> None:
    source = replace(data([5, 5, 5]), weights=np.array([0.0, 1.0, 0.0]))
    assert (steps_of(sampler(source, 50, 5).sample())[:, 0] // 5 == 1).all()
    assert (steps_of(sampler(source, 50, 5, weights=[0, 0, 1]).sample())[:, 0] // 5 == 2).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("weights", "message"),
    [([1, 2], "one for each of the 3"), ([0, 0, 0], "not all zero"), ([1, -1, 1], "negative")],
)
def test_weights_that_make_no_sense_are_refused(
    sampler: type[Sampler], weights: list[float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sampler(data([1, 2, 3]), 2, 3, weights=weights)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_decides_the_batches(sampler: type[Sampler]) -> None:
    source = data([5, 9, 2, 30])
    one, same, other = (sampler(source, 4, 7, seed) for seed in (1, 1, 2))
    assert all(
        np.array_equal(a, b)
        for _ in range(5)
        for a, b in zip(one.sample(), same.sample(), strict=True)
    )
    assert not np.array_equal(one.sample().obs, other.sample().obs)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(st.integers(0, 12), st.integers(1, 6), st.booleans())
@settings(max_examples=25)
def test_a_sampler_resumes_to_the_bit(
    sampler: type[Sampler], before: int, batch_size: int, weighted: bool
) -> None:
    source = data([5, 9, 2, 30])
    weights = [1, 2, 3, 4] if weighted else None
    running = sampler(source, batch_size, 7, 1, weights)
    for _ in range(before):
        running.sample()
    state = json.loads(json.dumps(running.state_dict()))
    resumed = sampler(source, batch_size, 7, 99, weights)
    resumed.sample()
    resumed.load_state_dict(state)
    for _ in range(8):
        for a, b in zip(running.sample(), resumed.sample(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_taking_the_state_does_not_move_the_sampler() -> None:
    one, other = (PackedSampler(data([5, 9]), 2, 4, 1) for _ in range(2))
    one.state_dict()
    np.testing.assert_array_equal(one.sample().obs, other.sample().obs)


def test_a_state_of_other_data_or_options_is_refused() -> None:
    state = PackedSampler(data([5, 9]), 2, 4).state_dict()
    for other in (
        PackedSampler(data([5, 8]), 2, 4),
        PackedSampler(data([5, 9]), 3, 4),
        WindowSampler(data([5, 9]), 2, 4),
    ):
        with pytest.raises(UserError, match="resume with the same data"):
            other.load_state_dict(state)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_is_the_callers_own(sampler: type[Sampler]) -> None:
    source = data([30])
    drawn = sampler(source, 2, 4)
    before = source.obs.copy()
    for values in asked(drawn.sample()):
        values[...] = 0
    np.testing.assert_array_equal(source.obs, before)
    check(drawn.sample(), source)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sizes_below_one_are_refused(sampler: type[Sampler]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        sampler(data([3]), 0, 4)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_episodes_of_the_last_batch_are_told(kind: type[Sampler]) -> None:
    source = data([3, 1, 7, 2, 9])
    sampler = kind(source, 2, 4, seed=1)
    assert sampler.last_episodes() == []
    for _ in range(10):
        batch = sampler.sample()
        steps = steps_of(batch)[batch.mask]
        owners = np.searchsorted(source.starts, steps, side="right") - 1
        assert sampler.last_episodes() == sorted(set(owners.tolist()))
