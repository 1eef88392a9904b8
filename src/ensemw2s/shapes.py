"""Axis names and the words used everywhere.

Axes, as they stand in docstrings and comments:

- ``batch``   rows worked on at once
- ``seq``     positions of a padded batch
- ``vocab``   the tokenizer's vocabulary (of the model's output layer where larger)
- ``expert``  T, the experts of one ensemble
- ``row``     N, the rows of a data set
- ``token``   n, every answer token of a data set, row after row; the end token of an answer counts

The flat ``token`` axis: boosting weights, correctness and log-probabilities of a data set are 1-D
tensors over it. ``offsets`` (int64 ``[N + 1]``) cuts it into rows: row i owns ``offsets[i]:offsets[i+1]``.
Prompt and padding positions are not on this axis, so they can carry no weight by construction.

Glossary: **expert** one fine-tuned weak model; **ensemble** experts + weights alpha + a combine rule;
**student** the strong model trained on pseudo-labels; **ceiling** the strong model trained on ground truth
for the same questions; **pool** the unlabelled hard questions; **ID/OOD** test rows from the easy/hard side;
**PGR** (student - weak) / (ceiling - weak), performance gap recovered.
"""

from __future__ import annotations
