"""Batches with transitions hold what the episodes hold, and cost nothing where not asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.data.combine import combine
from envs.data.fingerprint import fingerprint
from envs.data.sampler import Batch, PackedSampler, Sampler, WindowSampler
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from tests.support.toys import data, episodes

SAMPLERS = (PackedSampler, WindowSampler)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def laid(made: list[Episode]) -> Trajectories:
    return Trajectories.from_episodes(made, env="E-v0", name="n/n-v0")


def with_ends(made: list[Episode], terminated: list[bool]) -> list[Episode]:
    return [replace(e, terminated=t) for e, t in zip(made, terminated, strict=True)]


def check(batch: Batch, made: list[Episode], rows: slice = slice(None)) -> None:
    """Compare every real step of a batch with the list of episodes, and padding with zero."""
    places = [(e, t) for e in made for t in range(len(e.action))]
    assert batch.reward is not None
    assert batch.next_obs is not None
    assert batch.terminated is not None
    assert (batch.reward.dtype, batch.reward.shape) == (np.float32, batch.mask.shape)
    assert (batch.next_obs.dtype, batch.next_obs.shape) == (np.float32, batch.obs.shape)
    assert (batch.terminated.dtype, batch.terminated.shape) == (np.bool_, batch.mask.shape)
    for at in zip(*np.nonzero(batch.mask), strict=True):
        episode, t = places[round(float(batch.obs[at][0]))]  # obs[0] is the step's place
        last = t == len(episode.action) - 1
        np.testing.assert_array_equal(batch.obs[at], episode.obs[t].astype(np.float32))
        np.testing.assert_array_equal(batch.action[at], episode.action[t].astype(np.float32))
        assert batch.reward[at] == np.float32(episode.reward[t])
        assert batch.terminated[at] == (last and episode.terminated)
        after = episode.obs[t + 1] if t + 1 < len(episode.obs) else np.zeros_like(episode.obs[0])
        after = after if np.isfinite(after).all() else np.zeros_like(after)
        np.testing.assert_array_equal(batch.next_obs[at], after.astype(np.float32))
    for values in batch:
        if values is None:
            continue
        assert not values[~batch.mask].any()
        assert values.flags.c_contiguous


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(LENGTHS, st.data(), st.integers(1, 15), st.integers(0, 9), st.integers(1, 3))
@settings(max_examples=60)
def test_transitions_are_those_of_the_episodes(
    sampler: type[Sampler],
    lengths: list[int],
    draw: st.DataObject,
    length: int,
    seed: int,
    ranks: int,
) -> None:
    ends = draw.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    made = with_ends(episodes(lengths, seed), ends)
    for episode in made:  # what follows a termination may be anything
        if episode.terminated and draw.draw(st.booleans()):
            episode.obs[-1, 1] = draw.draw(st.sampled_from([np.nan, np.inf]))
    shards = [sampler(laid(made), 4, length, seed, transitions=True) for _ in range(ranks)]
    for rank, shard in enumerate(shards):
        if ranks > 1:
            shard.shard(rank, ranks)
        for _ in range(3):
            check(shard.sample(), made)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(LENGTHS, st.integers(0, 9), st.booleans())
def test_the_same_steps_are_drawn_with_and_without(
    sampler: type[Sampler], lengths: list[int], seed: int, weighted: bool
) -> None:
    source, weights = data(lengths), np.arange(1, len(lengths) + 1) if weighted else None
    plain = sampler(source, 3, 7, seed, weights)
    asked = sampler(source, 3, 7, seed, weights, transitions=True)
    for _ in range(3):
        one, other = plain.sample(), asked.sample()
        for name in one._fields[:7]:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert set(one[7:]) == {None}
    assert plain.state_dict() == asked.state_dict()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_of_transitions_is_the_callers_own(sampler: type[Sampler]) -> None:
    source = data([3, 4])
    before = fingerprint(source), source.final_obs
    for values in sampler(source, 2, 9, transitions=True).sample():
        if values is None:
            continue
        values[...] = 1
    assert fingerprint(source) == before[0]
    np.testing.assert_array_equal(source.final_obs, before[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_episodes_that_all_terminate_need_no_final_observations(sampler: type[Sampler]) -> None:
    made = with_ends(episodes([3, 1, 5], extra=False), [True] * 3)
    assert laid(made).final_obs is None
    for _ in range(5):
        check(sampler(laid(made), 4, 6, transitions=True).sample(), made)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("value", ["missing", np.nan, np.inf])
def test_a_time_limit_needs_the_final_observation(sampler: type[Sampler], value: Any) -> None:
    made = with_ends(episodes([3, 1, 5], extra=value != "missing"), [True, False, True])
    if value != "missing":
        made[1].obs[-1, 2] = value
    sampler(laid(made), 2, 4).sample()
    with pytest.raises(
        UserError, match=r"n/n-v0 lacks the observation .* of 1 of 3 episodes \(the first: 1\)"
    ):
        sampler(laid(made), 2, 4, transitions=True)


def test_final_observations_are_chosen_with_their_episodes() -> None:
    source = data([3, 1, 5])
    assert source.final_obs is not None
    chosen = source.select([2, 0])
    np.testing.assert_array_equal(chosen.final_obs, source.final_obs[[2, 0]])
    np.testing.assert_array_equal(chosen.episode(0).obs, source.episode(2).obs)
    assert chosen.episode(0).obs.shape == (6, source.obs_dim)
    assert replace(chosen, final_obs=None).episode(0).obs.shape == (5, source.obs_dim)


def test_combined_sets_have_them_where_all_do() -> None:
    one, two = data([3, 1]), data([5], seed=1)
    both = combine([one, two])
    np.testing.assert_array_equal(both.final_obs, np.concatenate([one.final_obs, two.final_obs]))
    both.validate()
    assert combine([one, replace(two, final_obs=None)]).final_obs is None
    assert combine([replace(one, final_obs=None), two]).final_obs is None


def test_final_observations_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"final_obs has shape \(3, 3\), not \(2, 3\)"):
        replace(data([3, 1]), final_obs=data([1, 1, 1]).final_obs).validate()


def test_a_fingerprint_is_what_it_was_without_them() -> None:
    source = data([3, 1, 5])
    assert fingerprint(source) == fingerprint(replace(source, final_obs=None))
    assert fingerprint(source)["sha256"].startswith("85f64c467f36a93d")


def test_a_repeated_last_observation_is_not_the_next_one() -> None:
    made = with_ends(episodes([3, 4, 5]), [False, True, False])
    for episode in made:
        episode.obs[-1] = episode.obs[-2]
    with pytest.raises(UserError, match=r"n/n-v0 repeats the last observation of each episode"):
        PackedSampler(laid(made), 2, 4, transitions=True)
    made[0].obs[-1] += 1.0  # one episode ends where it stood still
    PackedSampler(laid(made), 2, 4, transitions=True)
    for episode in made:  # observations that hardly ever change
        episode.obs[:] = episode.obs[0]
    PackedSampler(laid(made), 2, 4, transitions=True)
