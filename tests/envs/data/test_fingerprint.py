"""Data sets are told apart by every number that training sees."""

import dataclasses

import numpy as np

from envs.data.fingerprint import fingerprint
from tests.support.models import tiny_data


def test_a_fingerprint_sees_every_part_of_the_data():
    data = tiny_data()
    seen = {fingerprint(data)["sha256"]}
    for name in ("obs", "action", "reward", "starts", "terminated", "action_low", "action_high"):
        values = getattr(data, name).copy()
        values[-1] = 1 - values[-1]
        seen.add(fingerprint(dataclasses.replace(data, **{name: values}))["sha256"])
    weighted = dataclasses.replace(data, weights=np.ones(12))
    seen.add(fingerprint(weighted)["sha256"])
    assert len(seen) == 9
    assert fingerprint(tiny_data())["sha256"] in seen
