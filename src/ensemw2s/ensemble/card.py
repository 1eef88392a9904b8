"""Model cards: the ``README.md`` of an ensemble's or a student's folder, as the Hugging Face hub shows it.

A card ends in a line with the SHA-256 of what stands above it. One whose text still has that sum was written here and
may be written anew; any other is somebody's own and is kept. It is prose, so no list of checksums names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from ensemw2s.artifacts import CARD, write_text
from ensemw2s.data.encoding import encode_prompts
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.bases import base_origin, shown_base
from ensemw2s.errors import EnsemW2SError

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_SEAL = re.compile(r"<!-- ensemw2s card ([0-9a-f]{64}) -->\s*\Z")
_METRICS = {
    "exact_match": "exact match", "token_accuracy": "token accuracy", "option_accuracy": "option accuracy",
    "nll": "negative log-likelihood, nats a token", "brier": "Brier score", "ece": "calibration error",
}  # fmt: skip
_SHARES = ("exact_match", "token_accuracy", "option_accuracy")
_SPLITS = {"test_id": "test ID (easy)", "test_ood": "test OOD (hard)"}
_QUESTION = "your question"
REWEIGHTED = "the experts' weights were set anew"
REMOVED, ADDED = "expert {} of {} was removed", "an expert was added as number {}"
_REMOVED = re.compile(REMOVED.format(r"(\d{1,9})", r"(\d{1,9})"))
_NO_ADDRESS = "The base was a local folder of that name; it has no address here."


class Score(pydantic.BaseModel):
    """One measured number.

    Attributes:
        system: whose; a name of ``results.json``.
        split, metric: of what.
        value, low, high: the number and its 95 % interval; None where there is none.
        reason: why there is none, where that is known.
        n: rows (or tokens) it was measured on.
        chance: what guessing gets; None where that is not known.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    system: str
    split: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    n: int | None = None
    chance: float | None = None


class Story(pydantic.BaseModel):
    """What only the maker of a folder knows about it; JSON data, kept in ``ensemble.json`` under ``card``.

    Attributes:
        source: the training rows' data set in words; empty where unknown.
        datasets: hub ids of it.
        rows: how many rows it was trained on.
        fingerprint: SHA-256 of them.
        labels: what their answers are: right ones, or a teacher's.
        label_quality: how many of a teacher's labels are right, where that was measured.
        settings: of the training, by name.
        system: its own name among ``scores``.
        main_metric: the one that systems are compared by.
        scores: its own in every metric, the others' in the main one.
        pgr: performance gap recovered, one a split (value None: withheld).
        warnings: what its maker was told.
        stored: fingerprint of the experts, alphas and rule that were measured; empty where that cannot change.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    source: str = ""
    datasets: tuple[str, ...] = ()
    rows: int | None = None
    fingerprint: str = ""
    labels: str = ""
    label_quality: Score | None = None
    settings: dict[str, str] = {}
    system: str = ""
    main_metric: str = ""
    scores: tuple[Score, ...] = ()
    pgr: tuple[Score, ...] = ()
    warnings: tuple[str, ...] = ()
    stored: str = ""

    @classmethod
    def read(cls, value: Any) -> Story:
        """From JSON data of any origin; what does not fit is no story, and tells nothing."""
        try:
            return cls.model_validate(value)
        except pydantic.ValidationError:
            return cls()


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a folder itself says.

    Attributes:
        name: its title: the folder's name, or the hub id it goes to.
        kind: what lies there.
        base: what was fine-tuned: a built-in name, a folder or a hub id; empty where unknown.
        tuning: "full" weights or "lora" adapters.
        task_format: how questions become prompts.
        tokenizer: as stored.
        task, head: of what, see ``Config``.
        alphas: one an expert.
        rounds: records of the boosting rounds.
        rule: of combining.
        more_bases: further models that experts were fine-tuned from, in turn with ``base``.
        changes: what was done to the ensemble after its training, in words and in order.
    """

    name: str
    kind: Literal["ensemble", "student"]
    base: str
    tuning: Literal["full", "lora"]
    task_format: TaskFormat
    tokenizer: Any
    task: str = "generation"
    head: str = "tokens"
    alphas: Sequence[float] = ()
    rounds: Sequence[Mapping[str, Any]] = ()
    rule: str = ""
    more_bases: Sequence[str] = ()
    changes: Sequence[str] = ()


def noted_changes(meta: Mapping[str, Any]) -> list[str]:
    """What ``changes`` of an ensemble's record tells; a record of any origin may hold something else there."""
    found = meta.get("changes")
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def write_card(folder: Path, facts: CardFacts, story: Story, kept: str | None = None) -> None:
    """Write ``README.md`` into a folder; ``kept`` (see :func:`edited_card`) instead, where there is one.

    Raises:
        CacheError: the operating system refused the write.
    """
    write_text(folder / CARD, kept if kept is not None else render_card(facts, story))


def edited_card(folder: Path) -> str | None:
    """The card of a folder if a person wrote or changed it; None where there is none, or one written here."""
    path = folder / CARD
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return None if is_own_card(text) else text


def is_own_card(text: str) -> bool:
    """Whether a card is as this module wrote it; line ends do not count."""
    plain = text.replace("\r\n", "\n")
    found = _SEAL.search(plain)
    return found is not None and found[1] == _sum(plain[: found.start()])


def render_card(facts: CardFacts, story: Story) -> str:
    """The whole text: metadata for the hub, sections for people, the seal. Equal facts give equal text."""
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"number": _number, "cell": _cell, "metric": lambda name: _METRICS.get(name, name),
                            "split": lambda name: _SPLITS.get(name, name)}  # fmt: skip
    origin = base_origin(facts.base)
    body = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        facts=facts, story=story, origin=origin, base=shown_base(facts.base),
        further=[shown_base(name) for name in facts.more_bases], asking=_asking(facts),
        own=[one for one in story.scores if one.system == story.system],
        others=_table(story), rounds=_kept_rounds(facts), version=_version(),
        others_than_trained=not set(facts.changes) <= {REWEIGHTED},
        changed=facts.changes or (["its experts, weights or rule"] if story.stored == "changed" else []),
        no_address=_NO_ADDRESS,
    )  # fmt: skip
    return _sealed(f"---\n{_metadata(facts, story, origin)}\n---\n{body.strip()}\n\n")


def add_tags(folder: Path, tags: Sequence[str]) -> None:
    """Add tags to the metadata of a card written here; an edited one is left alone."""
    from huggingface_hub import ModelCard

    path = folder / CARD
    if not tags or edited_card(folder) is not None:
        return
    card = ModelCard(_SEAL.sub("", path.read_text(encoding="utf-8")))
    card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *tags]))
    write_text(path, _sealed(str(card).rstrip() + "\n\n"))


def with_base(text: str, old: str, new: str) -> str:
    """A card written here while its base was a local folder, as it is where that base has an address on the hub.

    Args:
        text: a card as :func:`render_card` made it.
        old: the base's path, as the folder records it.
        new: its hub id.
    """
    import yaml

    name = shown_base(old)
    body = _SEAL.sub("", text.replace("\r\n", "\n")).replace("---\n", f"---\n{yaml.safe_dump({'base_model': new})}", 1)
    for before in ("fine-tuned from `{}`", "A student: `{}`"):
        body = body.replace(before.format(_cell(name)), before.format(_cell(new)), 1)
    loading = 'base = AutoModelForCausalLM.from_pretrained("{}")'
    body = body.replace(loading.format(name), loading.format(new), 1).replace(f"{_NO_ADDRESS}\n", "", 1)
    return _sealed(body.rstrip() + "\n\n")


def _metadata(facts: CardFacts, story: Story, origin: str) -> str:
    """The YAML block. Language and licence are not known, so they are left out."""
    from huggingface_hub import EvalResult, ModelCardData

    plain = "peft" if facts.tuning == "lora" else "transformers"
    told = {one.metric: one for one in story.scores if one.system == story.system}
    measured = [
        EvalResult(
            task_type=_pipeline(facts), dataset_type=story.datasets[0] if story.datasets else "own",
            dataset_name=story.source or "own rows", dataset_split=one.split, metric_type=one.metric,
            metric_name=_METRICS.get(one.metric, one.metric), metric_value=one.value,
        )
        for one in story.scores if one.system == story.system and one.value is not None
    ]  # fmt: skip
    data = ModelCardData(
        base_model=facts.base if origin == "hub" else None,
        datasets=list(story.datasets) or None,
        library_name="ensemw2s" if facts.kind == "ensemble" else plain,
        metrics=list(told) or None,
        pipeline_tag=_pipeline(facts),
        tags=["ensemw2s", "weak-to-strong", facts.kind, *(["lora"] if facts.tuning == "lora" else [])],
        model_name=facts.name if measured else None,
        eval_results=measured or None,
    )
    return data.to_yaml()


def _pipeline(facts: CardFacts) -> str:
    return "text-classification" if facts.task == "binary" else "text-generation"


def _asking(facts: CardFacts) -> dict[str, str]:
    """A prompt of the saved format as a Python literal, and the arguments with which the tokenizer reads it rightly."""
    row = Row(id="card", question=_QUESTION)
    if facts.task == "binary":
        return {"prompt": "", "call": "", "cut": ""}
    try:
        prompt = facts.task_format.prompt(row, facts.tokenizer)
        (encoded,) = encode_prompts([row], facts.tokenizer, facts.task_format, None).rows
    except EnsemW2SError:  # a chat format, and a tokenizer that has no chat template
        return {"prompt": repr(_QUESTION), "call": "prompt, ", "cut": ""}
    wanted = list(encoded.input_ids)
    by_itself = facts.tokenizer(prompt).input_ids
    if by_itself == wanted:
        call, cut = "prompt, ", ""
    elif by_itself[:-1] == wanted:
        call, cut = "prompt, ", "[:, :-1]  # without the end token"
    else:
        call, cut = "prompt, add_special_tokens=False, ", ""
    return {"prompt": repr(prompt), "call": call, "cut": cut}


def _kept_rounds(facts: CardFacts) -> list[dict[str, Any]]:
    """One line an expert: its alpha, and what its round found where that is known and fits.

    Where experts came or left, a round's number is no longer that of its expert: the changes tell whose it is.
    """
    kept = [one for one in facts.rounds if isinstance(one, Mapping) and one.get("outcome") in ("ok", "perfect")]
    known = _after(facts.changes, kept or list(facts.rounds)[:1])
    known = known if len(known) == len(facts.alphas) else [None] * len(facts.alphas)
    lines = []
    for alpha, one, place in zip(facts.alphas, known, range(len(known)), strict=True):
        found = one if isinstance(one, Mapping) else {}
        lines.append({"expert": place + 1, "alpha": alpha, "error": found.get("error"),
                      "train_token_error": found.get("train_token_error")})  # fmt: skip
    return lines


def _after(changes: Sequence[str], rounds: Sequence[Any]) -> list[Any]:
    """The rounds of the experts there are after the changes, None for one that was added; empty if that is unclear."""
    found: list[Any] = list(rounds)
    for change in changes:
        removed = _REMOVED.fullmatch(change)
        if removed and int(removed[2]) == len(found) and 1 <= int(removed[1]) <= len(found):
            del found[int(removed[1]) - 1]
        elif change == ADDED.format(len(found) + 1):
            found.append(None)
        elif change != REWEIGHTED:
            return []
    return found


def _table(story: Story) -> list[dict[str, Any]]:
    """Every system in the main metric, one line each."""
    found = [one for one in story.scores if one.metric == story.main_metric]
    names, splits = dict.fromkeys(one.system for one in found), dict.fromkeys(one.split for one in found)
    by_place = {(one.system, one.split): one for one in found}
    return [{"system": name, "scores": [by_place.get((name, split)) for split in splits], "splits": list(splits)}
            for name in names]  # fmt: skip


def _number(score: Score | None) -> str:
    """``58.0 % [54.9, 61.0]``, or ``0.581 [0.549, 0.610]`` for what is no share."""
    if score is None or score.value is None:
        return "–"
    share = score.metric in _SHARES
    value, low, high = (None if x is None else x * 100 if share else x for x in (score.value, score.low, score.high))
    digits = 1 if share else 3
    text = f"{value:.{digits}f}{' %' if share else ''}"
    return text if low is None or high is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _cell(value: Any) -> str:
    """Text that stays inside its table cell, line or list item."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _sealed(text: str) -> str:
    return f"{text}<!-- ensemw2s card {_sum(text)} -->\n"


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _version() -> str:
    from importlib.metadata import version

    return version("ensemw2s")
