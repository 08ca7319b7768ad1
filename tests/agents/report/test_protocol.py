"""Protocols of several lines as one, and as people read them."""

from __future__ import annotations

import doctest
import importlib

import numba
import pytest

from agents.report import protocol

LINES = ["a hopper last", "a hopper best", "ant last", "ant best"]
SHOWN = dict(zip(LINES, ("hopper last", "hopper best", "ant last", "ant best"), strict=True))


def by_line(*values):
    return dict(zip(LINES, values, strict=True))


def test_protocols_are_merged_where_they_agree_and_taken_apart_again():
    apart = {"a": {"x": 1, "y": 2, "z": {"k": 1}}, "b": {"x": 1, "y": 3, "z": {"k": 1}}}
    merged = protocol.merge(apart)
    assert merged == {"x": 1, "y": {"a": 2, "b": 3}, "z": {"k": 1}}
    for name in "ab":
        assert protocol.of_line(merged, name, "ab") == apart[name]
    assert protocol.text(merged, {"a": "a", "b": "b"}) == "x  1\ny  a: 2\n   b: 3\nz  k=1"


def test_lines_that_agree_are_called_by_what_they_share():
    assert protocol.groups(by_line(1, 1, 2, 2), SHOWN) == [("hopper", 1), ("ant", 2)]
    assert protocol.groups(by_line(1, 2, 1, 2), SHOWN) == [("last", 1), ("best", 2)]
    assert protocol.groups(by_line(1, 2, 2, 2), SHOWN) == [
        ("hopper last", 1),
        ("the others", 2),
    ]
    assert protocol.groups(by_line(1, 2, 2, 1), SHOWN) == [
        ("hopper last, ant best", 1),
        ("hopper best, ant last", 2),
    ]
    assert protocol.groups({"horizon": 5}, SHOWN) == [("", {"horizon": 5})]


def test_long_entries_are_wrapped():
    written = protocol.text(
        {"name": "word " * 40, "other": by_line(*(["word " * 30] * 3), 1)}, SHOWN
    )
    lines = written.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.startswith(("name   ", "other  ", "       ")) for line in lines)
    assert written.split().count("word") == 70


@pytest.mark.parametrize(
    ("data", "short"),
    [
        (["m/hopper/replay-v0", "m/ant/replay-v0"], ["hopper", "ant"]),
        (["m/ant/medium-v0", "m/ant/medium-replay-v0"], ["medium", "medium-replay"]),
        (["ant-v0", "ant-v1"], ["v0", "v1"]),
        (["ant", "ant-v1"], ["ant", "ant-v1"]),
        (["hopper-medium-v2", "my/file.hdf5"], ["hopper-medium-v2", "my/file.hdf5"]),
        (["m/ant/medium-v0"], ["m/ant/medium-v0"]),
    ],
)
def test_data_sets_are_called_by_what_tells_them_apart(data, short):
    assert list(protocol.shortened(data).values()) == short


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


@pytest.mark.parametrize(
    "name", ["agents.report.protocol", "agents.report.rows", "agents.report.media.watch"]
)
def test_examples_do_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
