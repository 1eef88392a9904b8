"""EnsemW2S: weak-to-strong supervision with boosted ensembles of language models."""
