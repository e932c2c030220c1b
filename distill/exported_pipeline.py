"""The former place of the pipeline classes, which exports that were written before version 0.2 import."""

from distill.publishing.diffusers_pipeline import ExportedNetwork, OneStepPipeline

__all__ = ["ExportedNetwork", "OneStepPipeline"]
