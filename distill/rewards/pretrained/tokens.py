"""Prompts as tokens of a published text network, by transformers' tokenizers or as open_clip reads them."""

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
"""Parts of a tokenizer's description that calling it changes."""
OPEN_CLIP_ENDS = ("<start_of_text>", "<end_of_text>")
"""Strings that open_clip reads as the tokens at the ends of a prompt, also within one."""
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
OPEN_CLIP_PIECES = "|".join([*OPEN_CLIP_ENDS, *CONTRACTIONS, r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+"])
"""Pieces of a prompt that are tokenized one by one: the ends, contractions, runs of letters, single digits,
and runs of anything else but white space."""


@runtime_checkable
class PromptTokens(Protocol):
    """Turns prompts into tokens (b, n) and their attention mask (b, n).

    A prompt has at most `max_tokens` tokens, the start and the end token among them; all are padded to one
    length.
    """

    def __call__(
        self, prompts: Sequence[str], max_tokens: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]: ...

    def sha256(self) -> str:
        """Hash everything that decides the tokens."""
        ...


class PublishedTokens:
    """Tokens by a tokenizer of transformers, which also truncates and pads.

    `padding` is True to pad to the longest of the prompts, and "max_length" to pad to `max_tokens`.
    """

    def __init__(self, tokenizer: Any, padding: Literal[True, "max_length"] = True) -> None:
        self.tokenizer, self.padding = tokenizer, padding

    def __call__(
        self, prompts: Sequence[str], max_tokens: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]:
        # The tokenizer must truncate: cut off afterwards, a long prompt would lose its end token, and every
        # long prompt would get the same embedding.
        encoded = self.tokenizer(
            list(prompts),
            padding=self.padding,
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"]

    def sha256(self) -> str:
        """Hash everything that decides the tokens, but not the path of the tokenizer."""
        own = self.tokenizer
        padding = [own.padding_side, own.truncation_side, own.pad_token_id, self.padding]
        return _sha256([_rules(own), padding])


class OpenClipTokens:
    """Tokens of open_clip's `SimpleTokenizer`, from the vocabulary and merges of a CLIP tokenizer.

    open_clip repairs broken Unicode with ftfy, which also straightens curly quotes, splits ligatures, narrows
    full-width characters and drops control characters; resolves HTML entities twice; and makes one space of
    any white space. transformers' own tokenizer does only the last. `flag` and `source` name the tokenizer in
    messages.
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
        self, prompts: Sequence[str], max_tokens: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]:
        rows = [[self.start, *self._within(prompt)[: max_tokens - 2], self.end] for prompt in prompts]
        longest = max(len(row) for row in rows)
        tokens = [row + [self.end] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(tokens), torch.tensor(mask)

    def sha256(self) -> str:
        """Hash the vocabulary and merges, and the version of ftfy, whose repairs change between versions."""
        from importlib.metadata import version

        return _sha256(["open_clip", self.words, version("ftfy")])

    def _within(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt between its start and end token."""
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
    """Clean a prompt as open_clip does: repair Unicode, resolve entities, single spaces, lower case."""
    import ftfy
    import regex

    text = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def _rules(tokenizer: Any) -> dict[str, Any]:
    """Describe a tokenizer as plain data that is the same before and after a call."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in described.items() if name not in STATE}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
