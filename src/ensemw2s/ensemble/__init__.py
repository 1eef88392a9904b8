"""Several experts as one model: combine rules, scoring, decoding, the naive twin, and the folder they live in."""
