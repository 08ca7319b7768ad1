"""Values of JSON are taken where they are of the type that an annotation says."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any, Literal

import pytest

from configs import ModelConfig, schema
from configs.schema import fits, typed


def test_the_examples_hold() -> None:
    result = doctest.testmod(schema)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, bool),
        (3, int),
        (-(2**64) + 1, int),
        (3, float),
        (-1e29, float),
        ("x", str),
        (None, int | None),
        (3, int | None),
        ("x" * 100_000, str),
        ("a", Literal["a", "b"]),
        ([1, "a"], list[int | str]),
        ({"a": 1, "b": False}, dict[str, bool | int]),
        ({"a": [object]}, Any),
        ({"a": [1], "b": {"c": "x"}}, {"a": list[int], "b": {"c": str}}),
    ],
)
def test_values_of_their_type_come_back_as_they_are(value: Any, kind: Any) -> None:
    found = typed(value, kind, "x")
    assert found == value
    assert type(found) is type(value)
    assert fits(value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (1, bool, "x cannot be 1"),
        (True, int, "x cannot be True"),
        (3.0, int, "x cannot be 3.0"),
        (2**64, int, "x cannot be 18"),
        (True, float, "x cannot be True"),
        ("1", float, "x cannot be '1'"),
        (float("nan"), float, "x cannot be nan"),
        (float("-inf"), float, "x cannot be -inf"),
        (10**400, float, "x cannot be 1000"),
        (None, str, "x cannot be None"),
        ("x", int | None, "x cannot be 'x'"),
        ("c", Literal["a", "b"], "x cannot be 'c'"),
        (["a"], Literal["a", "b"], r"x cannot be \['a'\]"),
        ([1, "a"], list[int], "x cannot be 'a'"),
        ((1,), list[int], "x cannot be"),
        ([1, 2, 3], tuple[int, int], r"x cannot be \[1, 2, 3\]"),
        ([1, "a"], tuple[int, ...], "x cannot be 'a'"),
        ({"a": 1}, list[int], "x cannot be"),
        ({"a": "b"}, dict[str, int], "a cannot be 'b'"),
        ([], dict[str, int], r"x cannot be \[\]"),
        ({"a": 1}, {"a": int, "b": int, "c": int}, "x lacks b, c"),
        ({"a": 1, "b": 1}, {"a": int}, "x has no option 'b'"),
        ([], {"a": int}, r"x cannot be \[\]"),
        ({"flux": 1}, ModelConfig, "x has no option 'flux'"),
        ({"dim": -1}, ModelConfig, "dim must be positive"),
    ],
)
def test_other_values_are_refused_by_name(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        typed(value, kind, "x")
    assert not fits(value, kind)


def test_tuples_paths_and_dataclasses_are_made() -> None:
    assert typed([1, 2.5], tuple[float, ...], "x") == (1, 2.5)
    assert typed([1, 2, "a"], tuple[float, float, str], "x") == (1, 2, "a")
    assert typed("a/b", Path | None, "x") == Path("a/b")
    assert typed({"dim": 8}, ModelConfig, "x") == ModelConfig(dim=8)
