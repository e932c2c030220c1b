"""A CLIP tokenizer whose byte pairs are learned from captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
"""First and last token of a text; the last pads it too, as CLIP's does."""
MAX_TOKENS = 24
"""Maximum number of tokens in a text, start and end among them."""


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> CLIPTokenizer:
    """Learn a byte pair encoding of at most `vocabulary` tokens; the same captions give the same one.

    All 256 bytes are tokens, within a word and at its end, so that every text can be read.
    """
    from tokenizers import trainers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    blank = CLIPTokenizer()
    # The trainer numbers letters at the end of a word in the order of a hash table, which differs between
    # calls and decides between pairs of equal count. Special tokens are numbered as they are given.
    ends = [f"{letter}</w>" for letter in letters]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        show_progress=False,
        special_tokens=ends,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
    )
    blank.backend_tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(blank.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    learned = sorted(model["vocab"], key=model["vocab"].get)
    tokens = dict.fromkeys([*letters, *ends, *learned, START, END])
    return CLIPTokenizer(
        vocab={token: position for position, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_TOKENS,
    )
