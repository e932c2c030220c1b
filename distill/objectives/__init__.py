"""Objectives, and everything that is minimised beside them: pure functions of tensors, and their settings.

The three objectives are imported on first use, so that reading their settings does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.objectives.gradients.distribution_matching import distribution_matching
    from distill.objectives.gradients.expanded_divergence import (
        EXACT_PARTS,
        PUBLISHED_PARTS,
        Parts,
        expanded_divergence,
    )
    from distill.objectives.gradients.score_matching import score_matching

__all__ = [
    "EXACT_PARTS",
    "PUBLISHED_PARTS",
    "Parts",
    "distribution_matching",
    "expanded_divergence",
    "score_matching",
]

_MODULES = {
    "distribution_matching": "distribution_matching",
    "score_matching": "score_matching",
    **dict.fromkeys(
        ("expanded_divergence", "EXACT_PARTS", "PUBLISHED_PARTS", "Parts"), "expanded_divergence"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'distill.objectives' has no attribute '{name}'")
    return getattr(importlib.import_module(f"distill.objectives.gradients.{_MODULES[name]}"), name)
