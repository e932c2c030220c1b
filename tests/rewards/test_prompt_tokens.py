"""Tokens of prompts against those of the package hpsv2 1.2.0 and of transformers, and their hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.config.errors import UserError
from distill.rewards.pretrained.image_reward import MAX_TOKENS, SPECIAL_TOKENS
from distill.rewards.pretrained.tokens import OpenClipTokens, PublishedTokens
from tests.helpers import tiny_pipelines
from tests.helpers import tiny_reward_networks as tiny_networks

HERE = Path(__file__).parent
PUBLISHED = json.loads((HERE / "clip_tokens.json").read_text(encoding="utf-8"))
"""`prompts` are the tokens of each prompt by `tokenize` of hpsv2 1.2.0 with ftfy 6.3.1, without the zeros
after the end, and by `CLIPTokenizerFast` of transformers 4.46.3. `merges` and `words` are those of CLIP's
vocabulary that these prompts need, in its order and with its numbers."""
BERT = json.loads((HERE / "bert_tokens.json").read_text(encoding="utf-8"))
"""Tokens of prompts by `BertTokenizer` of transformers 4.46.3, written in Python, as ImageReward 1.5 asks for
them, without the padding. The words are BERT's special ones, these characters, the same as continuations, and
BLIP's two."""


def clip_tokenizer() -> Any:
    """Make CLIP's tokenizer with every byte and the merges of these prompts alone.

    The first 188 bytes stand for themselves.
    """
    from transformers import CLIPTokenizer

    letters = [
        chr(code)
        for first, last in (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
        for code in range(ord(first), ord(last) + 1)
    ]
    letters += [chr(256 + number) for number in range(256 - len(letters))]
    words = {word: row for row, word in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    words |= PUBLISHED["words"] | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    return CLIPTokenizer(
        vocab=words, merges=[tuple(merge.split()) for merge in PUBLISHED["merges"]], model_max_length=77
    )


@pytest.mark.parametrize(("prompt", "expected", "of_transformers"), PUBLISHED["prompts"])
def test_tokens_are_those_of_hpsv2_and_of_transformers(
    prompt: str, expected: list[int], of_transformers: list[int]
) -> None:
    tokens, counts = OpenClipTokens(clip_tokenizer(), "hpsv2.tokenizer", "here")([prompt], 77)
    assert tokens.tolist() == [expected]
    assert counts.tolist() == [[1] * len(expected)]
    tokens, counts = PublishedTokens(clip_tokenizer())([prompt], 77)
    assert tokens.tolist() == [of_transformers]
    assert counts.tolist() == [[1] * len(of_transformers)]


def test_the_two_differ_for_half_of_odd_prompts() -> None:
    """The counts are those in `docs/rewards.md`."""
    assert len(PUBLISHED["prompts"]) == 33
    assert sum(expected == of_transformers for _, expected, of_transformers in PUBLISHED["prompts"]) == 16


@pytest.mark.parametrize(("prompt", "expected"), BERT["prompts"])
def test_imagerewards_tokens_are_those_of_berts_own_tokenizer(
    prompt: str, expected: list[int], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, BertTokenizer

    special, characters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], BERT["characters"]
    words = [*special, *characters, *(f"##{character}" for character in characters)]
    BertTokenizer(vocab={word: row for row, word in enumerate(words)}).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(SPECIAL_TOKENS, special_tokens=True)
    tokens, counts = PublishedTokens(tokenizer, "max_length")([prompt], MAX_TOKENS)
    assert tokens.tolist() == [expected + [0] * (35 - len(expected))]
    assert counts.tolist() == [[1] * len(expected) + [0] * (35 - len(expected))]


def test_prompts_of_a_batch_are_padded_and_cut() -> None:
    tokens, counts = OpenClipTokens(clip_tokenizer(), "hpsv2.tokenizer", "here")(["a", "a a a a a", ""], 5)
    assert tokens.tolist() == [
        [49406, 320, 49407, 49407, 49407],
        [49406, 320, 320, 320, 49407],
        [49406, 49407, 49407, 49407, 49407],
    ]
    assert counts.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bert = AutoTokenizer.from_pretrained(tiny_networks.bert_tokenizer(tmp_path))
    with pytest.raises(
        UserError,
        match=r"^hpsv2.tokenizer: here holds a \w+; expected CLIP's tokenizer, of byte pairs ending in </w>$",
    ):
        OpenClipTokens(bert, "hpsv2.tokenizer", "here")


def test_the_hash_is_of_the_tokenizer_not_of_its_place_or_calls(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPTokenizer

    for folder in ("one", "two"):
        tiny_pipelines.tokenizer().save_pretrained(tmp_path / folder)
    one, two = (
        PublishedTokens(AutoTokenizer.from_pretrained(tmp_path / folder)) for folder in ("one", "two")
    )
    before = one.sha256()
    one(["a cat", "a"], 5)
    assert one.sha256() == before == two.sha256()
    words = tiny_pipelines.tokenizer().get_vocab()
    swapped = {**words, "a": words["b"], "b": words["a"]}
    other = CLIPTokenizer(vocab=swapped, merges=[], model_max_length=16)
    assert PublishedTokens(other).sha256() != before
    hashes = {
        OpenClipTokens(tokenizer, "", "").sha256() for tokenizer in (one.tokenizer, two.tokenizer, other)
    }
    assert len(hashes) == 2
    assert before not in hashes
