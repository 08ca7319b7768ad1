"""What a source of data sets is; SOURCES in envs/sources/__init__.py lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.worlds.spec import EnvSpec


@dataclass(frozen=True)
class Options:
    """Arguments of `envs.sources.load` that every source gets."""

    env_id: str | None = None
    seed: int = 0
    download: bool = True
    cache: bool = True
    progress: bool = True
    evaluate: bool = False
    env_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reset_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    obs_keys: tuple[str, ...] = ()

    def check_download(self, name: str, path: Path) -> None:
        """Raise UserError where a data set, which belongs at `path`, must not be downloaded."""
        if not self.download and not path.exists():
            raise UserError(
                f"{name} is not on this disk ({path}), and --data.no-download forbids it"
            )

    def env(self, found: EnvSpec) -> EnvSpec:
        """Return the environment of a data set with the arguments and options that were given."""
        return replace(
            found,
            kwargs={**found.kwargs, **self.env_kwargs},
            reset_options={**found.reset_options, **self.reset_options},
        )


@dataclass(frozen=True)
class Source:
    """A kind of data set."""

    title: str
    """What a user may name, in words."""
    knows: Callable[[str], bool]
    """Whether a name is of this kind."""
    load: Callable[[str, Options], Trajectories]
    """Read the data set of a name that it knows; UserError where it cannot be used."""
    names: Callable[[], Iterable[str]] = tuple
    """The ids to choose near matches of a misspelt one from."""
