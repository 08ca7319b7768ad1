"""Loggers: where the metrics, figures and scores of a run go."""
