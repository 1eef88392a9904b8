"""The built-in world: right answers, graded sizes, and no test instance in anything a model sees."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
import torch

from ensemw2s.errors import ConfigError
from ensemw2s.models.loading import MODELS, load_tokenizer
from ensemw2s.world.buckets import bucket_of, draw_instance, draw_rows
from ensemw2s.world.corpus import documents
from ensemw2s.world.family import FAMILIES, instance_key
from ensemw2s.world.pretrain import RECIPES, build_model
from ensemw2s.world.vocabulary import build_tokenizer
from ensemw2s.world.words import age

NAMES = list(FAMILIES)


def digits(text: str) -> list[int]:
    return [int(item) for item in re.findall(r"\d+", text)]


@pytest.mark.parametrize(
    ("family", "operands", "answer"),
    [
        ("order", (7, 3, 9, 1), "1 3 7 9"),
        ("reverse", (7, 3, 9, 1), "1 9 3 7"),
        ("distinct", (3, 1, 3, 5, 1), "3 1 5"),
        ("count", (3, 3, 1, 3, 5, 3), "3"),
        ("add", (47, 85), "132"),
        ("largest", (352, 347, 350), "352"),
        ("story", (3, 4, -2), "5"),
        ("words", ("star", "ant", "cup"), "ant cup star"),
        ("dates", (86, 9), "April 6"),
        ("dates", (364, 1), "January 1"),
    ],
)
def test_answers_by_hand(family: str, operands: tuple, answer: str) -> None:
    assert FAMILIES.get(family).answer(operands) == answer


def test_the_oldest_is_the_oldest() -> None:
    family = FAMILIES.get("facts")
    trio = draw_instance(family, 3, "test", random.Random(0))
    assert age(family.answer(trio)) == max(age(person) for person in trio)


@pytest.mark.parametrize("name", NAMES)
def test_contract_of_a_family(name: str) -> None:
    family = FAMILIES.get(name)
    generator = random.Random(7)
    for size in family.sizes:
        operands = family.draw(generator, size)
        answer = family.answer(operands)
        assert answer
        assert answer == answer.strip()
        for statement in family.statements:
            assert statement(operands).endswith(f" {answer}")
        wordings = [family.question(operands), *(asked(operands) for asked in family.asked)]
        assert len(set(wordings)) == len(wordings), "the wording of the task must not be one of pretraining"
        if family.choices:
            assert answer in family.choices(operands)
    assert all(easier < harder for easier, harder in pairwise(family.sizes))


def test_same_question_in_another_guise_has_one_key() -> None:
    add = FAMILIES.get("add")
    assert instance_key(add, (47, 85)) == instance_key(add, (85, 47))
    assert instance_key(add, (47, 85)) != instance_key(add, (47, 86))
    reverse = FAMILIES.get("reverse")
    assert instance_key(reverse, (1, 2)) != instance_key(reverse, (2, 1))


def leaked(documents_seen: list[str]) -> list[str]:
    """Documents that state or ask a test instance, found from their text alone (not from the generator)."""
    found = []
    for text in documents_seen:
        name, operands = parsed(text)
        if name and bucket_of(instance_key(FAMILIES.get(name), operands)) == "test":
            found.append(text)
    return found


def parsed(text: str) -> tuple[str | None, tuple]:
    """Family and operands of a document about digit lists or sums, read back from its wording."""
    if match := re.search(r"(?:[Aa]dded up, |sum of |What (?:do )?)(\d+) and (\d+)", text):
        return "add", (int(match[1]), int(match[2]))
    body = re.split(r" (?:is|get|gives) (?=[\d ]+$)|\nAnswer:", text)[0]
    items = tuple(digits(body))
    if "order" in body or "small to large" in body:
        return "order", items
    if "backwards" in body or "from the end" in body:
        return "reverse", items
    if "repeats" in body:
        return "distinct", items
    return None, ()


@pytest.mark.parametrize("asked", [0.0, 0.5])
def test_no_test_instance_in_the_pretraining_text(asked: float) -> None:
    texts = list(documents(6000, seed=1, asked=asked))
    assert sum(parsed(text)[0] is not None for text in texts) > 1500, "the parser must recognise the text"
    assert leaked(texts) == []


def test_a_planted_test_instance_is_found() -> None:
    family = FAMILIES.get("order")
    operands = draw_instance(family, 5, "test", random.Random(3))
    for wording in family.statements:
        assert leaked([wording(operands)]) == [wording(operands)]


def test_no_test_instance_among_training_or_pool_rows() -> None:
    def keys(bucket: str, seed: int, purpose: str) -> set[str]:
        rows = draw_rows(300, families=NAMES, levels=range(1, 7), bucket=bucket, seed=seed, purpose=purpose)  # type: ignore[arg-type]
        return {row.id for row in rows}

    trained = keys("question", 0, "easy") | keys("question", 1, "pool")
    tested = keys("test", 0, "test_id") | keys("test", 5, "test_ood")
    assert not trained & tested


def test_rows_are_stable_and_differ_by_seed() -> None:
    def ids(seed: int) -> list[str]:
        return [row.id for row in draw_rows(50, families=NAMES, levels=[1, 2], bucket="test", seed=seed, purpose="x")]

    assert ids(0) == ids(0)
    assert set(ids(0)) != set(ids(1))


def test_a_band_with_too_few_instances_is_refused() -> None:
    with pytest.raises(ConfigError, match="too few test instances at level 1"):
        draw_rows(5000, families=["add"], levels=[1], bucket="test", seed=0, purpose="x")


def test_shipped_tokenizers_are_the_built_one() -> None:
    built = build_tokenizer()
    for _, folder in MODELS.items():
        assert load_tokenizer(folder).get_vocab() == built.get_vocab()


def test_tokenizer_restores_any_text() -> None:
    tokenizer = build_tokenizer()
    for text in ("Question: What is 3 1 put from small to large?\nAnswer: 1 3", "Héllo — 漢字\t\r\n😀", "", "  a  "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" 1 3 7")["input_ids"]) == 3
    assert len(tokenizer(" 137")["input_ids"]) == 3


def test_models_are_small_enough_to_ship() -> None:
    sizes = {name: sum(f.stat().st_size for f in folder.iterdir()) for name, folder in MODELS.items()}
    assert {"w2s-weak", "w2s-strong", "w2s-large"} <= set(sizes)
    assert sum(sizes.values()) <= 16_000_000


def test_recipes_build_the_models_they_describe() -> None:
    sizes = {}
    for name in ("w2s-weak", "w2s-weak-5", "w2s-weak-llama", "w2s-weak-wide"):
        model = build_model(RECIPES[name], 746, end=1, pad=0)
        sizes[name] = (model.config.model_type, model.config.hidden_size, model.config.num_hidden_layers)
        assert model.config.tie_word_embeddings
        assert model(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2, 746)
        most = 250_000 if name == "w2s-weak-wide" else 160_000
        assert 90_000 < model.num_parameters() < most
    assert sizes["w2s-weak"] == sizes["w2s-weak-5"] == ("gpt_neox", 48, 3)
    assert sizes["w2s-weak-llama"] == ("llama", 64, 2)
    assert sizes["w2s-weak-wide"] == ("gpt_neox", 72, 3)
    first, other = (build_model(RECIPES[name], 746, end=1, pad=0) for name in ("w2s-weak", "w2s-weak-5"))
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)
