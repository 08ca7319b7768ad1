"""The protocols of the lines of a report as people read them."""

from __future__ import annotations

import doctest
import importlib

import pytest

from agents.report import grouping

LINES = ["a hopper last", "a hopper best", "ant last", "ant best"]
SHOWN = dict(zip(LINES, ("hopper last", "hopper best", "ant last", "ant best"), strict=True))


def by_line(*values):
    return dict(zip(LINES, values, strict=True))


def test_entries_have_each_value_once_with_the_lines_that_have_it():
    apart = {"a": {"x": 1, "y": 2, "z": {"k": 1}}, "b": {"x": 1, "y": 3, "z": {"k": 1}, "w": 1.5}}
    shown = {"a": "a", "b": "b"}
    assert grouping.entries(apart, shown) == [
        ("x", [("", "1")]),
        ("y", [("a", "2"), ("b", "3")]),
        ("z", [("", "k=1")]),
        ("w", [("a", "-"), ("b", "1.5")]),
    ]
    assert grouping.text(apart, shown) == "x  1\ny  a: 2\n   b: 3\nz  k=1\nw  a: -\n   b: 1.5"


def test_a_value_by_the_names_of_lines_is_a_value_like_any_other():
    same = {"a": {"k": {"a": 1, "b": 2}}, "b": {"k": {"a": 1, "b": 2}}}
    assert grouping.entries(same, {"a": "a", "b": "b"}) == [("k", [("", "a=1, b=2")])]


def test_lines_that_agree_are_called_by_what_they_share():
    assert grouping.groups(by_line(1, 1, 2, 2), SHOWN) == [("hopper", "1"), ("ant", "2")]
    assert grouping.groups(by_line(1, 2, 1, 2), SHOWN) == [("last", "1"), ("best", "2")]
    assert grouping.groups(by_line(1, 2, 2, 2), SHOWN) == [
        ("hopper last", "1"),
        ("the others", "2"),
    ]
    assert grouping.groups(by_line(1, 2, 2, 1), SHOWN) == [
        ("hopper last, ant best", "1"),
        ("hopper best, ant last", "2"),
    ]
    assert grouping.groups(by_line(*[{"horizon": 5}] * 4), SHOWN) == [("", "horizon=5")]


def test_long_entries_are_wrapped():
    others = by_line(*(["word " * 30] * 3), 1)
    protocols = {line: {"name": "word " * 40, "other": others[line]} for line in LINES}
    written = grouping.text(protocols, SHOWN)
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
    assert list(grouping.shortened(data).values()) == short


@pytest.mark.parametrize(
    "name", ["agents.report.grouping", "agents.report.table", "agents.report.media.watch"]
)
def test_examples_do_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
