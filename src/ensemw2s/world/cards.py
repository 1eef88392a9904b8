"""Model cards of the built-in family, written from recipe and measured skills.

python -m ensemw2s.world.cards FOLDER [FOLDER ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from ensemw2s.artifacts import read_json, write_json, write_text
from ensemw2s.world.skills import measure_skills

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [weak-to-strong, synthetic]
---
# {name}

A {kind} causal language model of {parameters:,} parameters ({hidden} wide, {layers} layers, {heads} heads, context {context}),
one of the built-in family of `ensemw2s`. It knows the package's synthetic world and nothing else: short lists of digits,
sums, words, dates, the ages of made-up people. It is meant for studying weak-to-strong supervision on a laptop.

## Training

Data: text generated from seed {seed} by `ensemw2s.world.corpus`; statements first ({tokens:,} tokens), then statements and
questions half and half ({asked_tokens:,} tokens), the questions in wordings that no training or test row uses. No instance
(operation and operands) of a test question occurs in it. Muon on the hidden matrices (peak rate {muon_rate}), AdamW on the
rest ({adam_rate}), about {batch_tokens} tokens a step, linear decay; the second phase at half the rates. On CPU with one
thread, beside other work. Made again with:

    python -m ensemw2s.world.pretrain {name} --out FOLDER

## Measured skills

Share of statements about test instances completed rightly, greedy, {rows} a cell (`python -m ensemw2s.world.cards FOLDER`).
One pretraining seed; a cell's 95 % interval is at most 12 points to either side.

| family | difficulty 1 | 2 | 3 | 4 | 5 | 6 |
| --- | --- | --- | --- | --- | --- | --- |
{skills}
"""
_ROWS = 64


def write_card(folder: Path) -> None:
    """Measure the model in ``folder`` and write its ``README.md`` and ``skills.json``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    skills = measure_skills(model, AutoTokenizer.from_pretrained(folder), rows=_ROWS)
    lines = [f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares) + " |" for name, shares in skills.items()]
    recipe = read_json(folder / "recipe.json")["recipe"]
    config = model.config
    kinds = {"gpt_neox": "GPT-NeoX", "llama": "Llama"}
    text = _CARD.format(
        name=folder.name, kind=kinds[config.model_type], parameters=model.num_parameters(), context=config.max_position_embeddings, rows=_ROWS,
        skills="\n".join(lines), **recipe,
    )  # fmt: skip
    write_json(folder / "skills.json", skills)
    write_text(folder / "README.md", text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_card(Path(name))
