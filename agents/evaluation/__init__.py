"""Evaluate agents in their environments: during training and afterwards."""
