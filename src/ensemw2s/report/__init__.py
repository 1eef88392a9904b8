"""Reads a finished run's ``results.json``, and nothing else, and shows it to people."""
