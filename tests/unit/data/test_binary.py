"""Yes/no rows: balance, draws by hash, rows that are yes/no already, and the real data sets where they are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.data.binary import CLASSES, to_yes_no, two_choices
from ensemw2s.data.encoding import encode_classes, encode_prompts, encode_rows, first_answer_token, token_offsets
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.models.classes import ClassSpec
from ensemw2s.models.loading import load_tokenizer


def choosing(count: int, **more) -> list[Row]:  # type: ignore[no-untyped-def]
    return [Row(f"m{i}", f"which is {i}?", f"right {i}", choices=(f"wrong {i}", f"right {i}", f"bad {i}"), difficulty=i, **more)
            for i in range(count)]  # fmt: skip


@given(count=st.integers(2, 60), seed=st.integers(0, 999))
def test_classes_are_balanced_and_the_answer_is_true(count: int, seed: int) -> None:
    made, told = to_yes_no(choosing(count), seed=seed)
    assert told == {}
    assert [row.id for row in made] == [f"m{i}" for i in range(count)]
    right = [row.answer == "yes" for row in made]
    assert abs(2 * sum(right) - count) <= 1
    for number, (row, is_right) in enumerate(zip(made, right, strict=True)):
        candidate = row.raw["candidate"]
        assert (candidate == f"right {number}") == is_right
        assert candidate in row.question
        assert f"which is {number}?" in row.question
        assert row.choices == ("no", "yes")
        assert row.difficulty == number


def free(count: int) -> list[Row]:
    """Four families at two levels; the answers of a family and level are told by their letters."""
    return [Row(f"f{i}", f"question {i}?", f"{'abcd'[i % 4]}{i % 8 // 4} {i % 40}", difficulty=i % 8 // 4,
                raw={"family": "abcd"[i % 4]}) for i in range(count)]  # fmt: skip


@given(count=st.integers(32, 120), seed=st.integers(0, 99))
def test_free_answers_get_a_wrong_one_of_their_family_and_level(count: int, seed: int) -> None:
    rows = free(count)
    made = two_choices(rows, seed=seed)
    for row, one in zip(rows, made, strict=True):
        assert one.answer == row.answer
        assert one.choices is not None
        assert one.answer in one.choices
        (wrong,) = {*one.choices} - {one.answer}
        assert wrong[:2] == one.answer[:2]
    assert two_choices(rows[::-1], seed=seed) == made[::-1]
    assert {one.choices.index(one.answer) for one in made if one.choices} == {0, 1}
    assert made != two_choices(rows, seed=seed, purpose="test")


def test_a_wrong_answer_comes_from_a_wider_circle_where_it_must() -> None:
    rows = [Row("1", "?", "same", difficulty=1, raw={"family": "a"}), Row("2", "?", "same", difficulty=1, raw={"family": "a"}),
            Row("3", "?", "harder", difficulty=2, raw={"family": "a"}), Row("4", "?", "strange", raw={"family": "b"})]  # fmt: skip
    made = {row.id: {*row.choices} - {row.answer} for row in two_choices(rows, seed=0) if row.choices}
    assert made["1"] == made["2"] == {"harder"}  # of the family: none of its level is another
    assert made["3"] == {"same"}
    assert made["4"] <= {"same", "harder"}  # the family has no other
    with pytest.raises(DataError, match="all answers are 'same'"):
        two_choices(rows[:2], seed=0)


def test_draws_follow_the_seed_and_the_id_not_the_order() -> None:
    rows = choosing(40)
    one, _ = to_yes_no(rows, seed=1)
    other, _ = to_yes_no(rows[::-1], seed=1)
    assert one == other[::-1]
    assert one != to_yes_no(rows, seed=2)[0]
    assert one != to_yes_no(rows, seed=1, purpose="test")[0]
    assert {row.raw["candidate"].split()[0] for row in one} == {"right", "wrong", "bad"}


def test_unlabelled_pool_rows_get_any_candidate_and_no_answer() -> None:
    made, _ = to_yes_no([row.with_answer(None) for row in choosing(30)], seed=3)
    assert {row.answer for row in made} == {None}
    assert {row.raw["candidate"].split()[0] for row in made} == {"right", "wrong", "bad"}


def test_rows_that_ask_yes_or_no_are_balanced_by_leaving_out() -> None:
    rows = [Row(f"b{i}", "?", "yes" if i < 9 else "no", choices=("no", "yes")) for i in range(12)]
    made, told = to_yes_no(rows, seed=0)
    assert [row.answer for row in made].count("yes") == [row.answer for row in made].count("no") == 3
    assert told == {"yes/no rows left out to balance the classes": 6}
    assert {row.id for row in made} >= {"b9", "b10", "b11"}
    words = [
        Row("t", "?", "True"),
        Row("f", "?", "false"),
        Row("c", "?", "TRUE", choices=("True", "False")),
        Row("n", "?", " No "),
    ]
    assert [row.answer for row in to_yes_no(words, seed=0)[0]] == ["yes", "no", "yes", "no"]
    assert [row.question for row in to_yes_no(words, seed=0)[0]] == ["?"] * 4


@given(candidates=st.integers(0, 20), yes=st.integers(0, 12), no=st.integers(0, 12), seed=st.integers(0, 99))
def test_rows_of_both_kinds_together_are_balanced(candidates: int, yes: int, no: int, seed: int) -> None:
    plain = [Row(f"b{i}", "?", "yes" if i < yes else "no") for i in range(yes + no)]
    rows = choosing(candidates) + plain
    if candidates < 2 and min(yes, no) == 0:
        return  # nothing, or maybe one class only
    made, told = to_yes_no(rows, seed=seed)
    counts = [sum(row.answer == name for row in made) for name in CLASSES]
    assert abs(counts[0] - counts[1]) <= 1
    assert sum(told.values()) == abs(yes - no)
    assert [row.id for row in made] == [row.id for row in rows if row.id in {kept.id for kept in made}]


@given(answers=st.lists(st.booleans(), min_size=2, max_size=30))
def test_a_candidate_with_an_unknown_answer_stays_unknown_beside_known_ones(answers: list[bool]) -> None:
    rows = [row if known else row.with_answer(None) for row, known in zip(choosing(len(answers)), answers, strict=True)]
    made, _ = to_yes_no([*rows, *choosing_more(2)], seed=0)
    assert [row.answer is not None for row in made[: len(answers)]] == answers
    known = [row.answer for row in made if row.answer is not None]
    assert abs(2 * known.count("yes") - len(known)) <= 1
    assert all(row.raw["candidate"] in rows[i].choices for i, row in enumerate(made[: len(answers)]))  # type: ignore[operator]


def choosing_more(count: int) -> list[Row]:
    return [Row(f"x{i}", "?", "a", choices=("a", "b")) for i in range(count)]


def test_0_and_1_are_answers_to_other_questions() -> None:
    rows = [Row("a", "how many?", "0"), Row("b", "how many?", "1")]
    with pytest.raises(DataError, match="none of 2 rows has choices or a yes/no answer"):
        to_yes_no(rows, seed=0)


def test_a_row_alone_and_no_row_at_all() -> None:
    ((row,), _) = to_yes_no([Row("a", "?", "yes")], seed=0)
    assert row.answer == "yes"
    assert to_yes_no([], seed=0) == ([], {})


def test_an_unlabelled_pool_of_yes_no_questions_is_kept_whole() -> None:
    rows = [Row(f"b{i}", "?", "yes" if i < 9 else None, choices=("no", "yes")) for i in range(12)]
    assert len(to_yes_no(rows, seed=0)[0]) == 12


def test_rows_without_choices_are_left_out_and_counted() -> None:
    made, told = to_yes_no([*choosing(4), Row("open", "why?", "because")], seed=0)
    assert len(made) == 4
    assert told == {"rows without choices, left out of the binary task": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Row("a", "?", "because"), Row("b", "?", "so")], "none of 2 rows has choices or a yes/no answer"),
        ([Row("a", "?", "x", choices=("x",))], "row 'a' has a single choice"),
        ([Row("a", "?", None, choices=("x",)), *choosing(2)], "row 'a' has a single choice"),
        ([Row("a", "?", "x", choices=("x", "x")), *choosing(2)], "row 'a' has a single choice"),
        (
            [Row("a", "?", "maybe", choices=("no", "yes")), *choosing(2)],
            "row 'a' asks yes or no and has the answer 'maybe'",
        ),
        ([Row("a", "?", "yes"), Row("b", "?", "yes")], "has the answer 'yes': a binary task needs both classes"),
    ],
)
def test_bad_rows(rows: list[Row], message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_yes_no(rows, seed=0)


def test_the_prompt_reads_as_a_question() -> None:
    (row, _), _ = to_yes_no(choosing(2, context="A passage."), seed=0)
    prompt = TaskFormat().prompt(row)
    assert prompt.startswith("A passage.\nQuestion: which is 0?\nProposed answer: ")
    assert prompt.endswith("Is the proposed answer right, yes or no?\nAnswer:")


SHAPES = {
    "sciq": {"context": "Mesophiles grow best in moderate heat.", "choices": ("viruses", "mesophiles", "protozoa", "gymnosperms"), "answer": "mesophiles"},
    "cosmosqa": {"context": "I was late again.", "choices": ("None of the above choices .", "The bus broke down .", "I slept .", "I ran ."), "answer": "I slept ."},
    "arc": {"choices": ("dry palms", "wet palms", "palms with oil", "palms with lotion"), "answer": "dry palms"},
    "quartz": {"context": "More people need more water.", "choices": ("scarce", "plentiful"), "answer": "scarce"},
}  # fmt: skip


@pytest.mark.parametrize("name", list(SHAPES))
def test_rows_in_the_shape_of_the_public_sets(name: str) -> None:
    shape = SHAPES[name]
    rows = [Row(f"{name}{i}", f"question {i}?", difficulty=i, split="train", raw={"n": i}, **shape) for i in range(9)]  # type: ignore[arg-type]
    made, told = to_yes_no(rows, seed=1)
    assert told == {}
    for old, new in zip(rows, made, strict=True):
        assert (new.id, new.context, new.difficulty, new.split) == (old.id, old.context, old.difficulty, old.split)
        assert new.raw == {"n": old.raw["n"], "candidate": new.raw["candidate"]}
        assert (new.raw["candidate"] == shape["answer"]) == (new.answer == "yes")
    assert sum(row.answer == "yes" for row in made) in (4, 5)


def test_every_distractor_and_both_odd_classes_are_drawn() -> None:
    wrong: list[str] = []
    surplus = set()
    for seed in range(40):
        made, _ = to_yes_no(choosing(9), seed=seed)
        wrong += [row.raw["candidate"].split()[0] for row in made if row.answer == "no"]
        surplus.add(sum(row.answer == "yes" for row in made))
    assert surplus == {4, 5}
    # 180 draws of two equally likely distractors: 90 +- 6.7; five deviations either side
    assert abs(wrong.count("bad") - len(wrong) / 2) <= 34


@pytest.mark.parametrize("name", ["sciq", "boolq", "cosmosqa", "arc_easy", "arc_challenge", "quartz"])
def test_real_data_sets(shared: Path, name: str) -> None:
    rows = read_rows(shared / "data" / f"{name}.jsonl.gz")
    made, _ = to_yes_no(rows, seed=5)
    yes = sum(row.answer == "yes" for row in made)
    assert abs(2 * yes - len(made)) <= 1
    assert len({row.id for row in made}) == len(made) > 1000
    truth = {row.id: row for row in rows}
    for row in made:
        if "candidate" in row.raw:
            assert (row.raw["candidate"] == truth[row.id].answer) == (row.answer == "yes")


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_a_real_set_without_choices_is_refused(shared: Path, name: str) -> None:
    with pytest.raises(DataError, match="a binary task needs one or the other"):
        to_yes_no(read_rows(shared / "data" / f"{name}.jsonl.gz"), seed=0)


def test_a_row_as_tokens_is_its_prompt_and_the_index_of_its_class() -> None:
    tokenizer, form = load_tokenizer("w2s-weak"), TaskFormat()
    rows = [Row("n", "is it?", "no"), Row("y", "is it so?", "yes"), Row("u", "or not?", None)]
    prompts = encode_prompts(rows, tokenizer, form, 200).rows
    encoded = encode_classes(rows, tokenizer, form, 200)
    for row, prompt, index in zip(encoded.rows, prompts, (0, 1, 0), strict=True):
        assert row.id == prompt.id
        assert row.input_ids == [*prompt.input_ids, index]
        assert row.prompt_length == len(prompt.input_ids)
    assert token_offsets(encoded.rows).tolist() == [0, 1, 2, 3]
    swapped = encode_classes(rows[:2], tokenizer, form, 200, classes=("yes", "no")).rows
    assert [row.input_ids[-1] for row in swapped] == [1, 0]


def test_length_limits_leave_room_for_the_class() -> None:
    tokenizer = load_tokenizer("w2s-weak")
    rows = [Row("long", "1 2 3 4 5 6 7 8?", "yes"), Row("short", "1?", "no")]
    whole = encode_classes(rows, tokenizer, TaskFormat(), None).rows
    limit = len(whole[0].input_ids) - 1
    cut = encode_classes(rows, tokenizer, TaskFormat(), limit)
    assert cut.cut == ("long",)
    assert cut.rows[0].input_ids == whole[0].input_ids[1:]  # its oldest token; the class stays
    assert cut.rows[1] == whole[1]
    assert encode_classes(rows, tokenizer, TaskFormat(), limit + 1).cut == ()
    dropped = encode_classes(rows, tokenizer, TaskFormat(too_long="drop"), limit)
    assert dropped.dropped == ("long",)
    assert [row.id for row in dropped.rows] == ["short"]


def test_rows_of_other_classes_and_rows_too_long_are_refused() -> None:
    tokenizer = load_tokenizer("w2s-weak")
    with pytest.raises(DataError, match="row 'a' has the answer 'maybe': a binary task knows no and yes"):
        encode_classes([Row("a", "?", "maybe")], tokenizer, TaskFormat(), 99)
    with pytest.raises(DataError, match="all 1 rows are over 3 tokens"):
        encode_classes([Row("a", "1 2 3?", "no")], tokenizer, TaskFormat(too_long="drop"), 3)


def test_the_verbalisers_are_what_an_answer_begins_with() -> None:
    tokenizer = load_tokenizer("w2s-weak")
    for form in (TaskFormat(), TaskFormat(template="{question} -> ")):
        row = Row("a", "is it?", "no")
        encoded = encode_rows([row], tokenizer, form, None).rows[0]
        assert first_answer_token("no", tokenizer, form) == encoded.input_ids[encoded.prompt_length]
    alike = tuple(first_answer_token(word, tokenizer, TaskFormat()) for word in ("zq", "zr"))
    with pytest.raises(ConfigError, match="which must differ: use head=classifier"):
        ClassSpec(("zq", "zr"), "tokens", alike, 0)
