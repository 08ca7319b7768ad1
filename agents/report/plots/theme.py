"""The look of the figures on white and on dark, and their files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Theme = dict[Any, Any]  # settings of matplotlib (rcParams)
LABEL = 90  # the most characters of a legend's label that fit into the width of a figure
_MARKERS = "os^DvPX"
_DASHES = ("-", "--", ":")


def _theme(paper: str, ink: str, grid: str, colours: list[str]) -> Theme:
    return {
        "figure.facecolor": paper,
        "savefig.facecolor": paper,
        "axes.facecolor": paper,
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=colours),
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": grid,
        "font.size": 9,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "pdf.fonttype": 42,  # as text, which journals ask for
        "svg.hashsalt": "minrnn",  # the same picture is the same file
    }


LIGHT = _theme(
    "#ffffff",
    "#222222",
    "#e3e6ea",
    ["#1f6feb", "#d9480f", "#0f8a5f", "#8250df", "#a67c00", "#c2387f"],
)
DARK = _theme(
    "#15181c",
    "#d7dce2",
    "#333a42",
    ["#5aa7ff", "#ff8f52", "#45c08f", "#b596f5", "#d9b64c", "#f283bd"],
)


@contextmanager
def drawing(theme: Theme) -> Iterator[str]:
    """Context: figures are made and saved in the look of `theme`; yields the colour of text."""
    with matplotlib.rc_context(theme):
        yield theme["text.color"]


def render(figure: Figure, theme: Theme = LIGHT, format: str = "png", dpi: int = 150) -> bytes:
    """Return a figure as the bytes of a png, svg or pdf file; the same figure, the same bytes."""
    image = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with drawing(theme):
        figure.savefig(image, format=format, dpi=dpi, metadata=dates.get(format))
    return image.getvalue()


def style(place: int) -> dict[str, Any]:
    """Return colour and dashes of the `place`-th line of a plot; 18 lines can be distinguished."""
    return {"color": f"C{place % 6}", "linestyle": _DASHES[place // 6 % 3]}


def marker(place: int) -> str:
    """Return the marker of the `place`-th line of a plot."""
    return _MARKERS[place % len(_MARKERS)]


def heading(title: str) -> str:
    """Return a title broken into lines that are no wider than a figure."""
    return textwrap.fill(title, 72, break_long_words=False, break_on_hyphens=False)


def legend_below(figure: Figure, panels: Iterable[Axes]) -> None:
    """Put one legend of all panels below them, in two columns if it fits; the figure grows."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(textwrap.fill(label, LABEL), handle)
    columns = 2 if max(map(len, entries), default=0) <= LABEL // 2 - 4 else 1
    lines = sum(label.count("\n") + 1 for label in entries)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-lines // columns))
    handles, labels = list(entries.values()), list(entries)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2, 5, 10, ..."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
