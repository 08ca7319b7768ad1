"""Data sets in memory: episodes as flat arrays, and the samplers that make batches of them."""
