"""A training run in its folder: started, saved, resumed, ended."""
