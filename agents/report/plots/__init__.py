"""The figures of a run and of a report. Each function returns a matplotlib figure."""

from agents.report.plots.calibration import calibration
from agents.report.plots.curve import curve, curves
from agents.report.plots.latency import latency, pieces
from agents.report.plots.returns import returns
from agents.report.plots.theme import DARK, LIGHT, Theme, render

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
