"""GenEval as a benchmark: the requirement of each prompt, an examiner, and the shares of correct images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from distill.eval.composition.benchmark import Benchmark, Measure, Verdict
from distill.eval.composition.examination import Finding
from distill.eval.composition.geneval import rules
from distill.eval.composition.geneval.colors import open_colors
from distill.eval.composition.geneval.detector import open_detector
from distill.eval.composition.geneval.networks import check_networks
from distill.eval.composition.geneval.requirements import Clause, Requirement
from distill.eval.composition.geneval.rules import ColorNamer, Detector
from distill.eval.prompt_sets import PromptSet

PER_PROMPT = 4
CONSTANTS = {
    "threshold": rules.THRESHOLD,
    "counting_threshold": rules.COUNTING_THRESHOLD,
    "max_objects": rules.MAX_OBJECTS,
}
"""Constants that a finding depends on."""


class ObjectExaminer:
    """Finds the objects in an image, and the colours of those whose colour the prompt asks for."""

    def __init__(self, detector: Detector, colors: ColorNamer) -> None:
        self.detector = detector
        self.colors = colors
        self.identity: dict[str, Any] = {
            "detector": detector.identity,
            "colors": colors.identity,
            "constants": CONSTANTS,
        }

    def examine(self, image: UInt8[Tensor, "3 h w"], asked: Any) -> Finding:
        """Return the objects by class, each as its box and score, and the colours for each clause."""
        requirement = requirement_of(asked)
        objects = rules.keep_objects(self.detector.detect(image, rules.threshold_of(requirement)))
        colors: list[list[str] | None] = []
        for clause in requirement.include:
            found = objects.get(clause.name, [])[: clause.count]
            is_named = clause.color is not None and len(found) == clause.count
            colors.append(self.colors.name_colors(image, found) if is_named else None)
        boxes = {name: [[*one.box, one.score] for one in found] for name, found in objects.items()}
        return {"objects": boxes, "colors": colors}


def requirement_of(asked: Any) -> Requirement:
    """Return a requirement from plain data."""
    include, exclude = (
        tuple(Clause(**{**one, "position": one["position"] and tuple(one["position"])}) for one in asked[key])
        for key in ("include", "exclude")
    )
    return Requirement(asked["tag"], include, exclude)


def judge(finding: Finding, asked: Any) -> Verdict:
    """Judge an image by GenEval's rules."""
    boxes = {name: [tuple(one[:4]) for one in found] for name, found in finding["objects"].items()}
    correct, reasons = rules.judge(requirement_of(asked), boxes, finding["colors"])
    return Verdict(float(correct), "; ".join(reasons))


def build(prompts: PromptSet, requirements: Sequence[Requirement], detector: str, clip: str) -> Benchmark:
    """Build the benchmark; `requirements` are those of all prompts of the list."""
    asked = [dataclasses.asdict(requirements[number]) for number in prompts.numbers]

    def measure(findings: Sequence[Sequence[Finding]]) -> dict[str, Measure]:
        return measures([one["tag"] for one in asked], _correct(findings, asked))

    return Benchmark(
        "geneval",
        "GenEval",
        prompts,
        asked,
        PER_PROMPT,
        lambda: check_networks(detector, clip),
        lambda device: ObjectExaminer(open_detector(detector, device), open_colors(clip, device)),
        judge,
        measure,
        [
            "overall is the mean over tasks, as published; intervals of shares are Wilson's, with as many "
            "trials as prompts",
            f"objects by {detector}, colours by {clip}; published numbers are by mmdetection's weights of "
            "Mask2Former with Swin-S, and by CLIP ViT-L/14",
        ],
    )


def _correct(findings: Sequence[Sequence[Finding]], asked: Sequence[Any]) -> list[list[float]]:
    """Return 1 for each correct image of each prompt, otherwise 0."""
    pairs = zip(findings, asked, strict=True)
    return [[judge(finding, one).score for finding in of_prompt] for of_prompt, one in pairs]


def measures(tags: Sequence[str], correct: Sequence[Sequence[float]]) -> dict[str, Measure]:
    """Return the mean over tasks, each task, all images, and the prompts with at least one correct image."""
    sums = [sum(images) for images in correct]
    counts = [float(len(images)) for images in correct]
    found = {"overall": Measure("overall", sums, counts, list(tags))}
    for task in dict.fromkeys(tags):
        own = [count if tag == task else 0.0 for count, tag in zip(counts, tags, strict=True)]
        own_sums = [value if tag == task else 0.0 for value, tag in zip(sums, tags, strict=True)]
        found[task] = Measure(task, own_sums, own, is_rate=True)
    found["images"] = Measure("correct images", sums, counts, is_rate=True)
    any_correct = [float(value > 0) for value in sums]
    found["prompts"] = Measure("prompts with a correct image", any_correct, [1.0] * len(sums), is_rate=True)
    return found
