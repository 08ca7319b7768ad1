"""Data and worlds: NumPy and gymnasium, no torch."""
