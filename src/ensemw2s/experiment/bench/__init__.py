"""The bench of ``methods``, its work in stored stages: ``stages`` is what all have, then comes a kind a file."""

from ensemw2s.experiment.bench.answers import SHARD
from ensemw2s.experiment.bench.scores import Counts
from ensemw2s.experiment.bench.stages import VERSIONS
from ensemw2s.experiment.bench.stored import StoredBench
from ensemw2s.experiment.bench.views import TOP

__all__ = ["SHARD", "TOP", "VERSIONS", "Counts", "StoredBench"]
