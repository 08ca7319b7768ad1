"""Environments: how they are made, and what is known about each."""
