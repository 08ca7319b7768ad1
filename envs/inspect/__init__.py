"""Look into a data set: python -m envs.inspect DATA."""
