"""Published pipelines that a dry run knows without the hub."""

from __future__ import annotations

from distill.networks.diffusers.published import flow_pipelines, pipelines
from distill.networks.diffusers.published.pipelines import VAE, PartConfigs

__all__ = ["PUBLISHED", "VAE", "PartConfigs"]

PUBLISHED: dict[str, tuple[str, PartConfigs]] = {**pipelines.PUBLISHED, **flow_pipelines.PUBLISHED}
"""Classes of the pipelines, and what gives the sizes of their parts, by their names on the hub."""
