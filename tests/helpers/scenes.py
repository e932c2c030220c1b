"""Small scenes, and runs that learn them."""

from __future__ import annotations

from typing import Any

RING: dict[str, Any] = {"name": "ring", "count": 4, "elevations": [20]}
"""Four cameras around the scene."""
KNOWN: dict[str, Any] = {
    "name": "known_scenes",
    "scenes": ["snowman", "tree"],
    "cameras": RING,
    "size": 8,
    "samples": 16,
}
"""A teacher that knows two scenes, as images of 8x8."""
GRID: dict[str, Any] = {"name": "scene", "resolution": 6, "width": 0, "samples": 8, "grid_rate": 1.0}
"""A scene of few points."""
EXACT_GRID: dict[str, Any] = {**GRID, "particles": 2, "cameras": RING, "stratified": False}
"""Two scenes whose images are finitely many, so that their distribution is known exactly."""
VSD: dict[str, Any] = {"name": "distribution_matching", "divergence": "reverse_kl", "weighting": "prediction"}
"""The objective of SDS and of VSD, which differ in the fake score."""


def scene_run(**settings: Any) -> dict[str, Any]:
    """Return settings of a run of `write_run` that learns two known scenes, changed by others."""
    return {
        "teacher": KNOWN,
        "batch_size": 4,
        "monitor_every": None,
        "generator": {"network": EXACT_GRID, "optimizer": {"name": "adam", "lr": 0.05}},
        "fake": {"network": {"name": "exact"}},
        "objective": VSD,
        **settings,
    }
