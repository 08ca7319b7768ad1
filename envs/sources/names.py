"""Near matches of misspelt ids of data sets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known ids most like this name, best first; newer versions before older ones.

    Example:
        >>> closest("D4RL-door_humann-v9", ["D4RL/door/human-v1", "D4RL/door/human-v2", "a/b-v0"])
        ['D4RL/door/human-v2', 'D4RL/door/human-v1']
    """
    alike: dict[str, list[str]] = {}
    for each in sorted(known, reverse=True):
        alike.setdefault(_plain(each), []).append(each)
    close = difflib.get_close_matches(_plain(name), alike, count, 0.55)
    return [each for key in close for each in alike[key]][:count]


def _plain(name: str) -> str:
    """Return an id without the project's name and the version, and with one kind of separator."""
    plain = name.lower().removeprefix("minrnn/").rsplit("-v", 1)[0]
    return plain.replace("/", "-").replace("_", "-")
