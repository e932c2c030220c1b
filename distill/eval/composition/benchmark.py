"""What a benchmark of composition consists of: prompts, what each asks for, an examiner, and measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from distill.eval.composition.examination import Examiner, Finding
from distill.eval.prompt_sets import PromptSet


@dataclasses.dataclass(frozen=True)
class Measure:
    """A ratio of sums over prompts, or the mean of such ratios over strata (`ratios.py`).

    Each prompt adds to both sums; a prompt that the measure is not about has the denominator 0.
    """

    title: str
    numerators: list[float]
    denominators: list[float]
    strata: list[str] | None = None
    """Stratum of each prompt."""
    is_rate: bool = False
    """The ratio is a share of images, and has Wilson's interval."""
    scale: float = 1.0
    """Factor with which papers print the value."""


class Verdict(NamedTuple):
    """The score of one image, from 0 to 1, and the reason if it is not 1."""

    score: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark, on the prompts that are measured."""

    name: str
    title: str
    prompts: PromptSet
    asked: list[Any]
    """What each measured prompt asks for, as plain data."""
    per_prompt: int
    """Images of each prompt in published numbers."""
    check_networks: Callable[[], None]
    """Refuses networks that cannot serve, by their configurations, before images are made."""
    open_examiner: Callable[[torch.device], Examiner]
    judge: Callable[[Finding, Any], Verdict]
    """Judges an image by its finding and what its prompt asks for."""
    measure: Callable[[Sequence[Sequence[Finding]]], dict[str, Measure]]
    """Computes the measures, the main one first, from the findings of each prompt's images."""
    conventions: list[str]
    """Sentences that say what the numbers can be compared with."""
    item_names: list[str] | None = None
    """Name of each prompt of the whole list, if published images are named after them."""
