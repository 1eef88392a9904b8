"""The family's shared tokenizer: a token for every word of the world, one a digit, bytes for all else.

A number is a token a digit, so the answer to a sum has as many tokens as digits; a list of digits has a
token an item. Text outside the world still encodes (printable characters, then bytes) and comes back
exactly, but slowly and without meaning to these models.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

from ensemw2s.world.corpus import documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|end|>"
PAD = "<|pad|>"
_PIECE = r" ?[A-Za-z]+| ?[0-9]|\s|[^A-Za-z0-9\s]"
CONTEXT = 256


# Words of earlier question wordings: the shipped models were pretrained with them in the vocabulary.
_MORE_WORDS = (" Drop", " Put", " Say", " Sort", " What", " Which", " Who", " added", "Answer", "Question")


def world_words(sample: int = 60_000) -> list[str]:
    """Every word, with its leading space where it has one, of the first phase's text, sorted; and a few more."""
    words = {word for text in documents(sample, seed=0) for word in re.findall(r" ?[A-Za-z]+", text)}
    return sorted({word for word in words if len(word.strip()) > 1} | set(_MORE_WORDS))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same at every call; transformers' own fast class, no custom code."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    singles = [character for character in string.printable if character not in "\x0b\x0c\r"]
    spaced = [f" {character}" for character in string.ascii_letters + string.digits]
    pieces = [PAD, END, *singles, *spaced, *world_words(), *(f"<0x{byte:02X}>" for byte in range(256))]
    # Unigram picks the segmentation of highest total score: equal scores mean the fewest pieces.
    vocabulary = [(piece, 0.0 if index < 2 else -10.0) for index, piece in enumerate(pieces)]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
