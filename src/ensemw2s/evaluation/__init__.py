"""Scores keyed by row id, their intervals, chance levels and PGR. Pure numbers: no models, no files."""
