"""Conditions of prompts: encoded once, cached by content, dropped at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from distill.data.encoded_prompts import EncodedPrompts
from distill.training.batches import Batches
from distill.types import Condition, Text


class Encoder:
    """A prompt's tokens are its length; counts its calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompts: Sequence[str]) -> Condition:
        self.asked += prompts
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])[:, None]
        return Condition(
            text=Text(
                {"tokens": lengths, "ids": torch.full_like(lengths, 7.0)},
                {"tokens": torch.full((1, 1), -1.0)},
            )
        )


def test_each_prompt_is_encoded_once_for_each_encoder(tmp_path: Path) -> None:
    encoder = Encoder()
    prompts = EncodedPrompts(["a", "bcd"], encoder, "first", tmp_path)
    for _ in range(2):
        text = prompts(torch.tensor([1, 0, 1])).text
        assert text is not None
        assert text.given["tokens"].flatten().tolist() == [3.0, 1.0, 3.0]
    assert encoder.asked == ["bcd", "a", ""]
    EncodedPrompts(["bcd"], encoder, "first", tmp_path)(torch.tensor([0]))
    assert encoder.asked == ["bcd", "a", "", ""]  # what stands for no prompt is not in the cache
    EncodedPrompts(["bcd"], encoder, "second", tmp_path)(torch.tensor([0]))
    assert encoder.asked[4:] == ["bcd", ""]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_text_is_taken_apart_and_doubled() -> None:
    cond = Encoder()(["a", "bcd", "ef"])
    text = cond[torch.tensor([2, 1])].with_unconditional().text
    assert text is not None
    assert text.given["tokens"].flatten().tolist() == [2.0, 3.0, -1.0, -1.0]
    assert text.given["ids"].flatten().tolist() == [7.0] * 4  # sizes hold without a prompt too
    some = cond.drop(torch.tensor([False, True, False])).text
    assert some is not None
    assert some.given["tokens"].flatten().tolist() == [1.0, -1.0, 2.0]
    assert cond.to("meta").text.device == torch.device("meta")


def test_prompts_are_dropped_by_the_step_alone() -> None:
    prompts = EncodedPrompts(["a", "bcd"], Encoder(), dropout=0.5)

    def tokens(process: int = 0, processes: int = 1) -> list[list[float]]:
        share = {"process": process, "processes": processes, "prompts": prompts}
        stream = Batches((2,), 0, None, 32, 0, torch.device("cpu"), **share).starting_at(3)
        return [next(stream).cond.text.given["tokens"].flatten().tolist() for _ in range(2)]

    whole = tokens()
    assert whole == tokens()
    assert {value for batch in whole for value in batch} == {-1.0, 1.0, 3.0}
    assert 20 <= sum(batch.count(-1.0) for batch in whole) <= 44
    assert [one + two for one, two in zip(tokens(0, 2), tokens(1, 2), strict=True)] == whole
