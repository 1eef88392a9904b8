"""Whether successive halving finds the single weak expert that the whole grid finds, and what it trains for it.

    python benchmarks/weak_search.py --seeds 15 16 17 18 19 20 21 22 23 24
    python benchmarks/weak_search.py --set data.families=[largest,story]

Pretrained model and epochs of the quickstart's single expert, chosen on its validation rows both ways, and the share of
these rows it answers rightly. No test row is looked at.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch

from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.baselines import WeakSearch, best_base_weak, searched

SEARCHES: tuple[WeakSearch, ...] = ("all", "halving")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value over the preset quickstart")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_config("quickstart", options.set)
    names, store = base.models.bases, Store(default_store(), numerics(torch.device("cpu"), base.dtype))
    print(f"{'seed':<6}" + "".join(f"{search + ': model, epochs, % right':<36}" for search in SEARCHES))
    same, gaps = 0, []
    for seed in options.seeds:
        config = dataclasses.replace(base, seed=seed)
        splits = load_splits(config)
        bench = StoredBench(dataclasses.replace(BenchSettings.of(config), device="cpu"), store)
        found = []
        for search in SEARCHES:
            members, (*_, choice) = best_base_weak(
                bench, splits.weak_train, splits.validation, config.expert, config.weak_epochs, seed=seed,
                bases=range(len(names)), search=search,
            )  # fmt: skip
            found.append((names[members.experts[0].base], choice.chosen, dict(choice.candidates)[choice.chosen]))
        told = [f"{name}, {epochs:g}, {100 * right:.1f}" for name, epochs, right in found]
        print(f"{seed:<6}" + "".join(f"{one:<36}" for one in told), flush=True)
        same += found[0][:2] == found[1][:2]
        gaps.append(found[1][2] - found[0][2])
    print(f"the same expert: {same} of {len(gaps)} seeds; mean difference {100 * sum(gaps) / len(gaps):+.2f} points")
    for search in SEARCHES:
        tried = searched(base.weak_epochs, len(names), search)
        epochs = sum(epochs * models for epochs, models in tried)
        print(f"{search}: {sum(models for _, models in tried)} training runs, {epochs:g} epochs in all")


if __name__ == "__main__":
    main()
