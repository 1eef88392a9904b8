"""How the quickstart's boosting defaults were chosen: validation rows of calibration seeds, never a test row.

    python benchmarks/defaults.py --seeds 1000 1001 1002

Prints the share of validation questions answered rightly by the single weak expert (by epochs), the uniform
ensemble of seeds, and the boosted ensemble by mode, prior and shrinkage: the mean over seeds, and each seed.
"""

from __future__ import annotations

import argparse
import dataclasses

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import Splits, load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.baselines import single_weak, uniform_ensemble
from ensemw2s.methods.bench import Members
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.models.devices import resolve_device

SETTINGS = [
    BoostSettings(mode="resample", shrinkage=0.05),
    BoostSettings(mode="resample", shrinkage=0.1),
    BoostSettings(mode="resample", shrinkage=0.3),
    BoostSettings(mode="resample", shrinkage=1.0),
    BoostSettings(mode="reweight", shrinkage=0.05),
    BoostSettings(mode="reweight", shrinkage=0.1),
    BoostSettings(mode="reweight", shrinkage=0.3),
    BoostSettings(mode="reweight", shrinkage=1.0),
    BoostSettings(mode="reweight", shrinkage=0.1, prior="vocabulary"),
    BoostSettings(mode="reweight", shrinkage=0.1, prior="none"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    seeds = parser.parse_args().seeds
    table: dict[str, list[float]] = {}
    for seed in seeds:
        config = dataclasses.replace(load_config("paper"), seed=seed)
        splits = load_splits(config)
        store = Store(default_store(), numerics(resolve_device("cpu"), config.dtype))
        bench = StoredBench(dataclasses.replace(BenchSettings.of(config), device="cpu"), store)

        def share(members: Members, bench: StoredBench = bench, splits: Splits = splits) -> float:
            answers = bench.answer(members, splits.validation, purpose="validation")
            return bench.matches(answers, splits.validation)

        _, choice = single_weak(
            bench, splits.weak_train, splits.validation, config.expert, config.weak_epochs, seed=seed
        )
        for epochs, score in choice.candidates:
            table.setdefault(f"single weak, {epochs:g} epochs", []).append(score)
        uniform = uniform_ensemble(bench, splits.weak_train, config.expert, 4, seed=seed)
        table.setdefault("uniform ensemble of 4", []).append(share(uniform))
        for settings in SETTINGS:
            boosted = boost_experts(bench, splits.weak_train, settings, config.expert, seed=seed, rule="mean")
            name = f"boosted, {settings.mode}, {settings.prior}, shrinkage {settings.shrinkage:g}"
            table.setdefault(name, []).append(share(boosted.members))
    for name, scores in table.items():
        each = "  ".join(f"{100 * score:5.1f}" for score in scores)
        print(f"{name:<50}{100 * sum(scores) / len(scores):6.1f} %   ({each})")


if __name__ == "__main__":
    main()
