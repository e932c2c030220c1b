"""DPG-Bench as a benchmark: an examiner that asks, and the mean share of questions that count.

The rules are those of `dpg_bench/compute_dpg_bench.py` of the authors' repository (TencentQQGYLab/ELLA), with
two differences, which make all questions and images count: their script leaves out the first row of the file,
and takes the shares of the kinds of questions from the last image of each prompt only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.eval.composition.answering.opening import check_answerer, open_answerer
from distill.eval.composition.answering.protocols import YES, Answerer
from distill.eval.composition.benchmark import Benchmark, Measure, Verdict
from distill.eval.composition.dpg.questions import Question
from distill.eval.composition.examination import Finding
from distill.eval.prompt_sets import PromptSet

PER_PROMPT = 4
PERCENT = 100.0


class QuestionExaminer:
    """Asks all questions of a prompt about an image."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer = answerer
        self.identity: dict[str, Any] = {"answers": answerer.identity}

    def examine(self, image: UInt8[Tensor, "3 h w"], asked: Any) -> Finding:
        """Return the answers, in the order of the questions."""
        return {"answers": self.answerer.answer(image, [question["text"] for question in asked])}


def counted(answers: Sequence[str], questions: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return the questions that count: those answered yes whose parents count.

    As in the published script, questions are decided in the order of the file, so that a parent further down
    counts by its answer alone.
    """
    counts = {one["number"]: answer == YES for one, answer in zip(questions, answers, strict=True)}
    for question in questions:
        if not all(counts[parent] for parent in question["parents"]):
            counts[question["number"]] = False
    return list(counts.values())


def judge(finding: Finding, asked: Any) -> Verdict:
    """Return the share of questions that count, and the first that does not."""
    counts = counted(finding["answers"], asked)
    missed = [one["text"] for one, counts_too in zip(asked, counts, strict=True) if not counts_too]
    return Verdict(sum(counts) / len(counts), missed[0] if missed else "")


def build(
    prompts: PromptSet, items: Mapping[str, Sequence[Question]], vqa: str, dtype: torch.dtype
) -> Benchmark:
    """Build the benchmark; `items` has the questions of all items of the list, in its order."""
    names = list(items)
    asked = [_plain(items[names[number]]) for number in prompts.numbers]

    def measure(findings: Sequence[Sequence[Finding]]) -> dict[str, Measure]:
        return measures(findings, asked)

    return Benchmark(
        "dpg",
        "DPG-Bench",
        prompts,
        asked,
        PER_PROMPT,
        lambda: check_answerer(vqa, "--vqa"),
        lambda device: QuestionExaminer(open_answerer(vqa, "--vqa", dtype, device)),
        judge,
        measure,
        [
            f"answers by {vqa}; published numbers are by mPLUG-large of ModelScope, and cannot be compared",
            "a question counts if it and the questions that it depends on are answered yes; the kinds of "
            "questions have shares of yes, whatever they depend on",
        ],
        item_names=names,
    )


def _plain(questions: Sequence[Question]) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(one), "parents": list(one.parents)} for one in questions]


def measures(
    findings: Sequence[Sequence[Finding]], asked: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Measure]:
    """Return the mean over prompts of the images' shares, and the share of yes for each kind of question."""
    pairs = list(zip(findings, asked, strict=True))
    means = [sum(judge(one, questions).score for one in images) / len(images) for images, questions in pairs]
    found = {"score": Measure("score", means, [1.0] * len(means), scale=PERCENT)}
    for kind in dict.fromkeys(question["kind"] for questions in asked for question in questions):
        sums = [_answered_yes(images, questions, kind) for images, questions in pairs]
        found[kind] = Measure(kind, [yes for yes, _ in sums], [total for _, total in sums], scale=PERCENT)
    return found


def _answered_yes(
    images: Sequence[Finding], questions: Sequence[Mapping[str, Any]], kind: str
) -> tuple[float, float]:
    """Return how many questions of a kind were answered yes about a prompt's images, of how many."""
    places = [place for place, question in enumerate(questions) if question["kind"] == kind]
    yes = sum(image["answers"][place] == YES for image in images for place in places)
    return float(yes), float(len(places) * len(images))
