"""Cells by name, for configurations: `build("mingru", dim, expansion=2.0)`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar

from minrnn.interface import SequenceMixer

Maker = TypeVar("Maker", bound=Callable[..., SequenceMixer])

_cells: dict[str, Callable[..., SequenceMixer]] = {}


def register(name: str) -> Callable[[Maker], Maker]:
    """Decorate a class or function `(dim, **options) -> SequenceMixer` to be built by name."""

    def add(maker: Maker) -> Maker:
        if name in _cells and _cells[name] is not maker:
            raise ValueError(f"the cell name {name!r} is taken by {_cells[name]!r}")
        _cells[name] = maker
        return maker

    return add


def same_class(one: type, other: type) -> bool:
    """Return whether two classes are of one definition, which may have been run again.

    Notebooks and reloaded modules do that, and a program that is imported from elsewhere, too.
    """
    places = [
        (kind.__qualname__, getattr(sys.modules.get(kind.__module__), "__file__", None))
        for kind in (one, other)
    ]
    return one is other or places[0] == places[1]


def available() -> tuple[str, ...]:
    """Return the names that can be built, sorted."""
    return tuple(sorted(_cells))


def build(name: str, dim: int, /, **options: Any) -> SequenceMixer:
    """Build the cell registered under a name.

    Raises ValueError for an unknown name or option; the message lists the known ones.

    >>> build("mingru", 8, expansion=2.0).dim
    8
    """
    allowed = cell_options(name)
    for option in options:
        if allowed is not None and option not in allowed:
            raise ValueError(f"the cell {name!r} has no option {option!r}{hint(option, allowed)}")
    _check_types(name, options)
    return _cells[name](dim, **options)


def cell_options(name: str) -> tuple[str, ...] | None:
    """Return the names of a cell's options, or None if it takes any.

    Raises ValueError for an unknown cell.

    >>> "expansion" in cell_options("mingru")
    True
    """
    if name not in _cells:
        raise ValueError(f"no cell {name!r}{hint(name, available())}")
    # All parameters but the first, dim.
    parameters = list(inspect.signature(_cells[name]).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return tuple(p.name for p in parameters[1:])


def _check_types(name: str, given: dict[str, Any]) -> None:
    # Options come from command lines, too. Annotations other than the four kinds are not checked.
    parameters = inspect.signature(_cells[name]).parameters
    for option, value in given.items():
        text = str(parameters[option].annotation) if option in parameters else ""
        kinds = set(text.split(" | "))
        if not text or not kinds <= {"int", "float", "bool", "str", "None"}:
            continue
        kind = "None" if value is None else type(value).__name__
        if kind not in kinds and not (kind == "int" and "float" in kinds):
            raise ValueError(f"the option {option!r} of {name!r} is {text}, not {value!r}")


def hint(name: str, there: tuple[str, ...]) -> str:
    """Return the end of a message about an unknown name: the nearest names, and all of them."""
    near = get_close_matches(name.lower(), there, n=1)
    listing = f"there is {', '.join(there) or 'none'}"
    return f"; did you mean {near[0]!r}? ({listing})" if near else f"; {listing}"
