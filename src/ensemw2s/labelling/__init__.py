"""Labelling a stream of questions of any size."""

from ensemw2s.labelling.reading import read_labelled, read_soft_targets
from ensemw2s.labelling.stream import LabelReport, label_rows, label_stream

__all__ = ["LabelReport", "label_rows", "label_stream", "read_labelled", "read_soft_targets"]
