"""The pictures of a run and of a report. Each function returns a matplotlib figure."""

from agents.plots.calibration import calibration
from agents.plots.curve import curve, curves
from agents.plots.latency import latency, pieces
from agents.plots.returns import returns
from agents.plots.theme import DARK, LIGHT, Theme, render

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "calibration",
    "curve",
    "curves",
    "latency",
    "pieces",
    "render",
    "returns",
]
