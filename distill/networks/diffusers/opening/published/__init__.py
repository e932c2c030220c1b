"""Published diffusers pipelines by their names on the hub, for machines without the hub."""

from __future__ import annotations

from distill.networks.diffusers.opening.published import earlier, flow, further
from distill.networks.diffusers.opening.published.earlier import PartConfigs

__all__ = ["PUBLISHED", "PartConfigs"]

PUBLISHED: dict[str, tuple[str, PartConfigs]] = {
    **earlier.PUBLISHED,
    **further.PUBLISHED,
    **flow.PUBLISHED,
}
"""Pipelines that a dry run knows without the hub: their classes, and what gives the sizes of their parts."""
