from __future__ import annotations

import json

import numpy as np

from envs.scoring.protocol import CONVENTION, score_protocol


def test_the_convention_is_true_of_every_environment_with_constants() -> None:
    assert "v2" not in CONVENTION
    assert "Hopper-v5 and AdroitHandDoor-v1" in CONVENTION


def test_a_protocol_names_everything_and_fits_json() -> None:
    entries = score_protocol(
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
    entries = score_protocol(data="a/b-v0", env="Pendulum-v1", targets=[], episodes=1, seeds=[0])
    assert entries["reference_max"] is None
    assert "raw returns only" in entries["note"]
