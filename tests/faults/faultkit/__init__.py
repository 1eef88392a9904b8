"""Killing runs at chosen moments and looking at what is left; shared by the tests here and by benchmarks/faults.py."""
