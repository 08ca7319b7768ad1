"""Combine several data sets into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from envs.data.offset import Float64
from envs.data.trajectories import Trajectories
from envs.errors import UserError


def combine(sets: list[Trajectories], weights: Sequence[float] | None = None) -> Trajectories:
    """Return the episodes of all data sets, one set after the other; empties the list.

    Each set is freed when it is copied: the peak of memory is the result and the largest set.
    `final_obs` is None unless all of them have it.
    weights: the share of training steps of each set, in any unit; with None every step counts the
    same, so that larger sets have larger shares.
    Raises UserError where the sets are not of one environment, or the weights do not fit.

    Example:
        >>> import numpy as np
        >>> from envs.data.trajectories import Episode
        >>> walk = Episode(np.zeros((4, 2)), np.ones((3, 1)), np.ones(3), True)
        >>> one = Trajectories.from_episodes([walk], env="Walk-v0", name="one")
        >>> two = Trajectories.from_episodes([walk, walk], env="Walk-v0", name="two")
        >>> both = combine([one, two], weights=[1, 1])
        >>> both.name, both.num_episodes, (both.weights * both.lengths).tolist()
        ('one,two', 3, [0.5, 0.25, 0.25])
    """
    name = ",".join(each.name for each in sets)
    shares = _shares(weights, sets, name)
    if len(sets) == 1:
        return sets[0]
    for each in sets[1:]:
        _check_alike(sets[0], each)
    obs_offset = _union([each.obs_offset for each in sets if each.obs_offset is not None])
    references = {each.reference for each in sets}
    complete = all(each.final_obs is not None for each in sets)
    offsets = np.cumsum([0, *(each.num_steps for each in sets)])
    starts = [each.starts[:-1] + offset for each, offset in zip(sets, offsets, strict=False)]
    starts = np.concatenate([*starts, offsets[-1:]])
    steps = int(offsets[-1])
    made = replace(
        sets[0],
        obs=np.empty((steps, sets[0].obs_dim), np.float32),
        action=np.empty((steps, sets[0].action_dim), np.float32),
        reward=np.empty(steps, np.float32),
        starts=starts,
        terminated=np.concatenate([each.terminated for each in sets]),
        action_low=np.min([each.action_low for each in sets], axis=0),
        action_high=np.max([each.action_high for each in sets], axis=0),
        name=name,
        weights=shares,
        reference=references.pop() if len(references) == 1 else None,
        notes=tuple(dict.fromkeys(note for each in sets for note in each.notes)),
        recorded=tuple(dict.fromkeys(one for each in sets for one in each.recorded)),
        final_obs=np.empty((len(starts) - 1, sets[0].obs_dim), np.float32) if complete else None,
        obs_offset=obs_offset,
    )
    episode = 0
    for first in offsets[:-1]:
        each = _moved(sets.pop(0), made.obs_offset)
        rows = slice(first, first + each.num_steps)
        made.obs[rows], made.action[rows], made.reward[rows] = each.obs, each.action, each.reward
        if made.final_obs is not None:
            made.final_obs[episode : episode + each.num_episodes] = each.final_obs
        episode += each.num_episodes
    return made


def _union(offsets: Sequence[Float64]) -> Float64 | None:
    """Return, for each dimension, the first of the offsets that is not 0."""
    found: Float64 | None = None
    for each in offsets:
        found = each if found is None else np.where(found == 0, each, found)
    return found


def _moved(each: Trajectories, to: Float64 | None) -> Trajectories:
    """Return a data set whose observations are without the offset `to`."""
    own = each.obs_offset
    if own is to or (own is not None and to is not None and (own == to).all()):
        return each
    by = (0.0 if own is None else own) - (np.zeros(()) if to is None else to)
    end = None if each.final_obs is None else (each.final_obs + by).astype(np.float32)
    return replace(each, obs=(each.obs + by).astype(np.float32), final_obs=end, obs_offset=to)


def _shares(weights: Sequence[float] | None, sets: Sequence[Trajectories], name: str):
    """Return the weights (E,) of the episodes, or None where every step counts the same."""
    if weights is None:
        return None
    if len(weights) != len(sets):
        raise UserError(
            f"{len(weights)} weights for {len(sets)} data sets ({name}); give one for each"
        )
    given = np.asarray(weights, np.float64)
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise UserError(f"weights must be positive numbers, not {', '.join(map(str, weights))}")
    shares = given / given.sum() / [each.num_steps for each in sets]
    return np.repeat(shares, [each.num_episodes for each in sets])


def _check_alike(first: Trajectories, other: Trajectories) -> None:
    names = {"env": "environments", "obs_dim": "observation sizes", "action_dim": "action sizes"}
    for name, what in names.items():
        mine, its = getattr(first, name), getattr(other, name)
        if mine != its:
            raise UserError(
                f"{first.name} and {other.name} cannot be combined: their {what} are "
                f"{mine} and {its}; choose data sets of one environment"
            )
