"""Benchmark commands. The test run does not include them; each prints the tables in docs/."""
