"""Forms of boosting tried on validation rows of calibration seeds, never on a test row; every idea has its line.

    python benchmarks/boosting_trials.py --seeds 1000 1001 1002
    python benchmarks/boosting_trials.py --set models.weak_tuning=lora lora.r=1 expert.learning_rate=0.005
    python benchmarks/boosting_trials.py --set 'data.easy_levels=[1, 2]' 'data.hard_levels=[3]' --harder

Prints, as means over the seeds, the share of the easy validation questions answered rightly and the nats an answer token,
and the same on the labelled rows (with --harder: on the first 500 rows of the pool, which then must be of labelled
levels: trained on levels 1 and 2, how does it stand at 3?). All but "single" train as many experts, each with an expert's budget; "x2" doubles it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.additive import summed
from ensemw2s.methods.baselines import bagging, snapshot_ensemble, total_compute_single, uniform_ensemble
from ensemw2s.methods.bench import Expert, Members
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.seeds import derive_seed
from ensemw2s.training.events import log_probs
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings, wants_soft
from ensemw2s.training.settings import TrainSettings

Rows = Sequence[Row]
Trial = Callable[[StoredBench, Rows, int], Members]


@LOSSES.register("trial_mixture")
@wants_soft
def mixture_loss(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """-log((1 - alpha) · p_before(label) + alpha · p_new(label)): the gradient is the new expert's share of the token."""
    assert batch.soft_ids is not None
    assert batch.soft_probs is not None
    new = log_probs(batch.logits).gather(1, batch.labels[:, None])[:, 0]
    before = (batch.soft_probs * (batch.soft_ids == batch.labels[:, None])).sum(dim=1).clamp(min=1e-12).log()
    joint = torch.logaddexp(math.log1p(-settings.alpha) + before, math.log(settings.alpha) + new)
    return -(joint * batch.weights).sum(), batch.weights.sum()


def boosted_mixture(
    bench: StoredBench, rows: Rows, training: TrainSettings, count: int, seed: int, *, share: float | None, warm: bool
) -> Members:
    """Expert t+1 minimises the log loss of the mean of all, with its own share ``share`` (None: 1 / (t + 1))."""
    experts = [bench.fine_tune("weak", rows, training, seed=derive_seed(seed, "expert", 1))]
    for number in range(2, count + 1):
        tables = [bench.token_table(expert, rows) for expert in experts]
        mean = torch.stack([table.log_prob.double() for table in tables]).logsumexp(dim=0) - math.log(len(tables))
        before = SoftTargets(tables[0].label[:, None].long(), mean.exp().float()[:, None])
        loss = LossSettings(name="trial_mixture", top_k=1, alpha=share or 1 / number)
        start = experts[0] if warm else None
        experts.append(
            bench.fine_tune(
                "weak", rows, training, seed=derive_seed(seed, "expert", number), soft=before, loss=loss, start=start
            )
        )
    return Members.equal(experts)


def additive(
    bench: StoredBench,
    rows: Rows,
    training: TrainSettings,
    count: int,
    seed: int,
    shrinkage: float,
    turns: Sequence[int] = (0,),
    **more: bool,
) -> Members:
    """The package's additive form, or with ``warm`` every expert started from the first, ``cold`` from a flat sum."""
    if not more:
        settings = BoostSettings(form="additive", rounds=count, shrinkage=shrinkage)
        return boost_experts(bench, rows, settings, training, seed=seed, rule="additive", turns=turns).members
    vocabulary = bench.vocabulary_size("weak")
    loss = LossSettings(name="additive", top_k=vocabulary, beta=shrinkage)
    experts: list[Expert] = []
    for number in range(1, count + 1):
        soft = None
        if more.get("cold"):
            tokens = len(bench.token_table(bench.pretrained("weak"), rows).label)
            ids = torch.arange(vocabulary).expand(tokens, vocabulary).contiguous()
            soft = SoftTargets(ids, torch.full((tokens, vocabulary), 1 / vocabulary))
        elif experts:
            before = summed(experts, (1.0, *(shrinkage,) * (len(experts) - 1)))
            soft = bench.soft_labels(before, rows, vocabulary, student="weak", with_labels=True)
        start = experts[0] if more.get("warm") and experts else None
        experts.append(
            bench.fine_tune(
                "weak", rows, training, seed=derive_seed(seed, "expert", number), soft=soft, start=start,
                loss=loss if soft else None,
            )
        )  # fmt: skip
    alphas = (shrinkage,) * count if more.get("cold") else (1.0, *(shrinkage,) * (count - 1))
    return summed(experts, alphas)


def tempered(
    bench: StoredBench,
    rows: Rows,
    training: TrainSettings,
    count: int,
    temperature: float,
    seed: int,
    turns: Sequence[int],
) -> Members:
    """The additive form with the finished sum divided by a temperature."""
    made = additive(bench, rows, training, count, seed, 0.1, turns)
    return summed(made.experts, [alpha / temperature for alpha in made.rule_state["alphas"]])


def trials(training: TrainSettings, count: int, bases: int) -> dict[str, Trial]:
    """Every line of the table: a name, and how its members are made."""
    turns = tuple(range(bases))
    longer = dataclasses.replace(training, epochs=2 * training.epochs)
    shorter = dataclasses.replace(training, epochs=training.epochs / 2)

    def one(bench: StoredBench, rows: Rows, base: int, seed: int) -> Members:
        return Members.single(bench.fine_tune("weak", rows, training, seed=derive_seed(seed, "expert", 1), base=base))

    def of(make: Callable[..., Members], *values: object, **named: object) -> Trial:
        return lambda bench, rows, seed: make(bench, rows, *values, seed=seed, **named)

    def ada(**settings: object) -> Trial:
        chosen = BoostSettings(rounds=count, **settings)  # type: ignore[arg-type]
        return lambda bench, rows, seed: (
            boost_experts(bench, rows, chosen, training, seed=seed, rule="mean", turns=turns).members
        )

    found: dict[str, Trial] = {
        "single": of(one, 0),
        **{f"single, base {number + 1}": of(one, number) for number in range(1, bases)},
        "single x2": of(total_compute_single, training, 2),
        "single, total compute": of(total_compute_single, training, count),
        "uniform": of(uniform_ensemble, training, count, turns=turns),
        "uniform x2": of(uniform_ensemble, longer, count, turns=turns),
        "uniform, twice as many": of(uniform_ensemble, training, 2 * count, turns=turns),
        "bagging": of(bagging, training, count, turns=turns),
        "snapshot": of(snapshot_ensemble, training, count),
        "adaboost, shrinkage 0.3": ada(shrinkage=0.3),
        "adaboost, shrinkage 1": ada(shrinkage=1.0),
        "mixture, equal shares": of(boosted_mixture, training, count, share=None, warm=False),
        "mixture, share 0.5": of(boosted_mixture, training, count, share=0.5, warm=False),
        "mixture, warm start": of(boosted_mixture, training, count, share=None, warm=True),
        "additive 0.1, warm start": of(additive, training, count, shrinkage=0.1, warm=True),
        "additive 0.1, cold: no sum": of(additive, training, count, shrinkage=0.1, cold=True),
        "additive 0.1, half budget": of(additive, shorter, count, shrinkage=0.1, turns=turns),
        "additive 0.1 x2": of(additive, longer, count, shrinkage=0.1, turns=turns),
        "additive 0.1, twice as many": of(additive, training, 2 * count, shrinkage=0.1, turns=turns),
    }
    for temperature in (1.5, 2.0):
        found[f"additive 0.1, temperature {temperature:g}"] = of(tempered, training, count, temperature, turns=turns)
    for shrinkage in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0):
        found[f"additive {shrinkage:g}"] = of(additive, training, count, shrinkage=shrinkage, turns=turns)
    return found


def score(bench: StoredBench, members: Members, rows: Rows) -> tuple[float, float]:
    """Share of rows answered rightly, and nats an answer token."""
    right = bench.matches(bench.answer(members, rows, purpose="validation"), rows)
    counts = bench.token_counts(members, rows)[-1].values()
    return right, sum(nats for _, _, nats in counts) / sum(tokens for _, tokens, _ in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value over the preset paper")
    parser.add_argument("--only", nargs="*", default=[], help="lines that begin with one of these")
    parser.add_argument("--harder", action="store_true", help="score rows of the pool in place of the labelled rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[tuple[float, ...]]] = {}
    for seed in options.seeds:
        config = dataclasses.replace(load_config("paper", options.set), seed=seed)
        splits = load_splits(config)
        bench = StoredBench(
            dataclasses.replace(BenchSettings.of(config), device="cpu"),
            Store(default_store(), numerics(torch.device("cpu"), config.dtype)),
        )
        for name, trial in trials(config.expert, options.experts, len(config.models.bases)).items():
            if options.only and not name.startswith(tuple(options.only)):
                continue
            members = trial(bench, splits.weak_train, seed)
            others = splits.pool[:500] if options.harder else splits.weak_train
            scores = (*score(bench, members, splits.validation), *score(bench, members, others))
            table.setdefault(name, []).append(scores)
    second = "harder, %" if options.harder else "labelled, %"
    print(f"{'':<30}{'validation, %':>14}{'each seed':>24}{'nats':>8}{second:>13}{'nats':>8}")
    for name, cells in table.items():
        mean = torch.tensor(cells).mean(dim=0).tolist()
        seeds = " ".join(f"{100 * cell[0]:.1f}" for cell in cells)
        print(f"{name:<30}{100 * mean[0]:>14.1f}{seeds:>24}{mean[1]:>8.3f}{100 * mean[2]:>13.1f}{mean[3]:>8.3f}")


if __name__ == "__main__":
    main()
