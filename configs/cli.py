"""Parse the command line of train.py: `--preset` picks the defaults, every other flag overrides."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import tyro

from configs.base import Config
from configs.presets import PRESETS


def parse(arguments: Sequence[str] | None, description: str) -> Config:
    """Return the Config that `arguments` (default: sys.argv) describe; exit with 2 on a bad one."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset", default="default")
    name = early.parse_known_args(arguments)[0].preset
    if name not in PRESETS:
        early.exit(2, f"error: unknown preset {name!r}: choose from {', '.join(PRESETS)}\n")
    default = dataclasses.replace(PRESETS[name], preset=name)
    found = tyro.cli(Config, args=arguments, default=default, description=description)
    model, preset = found.model, default.model
    if model.backbone != preset.backbone and model.cell == preset.cell:
        # The preset's options are those of its own cell.
        found = dataclasses.replace(found, model=dataclasses.replace(model, cell={}))
    return found
