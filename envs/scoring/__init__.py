"""Scores: statistics, reference returns, and the protocol beside each number."""
