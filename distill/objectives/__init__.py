"""Objectives of the generator: pure functions from `Scores` to a loss per sample."""

from distill.objectives.distribution_matching import distribution_matching
from distill.objectives.expanded_divergence import EXACT_PARTS, PUBLISHED_PARTS, Parts, expanded_divergence
from distill.objectives.score_matching import score_matching

__all__ = [
    "EXACT_PARTS",
    "PUBLISHED_PARTS",
    "Parts",
    "distribution_matching",
    "expanded_divergence",
    "score_matching",
]
