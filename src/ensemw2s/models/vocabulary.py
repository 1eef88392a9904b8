"""What tokens mean, and whether several experts speak of the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ensemw2s.artifacts import fingerprint
from ensemw2s.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_same_vocabulary(tokenizers: Mapping[str, PreTrainedTokenizerFast]) -> None:
    """Experts of one ensemble must share the map from text to ids and the special tokens.

    The size of the models' output layers may differ (padding of the matrix), and so may the padding token.

    Args:
        tokenizers: a name for the message (a folder, say) -> tokenizer.

    Raises:
        ModelError: two of them differ; the message says in what.
    """
    names = list(tokenizers)
    for name in names[1:]:
        first, other = tokenizers[names[0]], tokenizers[name]
        mine, theirs = first.get_vocab(), other.get_vocab()
        if mine != theirs:
            token = min(t for t in {*mine, *theirs} if mine.get(t) != theirs.get(t))
            raise ModelError(
                f"experts must share one vocabulary: '{names[0]}' ({len(mine)} tokens) and '{name}' ({len(theirs)} "
                f"tokens) differ, for example in {token!r}; use models with the same tokenizer"
            )
        if _special(first) != _special(other):
            raise ModelError(
                f"experts must share their special tokens: '{names[0]}' has {_special(first)} and '{name}' has "
                f"{_special(other)}; use models with the same tokenizer"
            )


def _special(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    return {key: str(value) for key, value in tokenizer.special_tokens_map.items() if key != "pad_token"}


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of how texts become tokens and back: vocabulary, merges, normalisation, special tokens, chat template.

    Padding and truncation are left out: they are the state of the last call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces: Any
    if backend is None:
        pieces = sorted(tokenizer.get_vocab().items())
    else:
        pieces = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    return fingerprint([pieces, special, getattr(tokenizer, "chat_template", None)])
