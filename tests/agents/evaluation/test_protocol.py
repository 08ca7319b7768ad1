"""What the protocol of a line says."""

from __future__ import annotations

import numba

from agents.evaluation import protocol


def test_an_interval_says_what_it_is_over():
    assert protocol.intervals(1, False).endswith("the episodes of one run, not training seeds")
    assert "3 runs, and the episodes of each; of success, Wilson's" in protocol.intervals(3, True)


def test_an_engine_has_the_version_of_its_package():
    assert protocol.engine_version("numba, eager") == f"numba {numba.__version__}, eager"
    assert protocol.engine_version("onnx").startswith("onnx")


def test_the_best_checkpoint_says_how_it_was_chosen():
    chosen = {"eval": {"quick_episodes": 8, "targets": [3.0, 4369.1], "stepper": "gymnasium"}}
    assert protocol.how_chosen([chosen, chosen]) == "chosen by 8 other episodes asked for 4369.1"
    pool = {"eval": chosen["eval"] | {"stepper": "envpool"}}
    assert "of envpool's asked" in protocol.how_chosen([pool])
    assert " or chosen by" in protocol.how_chosen([chosen, pool])
    assert protocol.how_chosen([{}]) == ""


def test_a_checkpoint_is_named_with_its_updates():
    chosen = {"eval": {"quick_episodes": 8, "targets": [3.0]}}
    assert protocol.describe_checkpoint("last", [7, 7], [chosen]) == "last (update 7)"
    named = protocol.describe_checkpoint("best", [7, 9], [chosen])
    assert named == "best (update 7, 9), chosen by 8 other episodes asked for 3"
    assert protocol.describe_checkpoint("best", [7], [{}]) == "best (update 7)"
