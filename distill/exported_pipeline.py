"""The old import path of the pipelines that exports written before version 0.2 name."""

from distill.publishing.diffusers_pipeline import ExportedNetwork, OneStepPipeline

__all__ = ["ExportedNetwork", "OneStepPipeline"]
