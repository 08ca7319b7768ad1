"""Commands that measure. Never part of the test run; each prints the table that docs/ quotes."""
