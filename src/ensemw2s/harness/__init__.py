"""EleutherAI's lm-evaluation-harness (lm-eval) on ensembles; needs the extra ``ensemw2s[eval]``.

``launch`` registers the model type and calls lm-eval's own command line, ``model`` is that model type; ``scoring`` and
``writing`` do its work and know nothing of lm-eval.
"""
