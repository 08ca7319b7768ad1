"""A training run in its folder: begun, saved, resumed, ended."""
