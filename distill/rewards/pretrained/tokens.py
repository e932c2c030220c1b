"""Prompts as tokens of a published text network: by transformers' own tokenizers, or as open_clip reads them."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.config.errors import UserError

STATE = ("truncation", "padding")
"""Parts of a tokenizer's description that a call changes."""
OPEN_CLIP_ENDS = ("<start_of_text>", "<end_of_text>")
"""Strings that open_clip reads as the tokens at the ends of a prompt, also within one."""
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
OPEN_CLIP_PIECES = "|".join([*OPEN_CLIP_ENDS, *CONTRACTIONS, r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+"])
"""Pieces of a prompt that are tokenized one by one: the ends, contractions, runs of letters, single digits, and runs of
anything else but white space."""


@runtime_checkable
class PromptTokens(Protocol):
    """Prompts -> their tokens (b, n), at most `most`, both ends among them, padded to one length; and which count."""

    def __call__(
        self, prompts: Sequence[str], most: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]: ...

    def sha256(self) -> str:
        """Hash of everything that decides the tokens."""
        ...


class PublishedTokens:
    """The tokens of a tokenizer of transformers, cut and padded by the tokenizer itself.

    `padding` is True up to the longest of the prompts, and "max_length" up to the most tokens.
    """

    def __init__(self, tokenizer: Any, padding: Literal[True, "max_length"] = True) -> None:
        self.tokenizer, self.padding = tokenizer, padding

    def __call__(
        self, prompts: Sequence[str], most: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]:
        # The tokenizer truncates: cut afterwards, a long prompt loses its end token, and every long prompt gets the
        # same embedding.
        settings = {"padding": self.padding, "truncation": True, "max_length": most, "return_tensors": "pt"}
        encoded = self.tokenizer(list(prompts), **settings)
        return encoded["input_ids"], encoded["attention_mask"]

    def sha256(self) -> str:
        """Hash of the tokenizer's words, merges, normalisation and special tokens, wherever its files lie."""
        own = self.tokenizer
        return _sha256([_rules(own), [own.padding_side, own.truncation_side, own.pad_token_id, self.padding]])


class OpenClipTokens:
    """The tokens of open_clip's `SimpleTokenizer`, from the words and merges of transformers' CLIP tokenizer.

    open_clip repairs broken Unicode with ftfy, which also straightens curly quotes, splits ligatures, narrows full-width
    characters and drops control characters; resolves HTML entities twice; and makes one space of any white space.
    transformers does only the last. Raises UserError, naming `flag` and `source`, where the tokenizer is not CLIP's.
    """

    def __init__(self, tokenizer: Any, flag: str, source: str) -> None:
        from tokenizers.models import BPE

        self.model = tokenizer.backend_tokenizer.model
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        is_clips = isinstance(self.model, BPE) and self.model.end_of_word_suffix == "</w>"
        if not is_clips or self.start is None or self.end is None:
            expected = "expected CLIP's tokenizer, of byte pairs ending in </w>"
            raise UserError(f"{flag}: {source} holds a {type(tokenizer).__name__}; {expected}")
        self.words = _sha256([_rules(tokenizer), self.start, self.end])

    def __call__(
        self, prompts: Sequence[str], most: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]:
        rows = [[self.start, *self._within(prompt)[: most - 2], self.end] for prompt in prompts]
        longest = max(len(row) for row in rows)
        tokens = torch.tensor([row + [self.end] * (longest - len(row)) for row in rows])
        return tokens, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])

    def sha256(self) -> str:
        """Hash of the words and merges, and of the version of ftfy, whose repairs change between versions."""
        from importlib.metadata import version

        return _sha256(["open_clip", self.words, version("ftfy")])

    def _within(self, prompt: str) -> list[int]:
        """The tokens of a prompt between its ends."""
        import regex
        from tokenizers.pre_tokenizers import ByteLevel

        ends = dict(zip(OPEN_CLIP_ENDS, (self.start, self.end), strict=True))
        as_letters = ByteLevel(add_prefix_space=False, use_regex=False)
        tokens: list[int] = []
        for piece in regex.findall(OPEN_CLIP_PIECES, open_clip_clean(prompt), regex.IGNORECASE):
            if piece in ends:
                tokens.append(ends[piece])
                continue
            for letters, _ in as_letters.pre_tokenize_str(piece):
                tokens += [token.id for token in self.model.tokenize(letters)]
        return tokens


def open_clip_clean(prompt: str) -> str:
    """Return a prompt as open_clip reads it: repaired, entities resolved, single spaces, in lower case."""
    import ftfy
    import regex

    text = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def _rules(tokenizer: Any) -> dict[str, Any]:
    """Return everything that a tokenizer of transformers is made of, as plain data, before and after a call alike."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in described.items() if name not in STATE}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
