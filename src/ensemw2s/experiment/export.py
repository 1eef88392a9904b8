"""From stored stages to folders a user keeps: an ensemble, a student."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import atomic_folder, remove_aside, write_json
from ensemw2s.ensemble.card import CardFacts, Story, edited_card, write_card
from ensemw2s.ensemble.folder import FORMAT_FILE, is_ensemble_folder, write_ensemble
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.methods.bench import Members, ModelRole
from ensemw2s.methods.boosted import Boosted
from ensemw2s.models.loading import MODELS, model_folder, quiet


def export_ensemble(bench: StoredBench, boosted: Boosted, folder: Path, story: Story | None = None) -> None:
    """Write the boosted ensemble as a folder of its own, over an older one that lies there.

    Args:
        bench: what trained it.
        boosted: its experts.
        folder: where to.
        story: what its card tells; a card there that was edited is kept.
    """
    card = edited_card(folder)
    if folder.is_dir() and not is_ensemble_folder(folder):
        remove_aside(folder)  # the run's own, harmed: made again
    rounds = [dataclasses.asdict(record) for record in boosted.rounds]
    first, *others = dict.fromkeys(expert.base for expert in boosted.members.experts)
    # The others are told and never loaded again (no adapter has one), so a folder's own name is enough.
    names = [bench.settings.name("weak", base) for base in others]
    more = [name if name in MODELS or not Path(name).is_dir() else Path(name).name for name in names]
    write_ensemble(
        folder,
        [expert.folder for expert in boosted.members.experts if expert.folder is not None],
        boosted.members.alphas,
        boosted.members.rule,
        tokenizer=bench.tokenizer("weak"),
        task_format=bench.settings.task_format,
        base=base_name(bench, "weak", first),
        kind="lora" if bench.settings.weak_tuning == "lora" else "full",
        meta={
            "rounds": rounds,
            "pretrained_error": boosted.pretrained_error,
            **({"more_bases": more} if more else {}),
            **_task(bench),
            **_told(story),
        },
        rule_state=boosted.members.rule_state,
        replace=True,
        card=card,
    )


def export_student(bench: StoredBench, members: Members, folder: Path, story: Story | None = None) -> None:
    """Write a fine-tuned strong model as an ordinary model (or adapter) folder, over an older one that lies there.

    Args:
        bench: what trained it.
        members: the model.
        folder: where to.
        story: what its card tells; a card there that was edited is kept.
    """
    (expert,) = members.experts
    if expert.folder is None:
        return
    with atomic_folder(folder, replace=True) as aside:
        shutil.copytree(expert.folder, aside, dirs_exist_ok=True)
        with quiet():
            bench.tokenizer("strong").save_pretrained(aside)
        write_json(aside / FORMAT_FILE, bench.settings.task_format.to_dict())
        origin = {"base": base_name(bench, "strong"), **_task(bench), **_summary(bench, members)}
        write_json(aside / "origin.json", origin)
        settings = bench.settings
        facts = CardFacts(
            folder.name, "student", origin["base"], "lora" if settings.strong_tuning == "lora" else "full",
            settings.task_format, bench.tokenizer("strong"), settings.task, settings.head,
        )  # fmt: skip
        write_card(aside, facts, story or Story(), edited_card(folder))


def _told(story: Story | None) -> dict[str, Any]:
    """The card's story as it stands in ``ensemble.json``."""
    return {"card": story.model_dump(mode="json", exclude_defaults=True)} if story is not None else {}


def _task(bench: StoredBench) -> dict[str, Any]:
    """What a reader must know of a binary task to use the folder again."""
    return {"task": bench.settings.task, "head": bench.settings.head} if bench.settings.binary else {}


def base_name(bench: StoredBench, role: ModelRole, base: int = 0) -> str:
    """How a stored adapter names its base: built-in names and hub ids as they are, folders by their full path."""
    name = bench.settings.name(role, base)
    return name if name in MODELS or not Path(name).is_dir() else str(model_folder(name).resolve())


def _summary(bench: StoredBench, members: Members) -> dict[str, Any]:
    summary = bench.training_summary(members.experts[0])
    return {"training": {key: summary[key] for key in ("steps", "tokens", "answer_tokens")}}
