"""How the protocols of a report's lines are shown to people: each value once, wrapped."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envs.errors import one_line

Protocol = dict[str, Any]
"""What a score has to be reported with (see envs.scoring.protocol.score_protocol)."""
WIDTH = 100  # columns of the terminal


def entries(
    protocols: Mapping[str, Protocol], shown: Mapping[str, str]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each entry of the protocols with its distinct values as text (see `groups`).

    protocols: by line. shown: the names of the lines as people read them (see `names`).
    """
    every = dict.fromkeys(key for line in shown for key in protocols[line])
    return [
        (key, groups({line: protocols[line].get(key) for line in shown}, shown)) for key in every
    ]


def groups(values: Mapping[str, Any], shown: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the distinct values of an entry as text, each with a name for the lines that have it.

    values: by line. Lines are named by the words that they share and that no other line has
    together; those without such words are "the others". The name is "" if all lines agree.
    """
    distinct: list[Any] = []
    for item in values.values():
        if item not in distinct:
            distinct.append(item)
    if len(distinct) == 1:
        return [("", plain(distinct[0]))]
    found, others = [], []
    for item in distinct:
        members = [shown[line] for line in values if values[line] == item]
        called = _called(members, shown.values())
        (found if called else others).append((called or ", ".join(members), plain(item)))
    return found + ([("the others", others[0][1])] if len(others) == 1 else others)


def text(protocols: Mapping[str, Protocol], shown: Mapping[str, str]) -> str:
    """Return the protocols as lines of "name  value", wrapped; arguments as for `entries`."""
    written = entries(protocols, shown)
    width = max(len(name) for name, _ in written)
    lines: list[str] = []
    for name, grouped in written:
        first = f"{name.replace('_', ' '):<{width}}  "
        for called, item in grouped:
            # Some of it is from files, which may hold control characters of the terminal.
            words = one_line(f"{called}: {item}" if called else item)
            indent = " " * (width + 2)
            look: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
            look |= {"initial_indent": first, "subsequent_indent": indent + "  " * bool(called)}
            lines += textwrap.wrap(words, WIDTH, **look) or [first.rstrip()]
            first = indent
    return "\n".join(lines)


def plain(value: Any) -> str:
    """Return one value of a protocol as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return "-" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def names(data: Mapping[str, str]) -> dict[str, str]:
    """Return the names of lines for people, by name; data: the data set of each line.

    The parts that all data sets begin or end with are left out.

    Example:
        >>> names({"a/hopper-v0 last": "a/hopper-v0", "a/ant-v0 last": "a/ant-v0"})
        {'a/hopper-v0 last': 'hopper last', 'a/ant-v0 last': 'ant last'}
    """
    short = shortened(list(data.values()))
    return {line: line.replace(name, short[name], 1) for line, name in data.items()}


def shortened(data: Sequence[str]) -> dict[str, str]:
    """Return the parts that distinguish the names of data sets, by name; all of a single name."""
    parts = {name: re.findall(r"[^/-]*[/-]?", name)[:-1] for name in data}
    if len(parts) < 2:
        return {name: name for name in data}
    # At least one part of each name stays; the end is cut first: medium says more than v0.
    most = min(map(len, parts.values())) - 1
    behind = _agreeing([pieces[::-1] for pieces in parts.values()], most)
    ahead = _agreeing(list(parts.values()), most - behind)
    return {
        name: "".join(pieces[ahead : len(pieces) - behind]).rstrip("/-")
        for name, pieces in parts.items()
    }


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
