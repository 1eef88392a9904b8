"""A made-up but coherent ``results.json``: scores of simulated rows, through the package's own intervals."""

import numpy as np

from ensemw2s.evaluation.intervals import is_at_chance, paired_difference, score_interval
from ensemw2s.evaluation.pgr import pgr
from ensemw2s.evaluation.rowscores import RowScores

# Probability of a right answer on the easiest and the hardest questions.
SKILL = {
    "weak": (0.97, 0.12),
    "ensemble": (0.99, 0.17),
    "uniform": (0.985, 0.15),
    "student": (0.99, 0.42),
    "student_from_weak": (0.97, 0.33),
    "strong_on_easy": (0.995, 0.30),
    "ceiling": (0.995, 0.80),
}
TESTS = {"test_id": (2, 3, 4), "test_ood": (5, 6, 7)}
PAIRS = (("student", "ensemble"), ("ensemble", "weak"), ("student", "student_from_weak"), ("ensemble", "uniform"))


def sample_results(rows: int = 1200, seed: int = 0, skill=SKILL) -> dict:
    """Rows a split, a seed for the simulated rows, and each system's skill."""
    generator = np.random.default_rng(seed)
    right, bands_of = simulate(rows, generator, skill)
    interval = {key: score_interval(scores) for key, scores in right.items()}
    chance = {"test_id": 0.05, "test_ood": 0.025}
    scores = [
        {"system": name, "split": split, "metric": "exact_match", **got._asdict(), "chance": chance[split]}
        | {"at_chance": is_at_chance(got, chance[split])}
        for (name, split), got in interval.items()
    ]
    scores += [
        {**entry, "metric": "token_accuracy", "chance": None, "at_chance": False}
        | {key: entry[key] ** 0.4 for key in ("value", "low", "high")}
        for entry in scores
    ]
    return {
        "schema": 1,
        "preset": "quickstart",
        "seed": seed,
        "main_metric": "exact_match",
        "config": {
            "data": {"source": "lists", "weak_train_rows": 1500, "split": {"kind": "easy-to-hard", "easy_share": 0.5}},
            "weak": {"model": "abacus-nano", "train": {"epochs": 4, "learning_rate": 0.001}},
            "boosting": {"rounds": 4, "prior": "pretrained", "shrinkage": 0.3, "mode": "resample"},
            "student": {"model": "abacus-mini", "train": {"epochs": 1, "learning_rate": 0.0003}},
        },
        "versions": {"ensemw2s": "0.1.0", "python": "3.12.4", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"device": "cpu", "cores": 2, "memory_mb": 8192},
        "scores": scores,
        "rounds": sample_rounds(),
        "pgr": [
            {"system": name, "split": split, "metric": "exact_match"}
            | pgr(right["weak", split], right[name, split], right["ceiling", split])._asdict()
            for name in skill
            if name not in ("weak", "ceiling")
            for split in TESTS
        ],
        "differences": [
            {"system": a, "against": b, "split": split, "metric": "exact_match"}
            | {k: v for k, v in paired_difference(right[a, split], right[b, split])._asdict().items() if k != "n"}
            for a, b in PAIRS
            if {a, b} <= set(skill)
            for split in TESTS
        ],
        "staged": sample_staged(interval, generator),
        "bands": [
            {"system": name, "split": split, "band": band, "metric": "exact_match"}
            | score_interval(scores.select(ids))._asdict()
            for (name, split), scores in right.items()
            for band, ids in bands_of[split].items()
        ],
        "pseudo_labels": sample_labels(interval),
        "splits": {
            "weak_train": {"rows": 1500, "difficulty_low": 2, "difficulty_high": 4},
            "validation": {"rows": 400, "difficulty_low": 2, "difficulty_high": 4},
            "pool": {"rows": 2400, "difficulty_low": 5, "difficulty_high": 7},
            "test_id": {"rows": rows, "difficulty_low": 2, "difficulty_high": 4},
            "test_ood": {"rows": rows, "difficulty_low": 5, "difficulty_high": 7},
        },
        "split_report": {"kind": "easy-to-hard", "rows without a difficulty": 0, "pool rows also in a test": 3},
        "selection": [
            {"what": "boosting.shrinkage", "chosen": 0.3}
            | {"candidates": [{"value": v, "score": score} for v, score in ((0.1, 0.731), (0.3, 0.752), (1.0, 0.61))]},
            {"what": "weak.train.epochs", "chosen": 4}
            | {"candidates": [{"value": v, "score": score} for v, score in ((2, 0.68), (4, 0.744), (8, 0.74))]},
        ],
        "examples": sample_examples(),
        "warnings": ["3 rows of the pool have the text of a test row and were removed from the pool"],
        "timings": {"splits": 0.4, "weak": 9.2, "boosting": 38.5, "uniform": 29.1, "pseudo_labels": 12.0}
        | {"student": 21.3, "student_from_weak": 20.8, "strong_on_easy": 14.9, "ceiling": 21.1, "evaluate": 9.6},
        "peak_memory_mb": 1340.2,
        "seconds": 177.0,
        **sample_extras(skill, rows),
    }


def sample_extras(skill, rows: int) -> dict:
    """What says how sure, how alike and how dear the systems are."""
    return {
        "systems": {name: {"meaning": f"what {name} is", "side": "weak side", "teacher": None} for name in skill},
        "equivalence": [
            {"system": "student", "against": "ceiling", "split": split, "metric": "exact_match", "value": -0.05,
             "low": -0.07, "high": -0.03, "margin": 0.02, "p": 0.9, "equivalent": False}
            for split in TESTS
        ],
        "power": [{"split": split, "metric": "exact_match", "n": rows, "pair": ["student", "ensemble"],
                   "discordant": 0.2, "detectable": 0.036} for split in TESTS],
        "cost": [{"system": name, "experts": 4 if name in ("ensemble", "uniform") else 1, "train_tokens": 120000,
                  "train_seconds": 12.5, "decode_seconds": 3.1} for name in skill],
        "calibration": [
            {"system": name, "split": split, "bins": [[0.2, 0.1, rows // 2], [0.8, 0.7, rows - rows // 2]]}
            for name in skill for split in TESTS
        ],
        "diagnostics": {
            "agreement": [[1.0, 0.9], [0.9, 1.0]], "error_correlation": [[1.0, 0.4], [0.4, 1.0]],
            "effective_share": [1.0, 0.6],
            "suspicious": [{"id": "t7", "question": "reverse 1 2", "answer": "1 2", "growth": 4.5, "token": "1",
                            "position": 0, "instead": ["2", "2"]}],
        },
        "shift": {
            "train_pool": {"overlap": 0.0, "easy": [2, 3, 4], "hard": [5, 6, 7]},
            "tests": {"overlap": 0.12, "easy": [2, 3, 4], "hard": [5, 6, 7]},
            "weak_drop": {"metric": "exact_match", "value": 0.31, "low": 0.28, "high": 0.34},
        },
    }  # fmt: skip


def simulate(rows: int, generator, skill) -> tuple[dict, dict]:
    """Right or wrong for every row, system and split; a row's luck is shared by all systems, so they are paired."""
    right, bands_of = {}, {}
    for split, levels in TESTS.items():
        ids = tuple(f"{split}-{number}" for number in range(rows))
        difficulty = generator.choice(levels, rows)
        luck = generator.random(rows)
        bands_of[split] = {
            str(d): [id for id, has in zip(ids, difficulty, strict=True) if has == d] for d in sorted(levels)
        }
        for name, (easy, hard) in skill.items():
            chance = easy + (hard - easy) * (difficulty - 2) / 5
            own = 0.7 * luck + 0.3 * generator.random(rows)
            # The mixture of two uniforms is no uniform: rank it, so that the wanted share is right.
            ranked = np.argsort(np.argsort(own)) / rows
            right[name, split] = RowScores("exact_match", ids, (ranked < chance).astype(float), np.ones(rows))
    return right, bands_of


def sample_rounds() -> list[dict]:
    figures = [(0.142, 2.05, 0.142), (0.203, 1.62, 0.151), (0.236, 1.43, 0.149), (0.251, 1.34, 0.158)]
    return [
        {"round": number, "error": error, "alpha": alpha, "train_token_error": plain, "prior_error": 0.562}
        | {"outcome": "ok", "effective_sample_size": 7400 * 0.86**number, "seconds": 8.9 + 0.1 * number}
        for number, (error, alpha, plain) in enumerate(figures, start=1)
    ]


def sample_staged(interval: dict, generator) -> list[dict]:
    staged = []
    for split, like in (("validation", "test_id"), ("test_id", "test_id"), ("test_ood", "test_ood")):
        first, last = interval["weak", like].value, interval["ensemble", like].value
        for experts in range(1, 5):
            value = first + (last - first) * (1 - 0.4**experts) + 0.004 * generator.normal()
            staged.append({"split": split, "metric": "exact_match", "experts": experts, "value": value})
            staged[-1] |= {"low": value - 0.025, "high": value + 0.025, "n": 1200}
    return staged


def sample_labels(interval: dict) -> list[dict]:
    return [
        {
            "teacher": name,
            "metric": "exact_match",
            "mean_confidence": 0.58,
            "mean_agreement": 0.81,
            "taught": 600,
            "taught_right": 0.93,
        }
        | interval[name, "test_ood"]._asdict()
        for name in ("ensemble", "weak", "uniform")
        if (name, "test_ood") in interval
    ]


def sample_examples() -> list[dict]:
    def token(text, gold, weights, votes, mixture):
        experts = [
            {"expert": number, "text": said, "probability": p, "alpha": (2.05, 1.62, 1.43, 1.34)[number - 1]}
            for number, (said, p) in enumerate(votes, start=1)
        ]
        scaled = [round(w * 1.2e-4, 8) for w in weights]
        right = mixture == gold
        return {"text": text, "gold": gold, "weights": scaled, "votes": experts, "mixture": mixture, "right": right}

    first = [
        token("2", "2", (1, 0.9, 0.8, 0.8), (("2", 0.98), ("2", 0.95), ("2", 0.97), ("2", 0.93)), "2"),
        token(" ", " ", (1, 0.9, 0.8, 0.8), ((" ", 0.99),) * 4, " "),
        token("5", "5", (1, 1.7, 2.2, 2.9), (("7", 0.51), ("5", 0.48), ("7", 0.44), ("5", 0.52)), "5"),
        token(" ", " ", (1, 0.9, 0.8, 0.8), ((" ", 0.99),) * 4, " "),
        token("7", "7", (1, 1.7, 2.2, 1.9), (("7", 0.88), ("9", 0.61), ("7", 0.54), ("7", 0.72)), "7"),
        token(" ", " ", (1, 0.9, 0.8, 0.8), ((" ", 0.97),) * 4, " "),
        token("9", "9", (1, 1.7, 2.9, 4.4), (("<end>", 0.55), ("9", 0.40), ("<end>", 0.63), ("<end>", 0.48)), "<end>"),
        token("<end>", "<end>", (1, 0.9, 0.8, 0.7), (("<end>", 0.99),) * 4, "<end>"),
    ]
    other = {"weak": "9 8", "ensemble": "9 8 3", "uniform": "9 8", "student": "9 8 3", "ceiling": "9 8 3"}
    return [
        {"id": "lists-00413", "split": "weak_train", "question": "sort the list 9 5 7 2", "answer": "2 5 7 9"}
        | {"systems": {"weak": "2 7 9", "ensemble": "2 5 7", "student": "2 5 7 9"}, "tokens": first},
        {"id": "lists-07120", "split": "test_ood", "question": "reverse <b>3 8 9</b> & say it", "answer": "9 8 3"}
        | {"systems": other, "tokens": []},
    ]
