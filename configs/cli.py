"""Parse the command line of train.py: `--preset` picks the defaults, every other flag overrides.

With `--resume` the run's own configuration is the default, and little of it can be overridden.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import docstring_parser
import tyro

from configs import saved
from configs.options import Config
from configs.presets import PRESETS

Options = TypeVar("Options")


def parse(arguments: Sequence[str] | None, description: str) -> Config:
    """Return the Config that `arguments` (default: sys.argv) describe; exit with 2 on a bad one."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset", default="default")
    early.add_argument("--resume", type=Path)
    early.add_argument("--run-dir", "--run_dir", type=Path)
    early.add_argument("--resume-if-there", "--resume_if_there", action="store_true")
    given = early.parse_known_args(arguments)[0]
    if given.preset not in PRESETS:
        early.exit(2, f"error: unknown preset {given.preset!r}: choose from {', '.join(PRESETS)}\n")
    if given.resume_if_there and given.run_dir is None:
        early.exit(2, "error: --resume-if-there needs --run-dir, the folder to look in\n")
    two = [path.resolve() for path in (given.resume, given.run_dir) if path is not None]
    if given.resume_if_there and len(set(two)) == 2:
        early.exit(
            2,
            f"error: --resume {given.resume} and --resume-if-there with --run-dir {given.run_dir} "
            "are two runs: leave one of them out\n",
        )
    if given.resume_if_there and (given.run_dir / saved.FILE).exists():
        return _resumed(given.run_dir, arguments, description, early)
    if given.resume is not None:
        return _resumed(given.resume, arguments, description, early)
    default = dataclasses.replace(PRESETS[given.preset], preset=given.preset)
    found = command_line(Config, arguments, description, default)
    model, preset = found.model, default.model
    if model.backbone != preset.backbone and model.cell == preset.cell:
        # The preset's options are those of its own cell.
        found = dataclasses.replace(found, model=dataclasses.replace(model, cell={}))
    return found


def _resumed(
    folder: Path, arguments: Sequence[str] | None, description: str, early: argparse.ArgumentParser
) -> Config:
    try:
        begun = saved.read(folder)
    except ValueError as error:
        early.exit(2, f"error: {error}\n")
    found = command_line(Config, arguments, description, begun)
    elsewhere = found.run_dir is None or found.run_dir.resolve() != folder.resolve()
    if others := saved.changed(found, begun) + ["--run-dir"] * elsewhere:
        early.exit(
            2,
            f"error: {', '.join(others)} cannot change in a resumed run: leave it out, "
            "or begin another run\n",
        )
    return dataclasses.replace(found, run_dir=folder, resume=folder)


def command_line(
    kind: type[Options],
    arguments: Sequence[str] | None,
    description: str,
    default: Options | None = None,
) -> Options:
    """Return the dataclass `kind` that `arguments` (default: sys.argv) describe.

    Its --help wraps every text to the width of the terminal; tyro alone would keep the line breaks
    of the source.
    """
    _reflow(kind)
    columns = shutil.get_terminal_size().columns - 2
    # A line that begins with a letter would be joined to the one before.
    wrapped = textwrap.indent(textwrap.fill(" ".join(description.split()), columns), "  ")
    more: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=arguments, description=wrapped, **more)


def _reflow(kind: Any) -> None:
    """Annotate the fields of a dataclass with their docstrings, as paragraphs without line breaks.

    The same for dataclasses among its fields and its bases.
    """
    hints = get_type_hints(kind, include_extras=True)
    for base in filter(dataclasses.is_dataclass, kind.__mro__):
        for param in docstring_parser.parse_from_object(base).params:
            if param.arg_name in base.__annotations__:
                paragraphs = re.split(r"\n\s*\n", param.description or "")
                text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
                hint = hints[param.arg_name]
                shown = "[NAME VALUE ...]" if str(hint).startswith("dict[") else None
                more = tyro.conf.arg(help=text, metavar=shown, help_behavior_hint=_default)
                base.__annotations__[param.arg_name] = Annotated[hint, more]
    for hint in filter(dataclasses.is_dataclass, get_type_hints(kind).values()):
        _reflow(hint)


def _default(shown: str) -> str:
    # The text of an option that is None or empty says what that means.
    return "" if shown in ("None", "") else f"(default: {shown})"
