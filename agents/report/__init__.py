"""Reports of evaluations: tables, figures, videos, one HTML page."""
