"""Ensembles of experts that share no tokenizer: mixed over bytes of text instead of tokens. Begin at ``mixed``."""
