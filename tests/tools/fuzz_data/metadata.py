"""Mutations of Minari's metadata.json and of other JSON: values, spaces, environments, the text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from numpy.random import Generator

TRAP = "fuzz_trap"
"""A module that lies on the worker's path, and that nothing may import."""
_NESTED = ("observation_space", "action_space", "env_spec", "eval_env_spec")
_EDITS = dict[str, Callable[[dict[str, Any], Generator], None]]


def _choice(rng: Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def value(rng: Generator) -> Any:
    """Return a value that does not belong there."""
    deep: Any = 1
    for _ in range(int(_choice(rng, (3, 50, 400)))):
        deep = [deep] if rng.random() < 0.5 else {"type": "Dict", "subspaces": {"a": deep}}
    return _choice(
        rng,
        (
            *(None, True, False, 0, 1, -1, 2, 7, -(2**63), 2**63, 2**64, 10**7, 10**12, 10**40),
            *(0.5, -0.0, math.nan, math.inf, -math.inf, 1e308, 1e-320, 3.5e38),
            *(
                "",
                "1",
                "x",
                "NaN",
                "-v0",
                "../../etc/passwd",
                "/dev/zero",
                "\x00",
                "\x1b[2J",
                "a\nb",
            ),
            *("\ud800", "é" * 1000, "9" * 5000, f"{TRAP}:Env", f"{TRAP}:ToyWalk-v0", "ToyWalk-v0"),
            *([], [[]], [1], [1, 2, 3], [math.nan] * 3, list(range(1000)), {}, {"a": {}}, deep),
            *({"type": "Box"}, {"": None}, {"a\nb": 1}, "{", "null", "[1e999]", json.dumps(deep)),
        ),
    )


def _places(found: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value in a tree."""
    keys = list(found) if isinstance(found, dict) else range(len(found))
    places = [(found, key) for key in keys]
    for key in keys:
        if isinstance(found[key], dict | list):
            places += _places(found[key])
    return places


def _edit(found: Any, rng: Generator) -> None:
    """Change, remove, rename, copy or repeat a value somewhere in a tree."""
    if not (places := _places(found)):
        return
    holder, key = _choice(rng, places)
    kind = int(rng.integers(7))
    if kind <= 2:
        holder[key] = value(rng)
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        other, its = _choice(rng, places)
        if its in other if isinstance(other, dict) else its < len(other):
            holder[key] = json.loads(json.dumps(other[its]))
    elif kind == 5 and isinstance(holder[key], list):
        holder[key] = holder[key] * int(_choice(rng, (0, 2, 100)))
    elif kind == 6 and isinstance(holder, dict):
        holder[_choice(rng, ("", "a", "a/b", "_index_0", "x\ny", "é", str(key) + " "))] = (
            holder.pop(key)
        )


def _field(about: dict[str, Any], rng: Generator) -> None:
    key = _choice(rng, list(about))
    if rng.random() < 0.3:
        del about[key]
    else:
        about[key] = value(rng)


def _inner(about: dict[str, Any], rng: Generator) -> None:
    """Edit the JSON inside of the JSON."""
    key = _choice(rng, [key for key in _NESTED if key in about] or [""])
    try:
        found = json.loads(about[key])
        for _ in range(int(rng.integers(1, 4))):
            _edit(found, rng)
    except (TypeError, ValueError, KeyError):  # mutated before
        return
    about[key] = json.dumps(found)


def _box(rng: Generator, shape: Any = None) -> dict[str, Any]:
    low, high = _choice(
        rng,
        (
            (-1.0, 1.0),
            (-math.inf, math.inf),
            (0, 0),
            (1, -1),
            (math.nan, 1.0),
            (-1e308, 1e308),
            ([-1.0] * 3, [1.0] * 3),
            ([], []),
            ("a", None),
            (-3.4e38, 3.4e38),
        ),
    )
    if shape is None:
        shape = _choice(
            rng, ([3], [2], [], [0], [1], [3, 1], [-1], [10**7], [10**9], [2**63], [3.0])
        )
        shape = _choice(rng, (shape, [10**5, 10**5], [10**4, 10**3], [1] * 40, "3", None, [None]))
    dtype = _choice(
        rng,
        (
            "float32",
            "float64",
            "uint8",
            "int64",
            "bool",
            "float16",
            "object",
            "U9",
            "longdouble",
            "complex64",
            "datetime64[ns]",
            "V8",
            "f4,f4",
            "(2,2)f4",
            "",
            None,
            3,
            "float128",
        ),
    )
    return {"type": "Box", "dtype": dtype, "shape": shape, "low": low, "high": high}


def _space(rng: Generator, depth: int = 0) -> Any:
    """Return the description of a space, right or wrong."""
    kind = int(rng.integers(9 if depth < 3 else 6))
    if kind <= 1:
        return _box(rng)
    size = _choice(rng, (0, 1, 2, 3, -1, 10**6, 10**7, 2**40, 2**63, 1.5, "3", None, [2, 2]))
    if kind == 2:
        start = _choice(rng, (0, 5, -(2**63), 2**63, 2**64, 1.5, "a"))
        return {"type": "Discrete", "dtype": "int64", "start": start, "n": size}
    if kind == 3:
        return {"type": "MultiBinary", "n": size}
    if kind == 4:
        nvec = _choice(rng, ([3, 3], [], [0], [-1, 2], [[2], [3, 4]], [2**63], "x", size))
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": nvec, "start": [0, 0]}
    if kind == 5:
        charset = _choice(rng, ("abc", "", None, 3, "a" * 10**5))
        return {"type": "Text", "max_length": size, "min_length": 1, "charset": charset}
    count = int(_choice(rng, (0, 1, 2, 3, 60)))
    if kind == 6:  # many large ones, each within bounds
        part = _box(rng, _choice(rng, ([10**7], [10**6], [3])))
        return {"type": "Dict", "subspaces": {f"part{i}": part for i in range(count)}}
    parts = [_space(rng, depth + 1) for _ in range(min(count, 4))]
    if kind == 7:
        return {"type": "Tuple", "subspaces": parts}
    names = ("goal", "x", "y", "", "a/b", "a\nb", "é", "..", "\x00")
    return {"type": "Dict", "subspaces": {_choice(rng, names): part for part in parts}}


def _other_space(about: dict[str, Any], rng: Generator) -> None:
    key = _choice(rng, _NESTED[:2])
    text = json.dumps(_space(rng))
    if rng.random() < 0.1:
        text = _choice(rng, ("[" * 10**5, '{"a":' * 10**5, text[:-1], text * 2, "", "null", "NaN"))
    about[key] = text


def _foreign(about: dict[str, Any], rng: Generator) -> None:
    """Name an environment of somebody else's: nothing in it may be imported or run."""
    spec = {
        "id": _choice(
            rng,
            (
                "ToyWalk-v0",
                f"{TRAP}:Env-v0",
                f"{TRAP}:ToyWalk-v0",
                "ToyWalk-v7",
                "ToyWalk",
                "",
                "a b",
                "ToyGoals-v0",
                "../x-v0",
                "CartPole-v1",
                "GymV26Environment-v0",
                "x" * 5000,
                "a\nb-v0",
            ),
        ),
        "entry_point": f"{TRAP}:Env",
        "vector_entry_point": f"{TRAP}:Vector",
        "max_episode_steps": _choice(rng, (None, 40, -1, 0, 10**9, 10**30, 1.5, "40", math.nan)),
        "kwargs": _choice(
            rng,
            (
                {},
                {"horizon": 7},
                {"low": f"{TRAP}:x"},
                {"id": f"{TRAP}:Env-v0"},
                {"a\nb": 1},
                [],
                "x",
                {"low": 2},
                {"horizon": "x"},
                {"render_mode": "human"},
                {"vectorization_mode": 1},
                {"max_episode_steps": -5},
                {"disable_env_checker": "x"},
                {"hazard": [math.nan]},
                3,
            ),
        ),
        "additional_wrappers": _choice(
            rng,
            (
                [],
                [{"name": "W", "entry_point": f"{TRAP}:Wrapper", "kwargs": {}}],
                [{}],
                "x",
                3,
                [[]],
                [{"name": "a\nb", "kwargs": None}] * 3,
            ),
        ),
    }
    for key in _NESTED[2:]:
        if rng.random() < 0.6:
            about[key] = json.dumps(spec)


_WAYS: _EDITS = {
    "json field": _field,
    "json edit": lambda about, rng: _edit(about, rng),
    "json inner": _inner,
    "json space": _other_space,
    "json env_spec": _foreign,
}
NAMES = (*_WAYS, "json text")
NAMES_ANYWHERE = ("json field", "json edit", "json text")
"""Those for JSON that is not a Minari data set's metadata."""


def mutate(content: bytes, way: str, rng: Generator) -> bytes:
    """Return the text of a JSON file, mutated; what is no JSON stays as it is."""
    try:
        about = json.loads(content)
    except ValueError:
        return content
    if way == "json text":
        return _text(json.dumps(about), rng).encode("utf-8", "surrogatepass")
    if isinstance(about, dict) and about:
        _WAYS[way](about, rng)
    return json.dumps(about, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "surrogatepass")


def _text(text: str, rng: Generator) -> str:
    """Return JSON as no writer makes it."""
    colon = int(_choice(rng, [i for i, letter in enumerate(text) if letter == ":"] or [0]))
    new = _choice(
        rng,
        (
            " 1e999,",
            " NaN,",
            " -Infinity,",
            " " + "9" * 6000 + ",",
            " " + "[" * 10**5,
            " '1',",
            ' "\\ud800",',
            ' {"a": 1, "a": 2},',
            ' "' + "x" * 10**6 + '",',
            " 0x10,",
            "\x00",
        ),
    )
    repeated = text[1 : text.find(",", 1) + 1] * int(_choice(rng, (1, 100)))
    return _choice(
        rng,
        (
            text[: colon + 1] + new + text[colon + 1 :],
            "{" + repeated + text[1:],
            text[:-1] + "," + text[1:],
            text + text,
            "\ufeff" + text,
            f"[{text}]",
            text[:colon],
        ),
    )
