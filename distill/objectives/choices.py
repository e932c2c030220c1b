"""Names of the choices that objectives and terms share."""

from __future__ import annotations

from typing import Literal

WeightingName = Literal["score", "prediction", "dmd"]
"""Weightings of an objective: docs/mathematics.md, section 5."""
Distance = Literal["l2", "pseudo_huber"]
"""Distances of scores or images."""
