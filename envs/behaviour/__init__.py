"""Behaviour policies that this project trained, and the rollouts that turn policies into data."""
