"""Long answers of the world: right steps, their faults by name, and a family that nothing draws unless named."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

from ensemw2s.errors import ConfigError
from ensemw2s.models.loading import context_length, load_model, load_tokenizer
from ensemw2s.world import lengthen
from ensemw2s.world.buckets import bucket_of, draw_instance, draw_rows
from ensemw2s.world.chains import FAULTS, RING, TOKENS_A_STEP, fault, read_question, split_steps
from ensemw2s.world.corpus import documents
from ensemw2s.world.family import EXTRA_FAMILIES, FAMILIES, find_family, instance_key

CHAIN = find_family("chain")
OPERANDS = (3, 7, 3, 4, 9)  # the fourth of the ring, the start, three numbers
QUESTION = "Bapel 3, Barus 4, Basim 9. Start with Bapel, 7."
ANSWER = "Bapel 3, 7+3=0; Barus 4, 0+4=4; Basim 9. 4+9=3"


def rows(bucket: str, seed: int = 0, count: int = 30) -> list:
    return draw_rows(count, families=["chain"], levels=range(1, 7), bucket=bucket, seed=seed, purpose="x")  # type: ignore[arg-type]


def test_question_and_answer_by_hand() -> None:
    assert RING[:5] == ("Balan", "Bamir", "Banok", "Bapel", "Barus")
    assert CHAIN.question(OPERANDS) == QUESTION
    assert CHAIN.answer(OPERANDS) == ANSWER
    assert CHAIN.question((95, 0, 1, 2)) == f"{RING[95]} 1, Balan 2. Start with {RING[95]}, 0.", "the ring closes"


def test_the_family_is_drawn_only_where_it_is_named() -> None:
    assert "chain" not in FAMILIES
    assert "chain" in EXTRA_FAMILIES
    assert find_family("order") is FAMILIES.get("order")
    assert not any(" That makes " in text or "; " in text for text in documents(3000, seed=1, asked=0.5))
    with pytest.raises(ConfigError, match="unknown name 'chains'"):
        find_family("chains")


def test_answers_are_as_long_as_they_say() -> None:
    tokenizer = load_tokenizer("w2s-weak")
    lengths = {}
    for row in rows("question"):
        steps = len(read_question(row.question).items)
        assert len(tokenizer(f" {row.answer}")["input_ids"]) == TOKENS_A_STEP * steps - 1
        asked = len(tokenizer(f"{row.question}\nAnswer: {row.answer}")["input_ids"])
        assert asked < lengthen.CONTEXT
        lengths[row.difficulty] = TOKENS_A_STEP * steps - 1
    assert lengths == {1: 215, 2: 287, 3: 359, 4: 503, 5: 611, 6: 719}


def test_every_step_of_a_right_answer_follows() -> None:
    for row in rows("test"):
        question, steps = read_question(row.question), split_steps(row.answer)
        assert len(steps) == len(question.items)
        assert [fault(question, before, step) for before, step in zip([None, *steps], steps, strict=False)] == (
            [None] * len(steps)
        )


@pytest.mark.parametrize(
    ("before", "step", "why"),
    [
        (None, "Bapel 3, 7+3=0", None),
        (None, "Barus 4, 7+4=1", "order"),
        (None, "Bapel 3, 8+3=1", "carry"),
        ("Bapel 3, 7+3=5", "Barus 4, 5+4=9", None),  # wrong before, and carried over rightly
        ("Bapel 3, 7+3=5", "Barus 4, 0+4=4", "carry"),  # right by the question, not by what stands before
        ("Bapel 3, 7+3=0", "Barus 5, 0+5=5", "item"),
        ("Bapel 3, 7+3=0", "Barus 4. 0+4=4", "item"),  # says that it is the last, and is not
        ("Bapel 3, 7+3=0", "Basim 9. 0+9=9", "order"),
        ("Bapel 3, 7+3=0", "Bapel 3, 0+3=3", "order"),
        ("Bapel 3, 7+3=0", "Barus 4, 0+4=5", "sum"),
        ("Bapel 3, 7+3=0", "Barus 4, 0+5=5", "sum"),
        ("Bapel 3, 7+3=0", "Barus 4, 0+5=4", "sum"),  # another number than the item says
        ("Bapel 3, 7+3=0", "Barus 4, 0+4", "form"),
        ("Bapel 3, 7+3", "Barus 4, 0+4=4", "form"),  # nothing to go on from
        ("Tom 3, 7+3=0", "Barus 4, 0+4=4", "form"),
        ("Basim 9. 4+9=3", "Sozan 1, 3+1=4", "order"),  # the question has ended
    ],
)
def test_faults_by_hand(before: str | None, step: str, why: str | None) -> None:
    assert fault(read_question(QUESTION), before, step) == why
    assert why is None or why in FAULTS


@pytest.mark.parametrize(
    "text",
    ["", "What is 3 and 4?", "Bapel 3. Start with Bapel, x.", "nothing Start with Bapel, 7.", "Start with Bapel, 7."],
)
def test_another_question_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no question of the family 'chain'"):
        read_question(text)


def test_no_answer_has_no_steps() -> None:
    assert split_steps("") == split_steps("  ") == []
    assert split_steps(ANSWER)[1] == "Barus 4, 0+4=4"


def parsed(text: str) -> tuple[int, ...]:
    """Operands of a chain's document, from its text alone."""
    items, _, rest = text.partition(". ")
    found = [(name, int(number)) for name, number in re.findall(r"(\w+) (\d)", items)]
    start = re.search(r"\d", rest)
    assert start
    return (RING.index(found[0][0]), int(start[0]), *(number for _, number in found))


def test_no_test_instance_in_the_text_of_lengthening() -> None:
    generator = random.Random(4)
    wordings = set()
    for steps in (3, 24) * 60:
        before, after = lengthen.chain_document(generator, steps)
        wordings.add(re.sub("|".join((r"\d", *RING)), "", before.partition(". ")[2]))
        operands = parsed(before)
        assert after == f" {CHAIN.answer(operands)}"
        assert bucket_of(instance_key(CHAIN, operands)) == "text"
    assert len(wordings) == 6, "as many ways of saying it"
    before, after = lengthen.list_document(generator, 3)
    assert before == f"{after[1:]} From {after.split()[0]}:"
    planted = draw_instance(CHAIN, 3, "test", generator)
    assert bucket_of(instance_key(CHAIN, parsed(CHAIN.statements[0](planted)))) == "test", "the parser sees a leak"


def test_sums_of_lengthening_are_those_of_a_step() -> None:
    generator = random.Random(4)
    documents = {lengthen.sum_document(generator, 24) for _ in range(2000)}
    assert documents == {(f"{a}+{b}=", str((a + b) % 10)) for a in range(10) for b in range(10)}


def test_the_wordings_of_lengthening_are_not_the_task_s() -> None:
    generator = random.Random(0)
    for document in (lengthen.chain_document, lengthen.list_document):
        assert not any("Start with" in "".join(document(generator, 3)) for _ in range(50))


def test_batches_learn_answers_only_and_grow() -> None:
    recipe = lengthen.Lengthening(part_tokens=3000, chain_tokens=20_000, batch_tokens=256)
    tokenizer = load_tokenizer("w2s-weak")
    widths, last = [], -1.0
    for done, inputs, labels in lengthen.batches(recipe, tokenizer):
        assert inputs.shape == labels.shape
        learned = labels != -100
        assert (inputs[learned] == labels[learned]).all()
        assert not learned[:, 0].any()
        assert (labels == tokenizer.eos_token_id).sum() == len(inputs)
        assert last < done < 1
        last = done
        widths.append(inputs.shape[1])
    assert max(widths[: len(widths) // 4]) < max(widths[-len(widths) // 4 :])
    assert 900 < max(widths) <= lengthen.CONTEXT


def test_a_lengthened_model_is_an_ordinary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["lengthen", "w2s-weak", "--out", str(tmp_path), "--part-tokens", "900", "--chain-tokens", "900"]
    monkeypatch.setattr("sys.argv", words)
    lengthen.main()
    model, tokenizer = load_model(tmp_path), load_tokenizer(tmp_path)
    assert context_length(model) == lengthen.CONTEXT == tokenizer.model_max_length
    before = load_model("w2s-weak")
    assert context_length(before) == 256
    changed = [not a.equal(b) for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert all(changed)
    assert tokenizer.get_vocab() == load_tokenizer("w2s-weak").get_vocab()
    with torch.no_grad():  # rotary positions: what is new is only what is allowed
        assert model(torch.arange(300)[None]).logits.isfinite().all()


def test_the_same_seed_gives_the_same_rows() -> None:
    assert [row.id for row in rows("test")] == [row.id for row in rows("test")]
    assert not {row.id for row in rows("test", count=200)} & {row.id for row in rows("question", count=200)}
