"""Round by round against scikit-learn's discrete SAMME on decision stumps.

scikit-learn's convention: ``estimator_weight = learning_rate * (log((1 - err) / err) + log(K - 1))`` is both what it
stores and what it updates the weights with. Ours keeps the learning rate (shrinkage) out of alpha and in the update.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ensemw2s.boosting.rounds import BoostSettings, boosting_step, prior_for_round
from ensemw2s.boosting.weights import uniform_weights

pytest.importorskip("sklearn")
from sklearn.datasets import make_classification
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

ROUNDS = 6


class RecordingStump(DecisionTreeClassifier):
    """A stump that notes the weights it is fitted with."""

    seen: ClassVar[list[np.ndarray]] = []

    def fit(self, X: Any, y: Any, sample_weight: Any = None, check_input: bool = True) -> Any:
        self.seen.append(np.array(sample_weight))
        return super().fit(X, y, sample_weight, check_input)


@pytest.mark.parametrize("shrinkage", [1.0, 0.3])
@pytest.mark.parametrize("classes", [2, 4])
def test_weights_errors_and_alphas(classes: int, shrinkage: float) -> None:
    x, y = make_classification(
        n_samples=400, n_features=8, n_informative=6, n_classes=classes, n_clusters_per_class=1, random_state=3
    )
    RecordingStump.seen.clear()
    theirs = AdaBoostClassifier(
        RecordingStump(max_depth=1), n_estimators=ROUNDS, learning_rate=shrinkage, random_state=0
    )
    theirs.fit(x, y)
    assert len(theirs.estimators_) == ROUNDS

    settings = BoostSettings(rounds=ROUNDS, prior="vocabulary", shrinkage=shrinkage)
    weights = uniform_weights(len(y))
    for index, stump in enumerate(theirs.estimators_):
        np.testing.assert_allclose(weights.numpy(), RecordingStump.seen[index], rtol=1e-9)
        # A stump of our own, fitted with our weights, takes the same decisions.
        own = DecisionTreeClassifier(max_depth=1, random_state=stump.random_state).fit(x, y, weights.numpy())
        assert np.array_equal(own.predict(x), stump.predict(x))
        wrong = torch.from_numpy(own.predict(x) != y)
        prior = prior_for_round(settings, weights, wrong, classes)
        record, weights = boosting_step(weights, wrong, prior, settings, round_number=index + 1)
        assert record.outcome == "ok"
        assert record.error == pytest.approx(theirs.estimator_errors_[index], rel=1e-9)
        assert shrinkage * record.alpha == pytest.approx(theirs.estimator_weights_[index], rel=1e-9)


@pytest.mark.parametrize("shrinkage", [1.0, 0.3])
@pytest.mark.parametrize("classes", [2, 4])
def test_staged_predictions_by_the_vote_rule(classes: int, shrinkage: float) -> None:
    """After every round the vote of our experts with our alphas predicts what theirs does."""
    from ensemw2s.ensemble.combine import open_rule

    x, y = make_classification(
        n_samples=400, n_features=8, n_informative=6, n_classes=classes, n_clusters_per_class=1, random_state=5
    )
    theirs = AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=ROUNDS, learning_rate=shrinkage,
                                random_state=0).fit(x, y)  # fmt: skip
    settings = BoostSettings(rounds=ROUNDS, prior="vocabulary", shrinkage=shrinkage)
    weights, alphas, votes = uniform_weights(len(y)), [], []
    for number, (stump, predicted) in enumerate(
        zip(theirs.estimators_, theirs.staged_predict(x), strict=True), start=1
    ):
        own = DecisionTreeClassifier(max_depth=1, random_state=stump.random_state).fit(x, y, weights.numpy())
        wrong = torch.from_numpy(own.predict(x) != y)
        prior = prior_for_round(settings, weights, wrong, classes)
        record, weights = boosting_step(weights, wrong, prior, settings, round_number=number)
        alphas.append(record.alpha)
        # A vote puts all it has on its class; the rule needs a distribution, so the rest gets next to nothing.
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(own.predict(x)), classes).double()
        votes.append((one_hot * (1 - 1e-9) + 1e-9 / classes).log())
        mixed = open_rule("vote")(torch.stack(votes), torch.tensor(alphas))
        np.testing.assert_array_equal(mixed.argmax(dim=-1).numpy(), predicted)


def test_binary_halves_are_the_same_boosting() -> None:
    """The paper's binary form, alpha = half the log odds and D * exp(-/+ alpha), moves the weights as SAMME with K = 2."""
    draw = torch.Generator().manual_seed(1)
    weights = ours = uniform_weights(50)
    settings = BoostSettings(prior="none", shrinkage=1.0)
    for number in range(1, 5):
        wrong = torch.rand(50, generator=draw) < 0.3
        error = float((ours * wrong).sum())
        half = 0.5 * np.log((1 - error) / error)
        weights = weights * torch.exp(torch.where(wrong, half, -half))
        weights = weights / weights.sum()
        record, ours = boosting_step(ours, wrong, 0.0, settings, round_number=number)
        torch.testing.assert_close(ours, weights)
        assert record.alpha == pytest.approx(2 * half)
