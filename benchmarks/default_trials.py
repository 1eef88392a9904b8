"""What the default's ensemble is made of, tried on easy validation rows of calibration seeds; every idea has its line.

    python benchmarks/default_trials.py --seeds 1000 1001 1002
    python benchmarks/default_trials.py --only others --pool      # ideas that came to nothing
    python benchmarks/default_trials.py --only one-model          # from one pretrained model
    python benchmarks/default_trials.py --only wrong-labels --pool --set noise.rate=0.25

How many pretrained weak models, how many experts, epochs and ν: the share of 500 easy validation questions answered
rightly, the same on the hardest labelled level (the nearest to hard questions that anybody has labels for), and nats an
answer token. The best model on validation rows comes first, as in the default. With --pool also the share of the first
1,000 pool questions answered rightly: told, not chosen by. No test row is looked at. Where the labels are partly wrong
(``noise.rate``), models are put in order by the wrong labels, as in a run, and every line is judged by the right ones.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from boosting_trials import score
from torch import Tensor

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import Splits, hide_answers, load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.additive import summed
from ensemw2s.methods.baselines import best_base_weak, best_first, uniform_ensemble
from ensemw2s.methods.bench import Expert, Members, base_of
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.selection import SelectionSettings
from ensemw2s.methods.students import take_labels
from ensemw2s.seeds import derive_seed
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

#: in the order in which they were made; w2s-weak-2 for choices, the last three for the default
MODELS = tuple(f"w2s-weak{end}" for end in ("", "-5", "-6", "-7", "-2", "-9", "-10", "-11"))
#: (pretrained models, experts, epochs, ν)
BUDGETS = (
    (4, 4, 10, 0.5), (4, 8, 10, 0.5), (4, 8, 5, 0.5), (4, 16, 2.5, 0.5), (8, 8, 10, 0.5), (8, 8, 5, 0.5), (8, 8, 5, 1.0),
    (8, 16, 5, 0.5),
)  # fmt: skip
#: (experts, epochs, ν) from one pretrained model
ONE_MODEL = ((4, 10, 0.1), (4, 10, 0.25), (8, 5, 0.1), (8, 5, 0.25), (8, 5, 0.5), (8, 10, 0.1))
_TEMPERATURES = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)
_RIDGE = 1e-3  # keeps fitted alphas near those that boosting gave


class Trial:
    """One calibration seed with the first ``count`` of ``MODELS``."""

    def __init__(self, config: Config, count: int) -> None:
        models = dataclasses.replace(config.models, weak=MODELS[0], more_weak=MODELS[1:count])
        self.config = dataclasses.replace(config, models=models)
        self.splits: Splits = load_splits(self.config)
        store = Store(default_store(), numerics(torch.device("cpu"), config.dtype))
        self.bench = StoredBench(dataclasses.replace(BenchSettings.of(self.config), device="cpu"), store)
        right = self.splits.right.get("validation", {})
        self.judges = [row.with_answer(right.get(row.id, row.answer)) for row in self.splits.validation]
        self.turns, _ = best_first(
            self.bench,
            self.splits.weak_train,
            self.splits.validation,
            self._training(10),
            seed=config.seed,
            bases=count,
        )

    def _training(self, epochs: float, robustness: float = 0.0) -> TrainSettings:
        return dataclasses.replace(self.config.expert, epochs=epochs, robustness=robustness)

    def single(self) -> Members:
        """The single weak expert of the run, with epochs and model chosen on validation rows."""
        c, rows = self.config, self.splits
        return best_base_weak(
            self.bench,
            rows.weak_train,
            rows.validation,
            c.expert,
            c.weak_epochs,
            seed=c.seed,
            bases=range(len(self.turns)),
        )[0]

    def uniform(self, experts: int, epochs: float, rows: Sequence[Row] = (), robustness: float = 0.0) -> Members:
        """Uniform experts on the labelled rows, or on ``rows``."""
        return uniform_ensemble(
            self.bench, rows or self.splits.weak_train, self._training(epochs, robustness), experts,
            seed=self.config.seed, turns=self.turns,
        )  # fmt: skip

    def additive(
        self, experts: int, epochs: float, nu: float, rows: Sequence[Row] = (), robustness: float = 0.0
    ) -> Members:
        """Additive boosting on the labelled rows, or on ``rows``."""
        settings = BoostSettings(form="additive", rounds=experts, shrinkage=nu)
        return boost_experts(
            self.bench, rows or self.splits.weak_train, settings, self._training(epochs, robustness),
            seed=self.config.seed, rule="additive", turns=self.turns,
        ).members  # fmt: skip

    def plain_first(self, experts: int, epochs: float, nu: float, robustness: float) -> Members:
        """Additive boosting whose first expert minimises the log loss, and the others the robust one."""
        rows, made = self.splits.weak_train, list[Expert]()
        loss = LossSettings(name="additive", top_k=BoostSettings.top_k, beta=nu)
        soft = None
        for number in range(1, experts + 1):
            training = self._training(epochs, robustness if made else 0.0)
            expert = self.bench.fine_tune(
                "weak", rows, training, seed=derive_seed(self.config.seed, "expert", number), soft=soft,
                loss=loss if soft else None, base=base_of(number, self.turns),
            )  # fmt: skip
            made.append(expert)
            members = summed(made, (1.0, *(nu,) * (number - 1)))
            soft = self.bench.soft_labels(members, rows, loss.top_k, student="weak", with_labels=True)
        return members

    def self_trained(self, make: Callable[..., Members], share: float) -> Members:
        """Made again on the labelled rows and the surest ``share`` of its own labels of the pool (self-training)."""
        questions = hide_answers(self.splits.pool)
        answers = self.bench.answer(make(), questions, purpose="label")
        kept = take_labels(questions, answers, SelectionSettings("confident", share)).rows
        return make(rows=(*self.splits.weak_train, *kept))

    def fitted(self, members: Members) -> Iterator[tuple[str, Members]]:
        """The finished sum divided by a temperature, and with alphas of their own, fitted on every other validation row."""
        rows, alphas = self.splits.validation[::2], torch.tensor(members.rule_state["alphas"], dtype=torch.double)
        label, logs = self._log_probs(members.experts, rows)

        def nats(values: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(torch.einsum("e,etv->tv", values, logs), label)

        best = min(_TEMPERATURES, key=lambda temperature: float(nats(alphas / temperature)))
        yield "temperature fitted", summed(members.experts, (alphas / best).tolist())
        free = alphas.log().requires_grad_()
        search = torch.optim.LBFGS([free], max_iter=60)

        def step() -> Tensor:
            search.zero_grad()
            loss = nats(free.exp()) + _RIDGE * ((free - alphas.log()) ** 2).sum()
            loss.backward()
            return loss

        search.step(step)
        yield "alphas fitted", summed(members.experts, free.detach().exp().tolist())

    def _log_probs(self, experts: Sequence[Expert], rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Labels, int64 ``[token]``, and every expert's log-probabilities, float64 ``[expert, token, vocabulary]``."""
        size = self.bench.vocabulary_size("weak")
        found = []
        for expert in experts:
            soft = self.bench.soft_labels(Members.single(expert), rows, size, student="weak", with_labels=True)
            logs = torch.full((len(soft.ids), size), -30.0, dtype=torch.double)
            found.append(logs.scatter_(1, soft.ids.long(), soft.probs.double().clamp(min=1e-13).log()))
        return self.bench.token_table(experts[0], rows).label.long(), torch.stack(found)


def budgets(config: Config) -> Iterator[tuple[str, Trial, Members, Sequence[Row]]]:
    """The lines of the main table, each with the rows that judge it."""
    four, eight = Trial(config, 4), Trial(config, 8)
    for trial, count in ((four, 4), (eight, 8)):
        yield f"{count} models: best single expert, tuned", trial, trial.single(), trial.splits.validation
        for experts, epochs in ((count, 10), (8, 5)):
            members = trial.uniform(experts, epochs)
            yield f"{count} models: {experts} uniform, {epochs} epochs", trial, members, trial.splits.validation
    for count, rounds, length, nu in BUDGETS:
        trial = four if count == 4 else eight
        name = f"{count} models: {rounds} of {length:g} epochs, ν {nu:g}"
        yield name, trial, trial.additive(rounds, length, nu), trial.splits.validation


def one_model(config: Config) -> Iterator[tuple[str, Trial, Members, Sequence[Row]]]:
    """Budgets where there is one pretrained model, as with a model of one's own."""
    trial = Trial(config, 1)
    rows = trial.splits.validation
    yield "best single expert, tuned", trial, trial.single(), rows
    for experts, length in ((4, 10), (8, 5)):
        yield f"{experts} uniform, {length} epochs", trial, trial.uniform(experts, length), rows
    for experts, length, nu in ONE_MODEL:
        yield f"{experts} of {length:g} epochs, ν {nu:g}", trial, trial.additive(experts, length, nu), rows


def others(config: Config) -> Iterator[tuple[str, Trial, Members, Sequence[Row]]]:
    """Ideas that came to nothing; fitted ones are judged on the half of the validation rows they were not fitted on."""
    trial = Trial(config, 8)
    everything, half = trial.splits.validation, trial.splits.validation[1::2]

    def boosted(rows: Sequence[Row] = ()) -> Members:
        return trial.additive(8, 5, 0.5, rows)

    def uniform(rows: Sequence[Row] = ()) -> Members:
        return trial.uniform(8, 5, rows)

    yield "as it is", trial, boosted(), everything
    yield "self-trained, surest quarter", trial, trial.self_trained(boosted, 0.25), everything
    yield "self-trained, surest half", trial, trial.self_trained(boosted, 0.5), everything
    yield "uniform", trial, uniform(), everything
    yield "uniform, self-trained, surest half", trial, trial.self_trained(uniform, 0.5), everything
    yield "as it is, other half of the rows", trial, boosted(), half
    for name, members in trial.fitted(boosted()):
        yield f"{name}, other half", trial, members, half


def wrong_labels(config: Config) -> Iterator[tuple[str, Trial, Members, Sequence[Row]]]:
    """Losses that do not insist on every label (``robustness`` q), for rivals alike; judged by the right answers."""
    trial = Trial(config, 8)
    for q in (0.0, 0.7, 1.0):
        yield f"8 uniform{_robust(q)}", trial, trial.uniform(8, 5, robustness=q), trial.judges
    for nu, q in ((0.5, 0.0), (0.5, 0.3), (0.5, 0.7), (0.5, 1.0), (1.0, 1.0)):
        yield f"8 added, ν {nu:g}{_robust(q)}", trial, trial.additive(8, 5, nu, robustness=q), trial.judges
    yield "8 added, robustness 1, not the first", trial, trial.plain_first(8, 5, 0.5, 1.0), trial.judges
    alone = Trial(config, 1)
    for q in (0.0, 1.0):
        yield f"1 model: 4 uniform{_robust(q)}", alone, alone.uniform(4, 10, robustness=q), alone.judges
        yield f"1 model: 4 added, ν 0.1{_robust(q)}", alone, alone.additive(4, 10, 0.1, robustness=q), alone.judges
    name = "1 model: 4 added, robust, not the first"
    yield name, alone, alone.plain_first(4, 10, 0.1, 1.0), alone.judges


def _robust(q: float) -> str:
    return f", robustness {q:g}" if q else ""


def judged(trial: Trial, members: Members, rows: Sequence[Row], pool: bool) -> tuple[float, ...]:
    """Share right, the same on the hardest labelled level, nats; with ``pool`` the share right there, else nan."""
    hardest = [row for row in rows if row.difficulty == max(trial.config.data.easy_levels)]
    right, nats = score(trial.bench, members, rows)
    hard = float("nan")
    if pool:
        questions = trial.splits.pool[:1000]
        hard = trial.bench.matches(
            trial.bench.answer(members, hide_answers(questions), purpose="validation"), questions
        )
    return right, score(trial.bench, members, hardest)[0], nats, hard


TABLES = {"budgets": budgets, "one-model": one_model, "others": others, "wrong-labels": wrong_labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    parser.add_argument("--only", choices=sorted(TABLES), default="budgets")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value over the preset quickstart")
    parser.add_argument("--pool", action="store_true", help="tell the pool's answers too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[tuple[float, ...]]] = {}
    for seed in options.seeds:
        config = dataclasses.replace(load_config("quickstart", options.set), seed=seed)
        for name, trial, members, rows in TABLES[options.only](config):
            table.setdefault(name, []).append(judged(trial, members, rows, options.pool))
    pool = f"{'pool, %':>10}" if options.pool else ""
    print(f"{'':<42}{'validation, %':>14}{'each seed':>20}{'hardest, %':>12}{'nats':>8}{pool}")
    for name, cells in table.items():
        right, hardest, nats, hard = torch.tensor(cells).mean(dim=0).tolist()
        seeds = " ".join(f"{100 * cell[0]:.1f}" for cell in cells)
        told = f"{100 * hard:>10.1f}" if options.pool else ""
        print(f"{name:<42}{100 * right:>14.1f}{seeds:>20}{100 * hardest:>12.1f}{nats:>8.3f}{told}")


if __name__ == "__main__":
    main()
