"""The protocol of a report: of all lines as one, of each line, and written for people."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from envs.errors import one_line

Protocol = dict[str, Any]
"""What a score has to be printed with (see envs.scoring.score.protocol)."""

WIDTH = 100
"""Columns of the terminal that text is written for."""
_PACKAGES = {"numba": "numba", "onnx": "onnxruntime"}
"""Whose version is an engine's; the others are torch's own, which the protocol names."""


def merge(protocols: Mapping[str, Protocol]) -> Protocol:
    """Return the protocols of several lines as one; where they differ, {line: value}."""
    merged: Protocol = {}
    for key in dict.fromkeys(key for protocol in protocols.values() for key in protocol):
        values = {name: protocol.get(key) for name, protocol in protocols.items()}
        first, *others = values.values()
        merged[key] = first if all(other == first for other in others) else values
    return merged


def of_line(protocol: Protocol, name: str, lines: Iterable[str]) -> Protocol:
    """Return the protocol of one of the lines that were merged."""
    lines = set(lines)
    return {
        key: value[name] if _by_line(value, lines) else value for key, value in protocol.items()
    }


def groups(value: Any, shown: Mapping[str, str]) -> list[tuple[str, Any]]:
    """Return an entry's values, each once, with what the lines that have it are called.

    shown: the lines' names as people read them, by the names of the merged protocol (see
    `names`). Lines are called by the words that they share and no other line has together;
    those that have none are the others. "" where all agree.
    """
    if not _by_line(value, set(shown)):
        return [("", value)]
    distinct: list[Any] = []
    for item in value.values():
        if item not in distinct:
            distinct.append(item)
    found, others = [], []
    for item in distinct:
        members = [shown[name] for name in shown if value[name] == item]
        called = _called(members, shown.values())
        (found if called else others).append((called or ", ".join(members), item))
    return found + ([("the others", others[0][1])] if len(others) == 1 else others)


def text(protocol: Protocol, shown: Mapping[str, str] | None = None) -> str:
    """Return the protocol as lines of "name  value", wrapped; shown: as `groups` takes it."""
    width = max(len(name) for name in protocol)
    lines: list[str] = []
    for name, value in protocol.items():
        first = f"{name.replace('_', ' '):<{width}}  "
        for called, item in groups(value, shown or {}):
            # Some of it is from files, which may hold what a terminal would obey.
            words = one_line(f"{called}: {plain(item)}" if called else plain(item))
            indent = " " * (width + 2)
            wrapped = textwrap.wrap(
                words,
                WIDTH,
                initial_indent=first,
                subsequent_indent=indent + "  " * bool(called),
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines += wrapped or [first.rstrip()]
            first = indent
    return "\n".join(lines)


def plain(value: Any) -> str:
    """Write one value of a protocol."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return "-" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def names(data: Mapping[str, str]) -> dict[str, str]:
    """Return the names of lines as people read them, by name; data: each line's data set.

    What all data sets begin and end with is left out.

    Example:
        >>> names({"a/hopper-v0 last": "a/hopper-v0", "a/ant-v0 last": "a/ant-v0"})
        {'a/hopper-v0 last': 'hopper last', 'a/ant-v0 last': 'ant last'}
    """
    short = shortened(list(data.values()))
    return {line: line.replace(name, short[name], 1) for line, name in data.items()}


def shortened(data: Sequence[str]) -> dict[str, str]:
    """Return what tells the names of data sets apart, by name; a single one stays as it is."""
    parts = {name: re.findall(r"[^/-]*[/-]?", name)[:-1] for name in data}
    if len(parts) < 2:
        return {name: name for name in data}
    # At least one part of each name stays; the end goes first: medium says more than v0.
    most = min(map(len, parts.values())) - 1
    behind = _agreeing([pieces[::-1] for pieces in parts.values()], most)
    ahead = _agreeing(list(parts.values()), most - behind)
    return {
        name: "".join(pieces[ahead : len(pieces) - behind]).rstrip("/-")
        for name, pieces in parts.items()
    }


def intervals(num_runs: int, successes: bool) -> str:
    """Say what the 95 % intervals of a line are over."""
    over = (
        "the episodes of one run, not training seeds"
        if num_runs == 1
        else f"{num_runs} runs, and the episodes of each"
    )
    # As evaluation.Result.success_interval has it.
    wilson = "; of success, Wilson's" + " where wider" * (num_runs > 1) if successes else ""
    return f"95 %, bootstrap over {over}{wilson}"


def engine_version(engine: str) -> str:
    """Return an engine's name with the version of the package that it runs in.

    engine: as evaluation.Result has it; of several, with a comma in between.
    """
    return ", ".join(_versioned(name) for name in engine.split(", "))


def how_chosen(configs: Iterable[Mapping[str, Any]]) -> str:
    """Say by what episodes train.py chose a run's best checkpoint; "" where it is not known.

    configs: the runs' config.json. Those episodes are not the ones that are reported.
    """
    said: dict[str, None] = {}
    for config in configs:
        chosen = config.get("eval", {})
        if chosen.get("quick_episodes") and chosen.get("targets"):
            stepper = chosen.get("stepper", "gymnasium")
            of = "" if stepper == "gymnasium" else f" of {stepper}'s"
            episodes = f"{chosen['quick_episodes']} other episodes{of}"
            said[f"chosen by {episodes} asked for {plain(float(max(chosen['targets'])))}"] = None
    return " or ".join(said)


def _by_line(value: Any, lines: set[str]) -> bool:
    return isinstance(value, Mapping) and bool(lines) and set(value) == lines


def _called(members: Sequence[str], everyone: Iterable[str]) -> str:
    """Return the words that these lines share and no other line has together; "" for none."""
    words = {name: set(name.split()) for name in everyone}
    shared = set.intersection(*(words[name] for name in members))
    if sum(shared <= of for of in words.values()) > len(members):
        return ""
    telling = shared - set.intersection(*words.values())
    return " ".join(word for word in members[0].split() if word in telling)


def _agreeing(sequences: Sequence[Sequence[str]], most: int) -> int:
    columns = zip(*sequences, strict=False)
    same = [len(set(column)) == 1 for column in columns][:most]
    return same.index(False) if False in same else len(same)


def _versioned(name: str) -> str:
    package = _PACKAGES.get(name)
    if package is None:
        return name
    try:
        number = version(package)
    except PackageNotFoundError:
        return name
    return f"{name} {number}" if name == package else f"{name} ({package} {number})"
