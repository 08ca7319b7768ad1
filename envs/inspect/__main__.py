"""Describe a data set: python -m envs.inspect ID."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs import sources
from envs.errors import UserError
from envs.files import file_name
from envs.inspect import histogram
from envs.inspect.summary import describe
from envs.script import run_script
from envs.worlds.spec import EnvSpec

DESCRIPTION = """Describe a data set: sizes, episodes, lengths, returns (with a histogram, also as a
PNG), reference scores, repairs, and defects."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run as python -m envs.inspect."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("id", help="data set id or file, as for train.py --env")
    # Named as in train.py, and without its prefix.
    parser.add_argument(
        *("--env-id", "--data.env-id"),
        dest="env_id",
        help="environment of your own file, such as Hopper-v4",
    )
    for flag, metavar, of in (
        ("env-kwargs", "NAME VALUE", "arguments of the environment"),
        ("reset-options", "NAME VALUE", "options of its resets"),
        ("obs-keys", "KEY", "the parts of a Dict observation that are read"),
    ):
        parser.add_argument(f"--{flag}", f"--data.{flag}", nargs="*", metavar=metavar, help=of)
    parser.add_argument("--plot", type=Path, help="path of the PNG; default: NAME.png here")
    parser.add_argument("--no-plot", action="store_true", help="write no PNG")
    parser.add_argument(
        *("--no-download", "--data.no-download"),
        dest="download",
        action="store_false",
        help="use only data on this disk",
    )
    parser.add_argument(
        *("--no-cache", "--data.no-cache"),
        dest="cache",
        action="store_false",
        help="keep no cached copy of a large data set",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return run_script(lambda: _inspect(parser.parse_args(argv)))


def _pairs(given: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """Return NAME VALUE pairs as a table: numbers, True and False are read as such."""
    texts = list(given or ())
    if len(texts) % 2:
        raise UserError(f"--{flag} takes names and values in turn, not {' '.join(texts)}")
    found: dict[str, Any] = {}
    for name, text in zip(texts[::2], texts[1::2], strict=True):
        found[name] = {"True": True, "False": False}.get(text, text)
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                found[name] = kind(text)
    return found


def _inspect(args: argparse.Namespace) -> None:
    data = sources.load(
        args.id,
        env_id=args.env_id,
        env_kwargs=_pairs(args.env_kwargs, "env-kwargs"),
        reset_options=_pairs(args.reset_options, "reset-options"),
        obs_keys=args.obs_keys or (),
        download=args.download,
        cache=args.cache,
        progress=not args.json,
    )
    about = describe(data)
    if args.json:
        sys.stdout.write(json.dumps(about) + "\n")
    else:
        sys.stdout.write(f"{report(about)}\n\nreturns\n{histogram.text(data.returns)}\n")
    if not args.no_plot:
        path = args.plot or Path(f"{file_name(data.name)}.png")
        histogram.draw(data, path)
        sys.stderr.write(f"\nplot: {path}\n")


def report(about: dict[str, Any]) -> str:
    """Return the result of `describe` as lines for the terminal."""
    keys = ", ".join(about["obs_keys"])
    made = replace(EnvSpec.from_json(about), obs_keys=())
    reference, constant = about["reference"], about["constant_observations"]
    rows = [
        ("environment", str(made) or "none"),
        ("episodes", f"{about['episodes']:,}, of which {about['terminated']:,} were terminated"),
        ("steps", f"{about['steps']:,}"),
        ("length", _quantiles(about["lengths"], ",.0f")),
        ("return", _quantiles(about["returns"], ",.1f")),
        ("", f"mean {about['returns']['mean']:,.1f}, best tenth {about['top_tenth_return']:,.1f}"),
        ("observations", f"{about['observations']}" + (f" ({keys})" if keys else "")),
        ("actions", f"{about['actions']} in {_bounds(about)}"),
        ("memory", f"{about['bytes'] / 1e6:,.1f} MB"),
        (
            "score",
            about["no_score"]
            if reference is None
            else f"best {reference['best_score']:.1f}, best tenth "
            f"{reference['top_tenth_score']:.1f}, mean {reference['mean_score']:.1f} "
            f"(0: {reference['random']:g}, 100: {reference['expert']:g}; {reference['source']})",
        ),
    ]
    if constant:
        names = ", ".join(map(str, constant))
        rows.append(("constant", f"observations {names} never change, or by rounding alone"))
    for i, offset in enumerate(about["obs_offset"] or ()):
        if offset:
            rows.append(("offset", f"{offset:.10g} is taken off observation {i} before float32"))
    rows += [("repaired", note) for note in about["repairs"]] or [("repaired", "nothing")]
    if about["defect"] is not None:
        rows.append(("defect", about["defect"]))
    return "\n".join([about["name"], *(f"{name:<13} {text}" for name, text in rows)])


def _quantiles(spread: dict[str, Any], form: str) -> str:
    names = {0.0: "least", 0.5: "median", 1.0: "best" if form == ",.1f" else "most"}
    return ", ".join(
        f"{names.get(q, f'{100 * q:.0f} %')} {value:{form}}"
        for q, value in spread["quantiles"].items()
    )


def _bounds(about: dict[str, Any]) -> str:
    pairs = list(dict.fromkeys(zip(about["action_low"], about["action_high"], strict=True)))
    shown = ", ".join(f"[{low:g}, {high:g}]" for low, high in pairs[:4])
    return shown + (", ..." if len(pairs) > 4 else "")


if __name__ == "__main__":
    sys.exit(main())
