"""Rendered text as a benchmark: an examiner that reads, and the shares of the text that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.eval.composition.answering.opening import check_reader, open_reader
from distill.eval.composition.answering.protocols import Reader
from distill.eval.composition.benchmark import Benchmark, Measure, Verdict
from distill.eval.composition.examination import Finding
from distill.eval.composition.rendered_text.rules import (
    are_chinese,
    compare_words,
    count_matches,
    has_every_text,
)
from distill.eval.prompt_sets import PromptSet

PER_PROMPT = {"longtext": 4, "cvtg": 1}
"""Images of each prompt in the published numbers of a list. Other lists have 1 unless more are asked for."""


class TextExaminer:
    """Reads the text in an image."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.identity: dict[str, Any] = {"reader": reader.identity}

    def examine(self, image: UInt8[Tensor, "3 h w"], asked: Any) -> Finding:
        """Return the text that was read."""
        return {"read": self.reader.read(image)}


def judge(finding: Finding, asked: Any) -> Verdict:
    """Return the share of words that were read, and what was read instead."""
    words = compare_words(asked, finding["read"])
    score = words.read / words.asked
    return Verdict(score, "" if score == 1 else f"read '{' '.join(finding['read'].split())}'")


def build(prompts: PromptSet, targets: Sequence[list[str]], ocr: str, dtype: torch.dtype) -> Benchmark:
    """Build the benchmark; `targets` are the texts of all prompts of the list."""
    asked = [targets[number] for number in prompts.numbers]
    categories = [prompt.category for prompt in prompts.prompts]

    def measure(findings: Sequence[Sequence[Finding]]) -> dict[str, Measure]:
        found = measures(findings, asked, categories)
        if prompts.name == "longtext":  # its own measure comes first
            return dict(sorted(found.items(), key=lambda item: item[0] != "text_score"))
        return found

    return Benchmark(
        "text",
        "Rendered text",
        prompts,
        asked,
        PER_PROMPT.get(prompts.name, 1),
        lambda: check_reader(ocr, "--ocr"),
        lambda device: TextExaminer(open_reader(ocr, "--ocr", dtype, device)),
        judge,
        measure,
        [
            f"read by {ocr}; published numbers are by PaddleOCR for CVTG-2K, and by Qwen2.5-VL-7B-Instruct "
            "in bfloat16 for LongText-Bench; those of another reader cannot be compared",
            "word accuracy and edit similarity (1 minus the normalised edit distance) are by the rules of "
            "CVTG-2K, the text score by those of LongText-Bench",
        ],
    )


def measures(
    findings: Sequence[Sequence[Finding]], asked: Sequence[list[str]], categories: Sequence[str | None]
) -> dict[str, Measure]:
    """Return shares of words over all images, and the share of images that show every text."""
    by_character = are_chinese(asked)
    words, read, similarities, matches, counted, whole, images = ([0.0] * len(asked) for _ in range(7))
    for number, (of_prompt, targets) in enumerate(zip(findings, asked, strict=True)):
        for finding in of_prompt:
            compared = compare_words(targets, finding["read"])
            matched, total = count_matches(targets, finding["read"], by_character)
            words[number] += compared.asked
            read[number] += compared.read
            similarities[number] += compared.similarity
            matches[number] += matched
            counted[number] += total
            whole[number] += has_every_text(targets, finding["read"], by_character)
            images[number] += 1
    found = {
        "word_accuracy": Measure("word accuracy", read, words),
        "edit_similarity": Measure("edit similarity", similarities, words),
        "text_score": Measure("text score", matches, counted),
        "every_text": Measure("images with every text", whole, images, is_rate=True),
    }
    for category in dict.fromkeys(one for one in categories if one is not None):
        own = [total if one == category else 0.0 for total, one in zip(counted, categories, strict=True)]
        found[f"text_score of {category}"] = Measure(f"text score, {category}", matches, own)
    # LongText-Bench counts Latin letters, digits and Chinese characters only: other texts have no text score.
    return {name: measure for name, measure in found.items() if any(measure.denominators)}
