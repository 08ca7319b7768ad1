"""Look at a data set: python -m envs.inspect ID."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import score, sources
from envs.catalog import lookup
from envs.errors import UserError
from envs.trajectories import Trajectories

DESCRIPTION = """Look at a data set: sizes, episodes, lengths, returns (a histogram here and as a
PNG), reference scores, what was repaired, and what will not do."""
QUANTILES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
BINS, WIDTH = 16, 40  # of the histogram in the terminal: rows, characters


def describe(data: Trajectories) -> dict[str, Any]:
    """Return what is to be known of a data set, fit for JSON."""
    returns, lengths = data.returns, data.lengths
    spec = lookup(data.env_id, data.env_kwargs)
    try:
        sources.check_env(data)
        defect = None
    except UserError as error:
        defect = str(error)
    top = np.sort(returns)[-max(1, round(0.1 * len(returns))) :]
    return {
        "name": data.name,
        "env_id": data.env_id,
        "env_kwargs": data.env_kwargs,
        "episodes": data.num_episodes,
        "steps": data.num_steps,
        "lengths": _spread(lengths),
        "returns": _spread(returns),
        "top_tenth_return": float(top.mean()),
        "terminated": int(data.terminated.sum()),
        "observations": data.obs_dim,
        "obs_keys": list(data.obs_keys),
        "actions": data.action_dim,
        "action_low": data.action_low.tolist(),
        "action_high": data.action_high.tolist(),
        "bytes": data.obs.nbytes + data.action.nbytes + data.reward.nbytes,
        "reference": None
        if spec is None
        else {
            "random": spec.reference_min,
            "expert": spec.reference_max,
            "source": spec.source,
            "best_score": _score(float(returns.max()), data),
            "mean_score": _score(float(returns.mean()), data),
            "top_tenth_score": _score(float(top.mean()), data),
        },
        "constant_observations": np.flatnonzero(np.ptp(data.obs, axis=0) == 0).tolist(),
        "repairs": list(data.notes),
        "defect": defect,
    }


def report(about: dict[str, Any]) -> str:
    """Return the facts of `describe` as lines for the terminal."""
    arguments = ", ".join(f"{name}={value}" for name, value in about["env_kwargs"].items())
    keys = ", ".join(about["obs_keys"])
    reference, constant = about["reference"], about["constant_observations"]
    rows = [
        ("environment", (about["env_id"] or "none") + (f" ({arguments})" if arguments else "")),
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
            "no reference returns for this environment"
            if reference is None
            else f"best {reference['best_score']:.1f}, best tenth "
            f"{reference['top_tenth_score']:.1f}, mean {reference['mean_score']:.1f} "
            f"(0: {reference['random']:g}, 100: {reference['expert']:g}; {reference['source']})",
        ),
    ]
    if constant:
        rows.append(("constant", f"observations {', '.join(map(str, constant))} never change"))
    rows += [("repaired", note) for note in about["repairs"]] or [("repaired", "nothing")]
    if about["defect"] is not None:
        rows.append(("defect", about["defect"]))
    return "\n".join([about["name"], *(f"{name:<13} {text}" for name, text in rows)])


def histogram(values: NDArray[np.floating], bins: int = BINS, width: int = WIDTH) -> str:
    """Return a histogram as text, one line for each bin.

    Example:
        >>> print(histogram(np.array([0.0, 1.0, 1.0, 2.0]), bins=2, width=6))
              0.00  ##  1
              1.00  ######  3
    """
    if np.ptp(values) == 0:
        bins = 1
    counts, edges = np.histogram(values, bins=bins)
    digits = max(0, 3 - int(np.floor(np.log10(max(np.ptp(edges), 1e-9)))) - 1)
    return "\n".join(
        f"{edge:>10,.{digits}f}  {'#' * round(width * count / counts.max())}  {count}"
        for edge, count in zip(edges, counts, strict=False)
    )


def draw(data: Trajectories, path: Path) -> None:
    """Save histograms of returns and lengths as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(f"{data.name}: {data.num_episodes:,} episodes, {data.num_steps:,} steps")
    for axes, values, name in zip(
        figure.subplots(1, 2), (data.returns, data.lengths), ("return", "length"), strict=True
    ):
        axes.hist(values, bins=60, color="#1f6feb")
        axes.axvline(values.mean(), color="#222222", linestyle="--", linewidth=1)
        axes.set(xlabel=f"{name} (dashed: mean {values.mean():,.1f})", ylabel="episodes")
        axes.spines[["top", "right"]].set_visible(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path} ({error}); choose another --plot") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run as python -m envs.inspect."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("id", help="what train.py takes as --env")
    parser.add_argument("--env-id", help="environment of a file of one's own, such as Hopper-v4")
    parser.add_argument("--plot", type=Path, help="where the PNG goes; default: NAME.png here")
    parser.add_argument("--no-plot", action="store_true", help="draw no PNG")
    parser.add_argument("--no-download", action="store_true", help="only what is on this disk")
    parser.add_argument("--no-cache", action="store_true", help="keep no copy of a large data set")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    args = parser.parse_args(argv)
    try:
        data = sources.load(
            args.id,
            env_id=args.env_id,
            download=not args.no_download,
            cache=not args.no_cache,
            progress=not args.json,
        )
        about = describe(data)
        if args.json:
            sys.stdout.write(json.dumps(about) + "\n")
        else:
            sys.stdout.write(f"{report(about)}\n\nreturns\n{histogram(data.returns)}\n")
        if not args.no_plot:
            path = args.plot or Path(file_name(data.name))
            draw(data, path)
            sys.stderr.write(f"\nplot: {path}\n")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def file_name(name: str) -> str:
    """Return a file name for the plot of a data set."""
    return name.replace(",", "+").strip("/.").replace("/", "-")[-100:] + ".png"


def _spread(values: NDArray[Any]) -> dict[str, Any]:
    found = np.quantile(values, QUANTILES).tolist()
    return {"mean": float(values.mean()), "quantiles": dict(zip(QUANTILES, found, strict=True))}


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


def _score(value: float, data: Trajectories) -> float:
    found = score.normalized(value, data.env_id, data.env_kwargs)
    assert found is not None
    return float(found)


if __name__ == "__main__":
    sys.exit(main())
